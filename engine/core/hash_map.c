/* hash_map.c - a hash table of links that live in what they find. */
#include "core/hash_map.h"

#include <stdlib.h>
#include <string.h>

/* FNV-1a; each string's NUL is part of it, so that ("ab", "c") is not ("a", "bc"). */
static uint64_t hash_key(const char *const key[3]) {
  uint64_t hash = UINT64_C(14695981039346656037);
  for (int i = 0; i < 3; i++) {
    const char *c = key[i];
    do {
      hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
    } while (*c++ != '\0');
  }
  return hash ^ (hash >> 32);
}

tide__link *tide__map_find(const tide__map *map, const char *a, const char *b, const char *c) {
  if (map->count == 0) return NULL;
  const char *const key[3] = {a, b, c};
  const uint64_t hash = hash_key(key);
  for (tide__link *l = map->buckets[hash & (map->size - 1)]; l != NULL; l = l->next) {
    if (l->hash == hash && strcmp(l->key[0], a) == 0 && strcmp(l->key[1], b) == 0 &&
        strcmp(l->key[2], c) == 0) {
      return l;
    }
  }
  return NULL;
}

int tide__map_add(tide__map *map, tide__link *added) {
  if (map->count >= map->size) {
    const size_t size = map->size == 0 ? 16 : map->size * 2;
    tide__link **buckets = calloc(size, sizeof(tide__link *));
    if (buckets == NULL && map->size == 0) return 0;
    /* One that cannot grow goes on with longer chains. */
    if (buckets != NULL) {
      for (size_t i = 0; i < map->size; i++) {
        for (tide__link *l = map->buckets[i], *next; l != NULL; l = next) {
          next = l->next;
          l->next = buckets[l->hash & (size - 1)];
          buckets[l->hash & (size - 1)] = l;
        }
      }
      free(map->buckets);
      map->buckets = buckets;
      map->size = size;
    }
  }
  added->hash = hash_key(added->key);
  tide__link **bucket = &map->buckets[added->hash & (map->size - 1)];
  added->next = *bucket;
  *bucket = added;
  map->count++;
  return 1;
}

void tide__map_remove(tide__map *map, tide__link *removed) {
  tide__link **l = &map->buckets[removed->hash & (map->size - 1)];
  while (*l != removed) {
    l = &(*l)->next;
  }
  *l = removed->next;
  map->count--;
}

void tide__map_free(tide__map *map, void (*free_link)(tide__link *)) {
  for (size_t i = 0; i < map->size && free_link != NULL; i++) {
    for (tide__link *l = map->buckets[i], *next; l != NULL; l = next) {
      next = l->next;
      free_link(l);
    }
  }
  free(map->buckets);
  *map = (tide__map){0};
}
