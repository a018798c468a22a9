/* hash_map.h - a hash table of links that live in what they find: adding allocates nothing
** but the buckets, and who holds a link has what it belongs to. */
#ifndef TIDE_CORE_HASH_MAP_H
#define TIDE_CORE_HASH_MAP_H

#include <stddef.h>
#include <stdint.h>

/* A key is up to three strings ("" where there are fewer), owned by the holder. */
typedef struct tide__link {
  struct tide__link *next;
  uint64_t hash;
  const char *key[3];
} tide__link;

/* All zero: empty. Not locked: one thread at a time. */
typedef struct tide__map {
  tide__link **buckets;
  size_t size; /* of buckets: 0 or a power of two */
  size_t count;
} tide__map;

/* NULL: not there. */
tide__link *tide__map_find(const tide__map *map, const char *a, const char *b, const char *c);

/* Adds a link with a key that is not there yet. 0: no memory, nothing changed. */
int tide__map_add(tide__map *map, tide__link *added);

/* Removes a link that is there. */
void tide__map_remove(tide__map *map, tide__link *removed);

/* Empties the map. `free_link` gets each link and may free it; NULL: they are others'. */
void tide__map_free(tide__map *map, void (*free_link)(tide__link *));

#endif
