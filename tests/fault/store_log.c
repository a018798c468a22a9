/* store_log.c - the log at the store's level, for crash_store.lua: a writer that is killed,
** and the checker of what it left.
**
**   fault_store_log write FOLDER WRITER SEED   writes until it is killed (60 s at most)
**   fault_store_log check FOLDER ACKS          every commit byte for byte
**
** A commit's body follows from its writer, group and index, so that the checker can make it
** again. The writer prints a line for each acknowledged commit of a group before it goes on:
** position, id, version, count, writer, group, index, hash. */
#include <bson/bson.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stores/store.h"

#define TENANT     "tenant1"
#define TYPE       "Log"
#define SHARED     4  /* aggregates that all writers write */
#define OWN        6  /* aggregates of each writer         */
#define GROUP_MOST 12 /* commits                           */
#define SECONDS    60
#define HEX_SIZE   (2 * TIDE_HASH_SIZE + 1)

typedef struct chance {
  uint64_t state;
} chance;

static uint64_t next_random(chance *r) { /* splitmix64, Vigna 2015 */
  uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

static int below(chance *r, int limit) {
  return (int)(next_random(r) % (uint64_t)limit);
}

static void *need(void *memory) {
  if (memory == NULL) {
    (void)fputs("store_log: out of memory\n", stderr);
    exit(1);
  }
  return memory;
}

static void hex(const uint8_t *hash, char *text) {
  for (int i = 0; i < TIDE_HASH_SIZE; i++)
    (void)snprintf(text + (ptrdiff_t)2 * i, 3, "%02x", hash[i]);
}

/* The body of a commit; `own` groups are of `size` commits, all on the writer's own
** aggregates: they are there whole or not at all. */
static bson_t *make_body(int writer, int64_t group, int index, int size, bool own) {
  chance r = {(uint64_t)writer << 48 ^ (uint64_t)group << 8 ^ (uint64_t)index};
  int length = below(&r, 400);
  if (below(&r, 60) == 0) length = below(&r, 150000);
  uint8_t *filling = need(malloc((size_t)length + 1));
  for (int i = 0; i < length; i++)
    filling[i] = (uint8_t)next_random(&r);
  bson_t *body = need(bson_new());
  BSON_APPEND_INT32(body, "writer", writer);
  BSON_APPEND_INT64(body, "group", group);
  BSON_APPEND_INT32(body, "index", index);
  BSON_APPEND_INT32(body, "size", size);
  BSON_APPEND_BOOL(body, "own", own);
  BSON_APPEND_BINARY(body, "filling", BSON_SUBTYPE_BINARY, filling, (uint32_t)length);
  free(filling);
  return body;
}

/* ---- write -------------------------------------------------------------------------- */

typedef struct writer {
  const char *folder;
  int number;
  chance random;
  tide_store *store;
  int64_t next[SHARED + OWN]; /* versions */
  char ids[SHARED + OWN][32];
  int64_t conflicts;
} writer;

static void fail(const char *doing, const tide_error *error) {
  (void)fprintf(stderr, "store_log: %s: %s\n", doing, error->message);
  exit(1);
}

static void open_store(writer *w) {
  char uri[4200];
  tide_error error = {0};
  (void)snprintf(uri, sizeof uri, "sqlite:%s", w->folder);
  if (tide__store_open(uri, NULL, &w->store, &error) != TIDE_OK) fail("open", &error);
}

static void read_version(writer *w, int aggregate) {
  const tide_query last = {
      .type = TYPE, .id = w->ids[aggregate], .from = INT64_MAX, .backwards = true, .limit = 1};
  const tide_commit *commit = NULL;
  tide_scan *scan = NULL;
  tide_error error = {0};
  if (tide__store_scan(w->store, TENANT, &last, &scan, &error) != TIDE_OK ||
      tide__scan_next(scan, &commit, &error) != TIDE_OK)
    fail("scan", &error);
  w->next[aggregate] = commit == NULL ? 0 : commit->version + commit->count;
  tide__scan_close(scan);
}

static void write_group(writer *w, int64_t group) {
  tide_commit commits[GROUP_MOST];
  tide_outcome outcomes[GROUP_MOST];
  int aggregates[GROUP_MOST];
  bson_t *bodies[GROUP_MOST];
  char command_ids[GROUP_MOST][48];
  char text[GROUP_MOST * 256];
  size_t used = 0;
  tide_error error = {0};
  const bool own = below(&w->random, 3) > 0;
  const int size = below(&w->random, 3) == 0 ? 1 : 1 + below(&w->random, GROUP_MOST);
  int64_t next[SHARED + OWN];
  memcpy(next, w->next, sizeof next);
  for (int i = 0; i < size; i++) {
    const int a = own ? SHARED + below(&w->random, OWN) : below(&w->random, SHARED);
    aggregates[i] = a;
    bodies[i] = make_body(w->number, group, i, size, own);
    commits[i] = (tide_commit){.type = TYPE, .id = w->ids[a], .version = next[a]};
    commits[i].count = 1 + below(&w->random, 5);
    commits[i].body = bson_get_data(bodies[i]);
    commits[i].body_size = bodies[i]->len;
    (void)snprintf(command_ids[i], sizeof command_ids[i], "%d-%" PRId64 "-%d", w->number, group, i);
    if (below(&w->random, 2) == 0) commits[i].command_id = command_ids[i];
    next[a] += commits[i].count;
  }
  if (tide__store_append(w->store, TENANT, commits, (size_t)size, outcomes, &error) != TIDE_OK)
    fail("append", &error);
  for (int i = 0; i < size; i++) {
    char digits[HEX_SIZE];
    const tide_commit *c = &commits[i];
    bson_destroy(bodies[i]);
    if (outcomes[i] != TIDE_APPENDED) {
      w->conflicts++;
      continue;
    }
    w->next[aggregates[i]] = c->version + c->count;
    hex(c->hash, digits);
    used += (size_t)snprintf(text + used, sizeof text - used,
                             "%" PRId64 " %s %" PRId64 " %d %d %" PRId64 " %d %s\n", c->position,
                             c->id, c->version, (int)c->count, w->number, group, i, digits);
  }
  for (size_t done = 0; done < used;) {
    const ssize_t wrote = write(1, text + done, used - done);
    if (wrote < 0) exit(1);
    done += (size_t)wrote;
  }
  for (int i = 0; i < size; i++)
    if (outcomes[i] != TIDE_APPENDED) read_version(w, aggregates[i]);
}

static int run_writer(const char *folder, int number, uint64_t seed) {
  writer *w = need(calloc(1, sizeof *w));
  const time_t until = time(NULL) + SECONDS;
  w->folder = folder;
  w->number = number;
  w->random.state = seed;
  for (int i = 0; i < SHARED + OWN; i++)
    (void)snprintf(w->ids[i], sizeof w->ids[i], i < SHARED ? "shared%d" : "own%d-%d",
                   i < SHARED ? i : number, i - SHARED);
  open_store(w);
  for (int i = 0; i < SHARED; i++)
    read_version(w, i);
  for (int64_t group = 0; time(NULL) < until; group++) {
    write_group(w, group);
    if (below(&w->random, 40) == 0) { /* the last one folds the log in and deletes it */
      tide__store_close(w->store);
      open_store(w);
    }
  }
  tide__store_close(w->store);
  free(w);
  return 0;
}

/* ---- check ---------------------------------------------------------------------------- */

typedef struct ack {
  int64_t position, version, group;
  int count, writer, index;
  bool found;
  char id[32], hash[HEX_SIZE];
} ack;

/* An unacknowledged group of a writer that was killed. */
typedef struct ending {
  int64_t acknowledged, group; /* -1: none */
  int size, found;
  bool own;
} ending;

#define WRITERS 4096

typedef struct aggregate {
  char id[32];
  int64_t next;
} aggregate;

typedef struct checker {
  ack *acks;
  size_t count, room, at;
  ending endings[WRITERS];
  aggregate *aggregates;
  size_t aggregate_count;
  int64_t commits, events, acknowledged, unacknowledged, wrong;
} checker;

static int by_position(const void *a, const void *b) {
  const int64_t x = ((const ack *)a)->position, y = ((const ack *)b)->position;
  return (x > y) - (x < y);
}

static void wrong(checker *c, const char *what, int64_t position) {
  if (c->wrong++ < 10) (void)printf("wrong: %s at position %" PRId64 "\n", what, position);
}

static void read_acks(checker *c, const char *path) {
  char line[512];
  FILE *file = fopen(path, "r");
  if (file == NULL) {
    perror(path);
    exit(1);
  }
  while (fgets(line, sizeof line, file) != NULL) {
    if (c->count == c->room) {
      c->room = c->room == 0 ? 4096 : c->room * 2;
      c->acks = need(realloc(c->acks, c->room * sizeof *c->acks));
    }
    ack *a = &c->acks[c->count];
    memset(a, 0, sizeof *a);
    if (sscanf(line, "%" SCNd64 " %31s %" SCNd64 " %d %d %" SCNd64 " %d %64s", &a->position, a->id,
               &a->version, &a->count, &a->writer, &a->group, &a->index, a->hash) != 8 ||
        a->writer < 0 || a->writer >= WRITERS) {
      (void)fprintf(stderr, "store_log: no acknowledgement: %s\n", line);
      exit(1);
    }
    if (c->endings[a->writer].acknowledged < a->group)
      c->endings[a->writer].acknowledged = a->group;
    c->count++;
  }
  (void)fclose(file); /* it was only read */
  if (c->count > 0) qsort(c->acks, c->count, sizeof *c->acks, by_position);
}

static aggregate *find_aggregate(checker *c, const char *id) {
  for (size_t i = 0; i < c->aggregate_count; i++)
    if (strcmp(c->aggregates[i].id, id) == 0) return &c->aggregates[i];
  c->aggregates = need(realloc(c->aggregates, (c->aggregate_count + 1) * sizeof *c->aggregates));
  aggregate *added = &c->aggregates[c->aggregate_count++];
  memset(added, 0, sizeof *added);
  (void)snprintf(added->id, sizeof added->id, "%s", id);
  return added;
}

typedef struct fields {
  int writer, index, size;
  int64_t group;
  bool own;
} fields;

static bool read_fields(const tide_commit *commit, fields *to) {
  bson_t body;
  bson_iter_t iter;
  if (!bson_init_static(&body, commit->body, commit->body_size) || !bson_iter_init(&iter, &body))
    return false;
  memset(to, 0, sizeof *to);
  while (bson_iter_next(&iter)) {
    const char *key = bson_iter_key(&iter);
    if (strcmp(key, "writer") == 0) to->writer = (int)bson_iter_as_int64(&iter);
    if (strcmp(key, "group") == 0) to->group = bson_iter_as_int64(&iter);
    if (strcmp(key, "index") == 0) to->index = (int)bson_iter_as_int64(&iter);
    if (strcmp(key, "size") == 0) to->size = (int)bson_iter_as_int64(&iter);
    if (strcmp(key, "own") == 0) to->own = bson_iter_as_bool(&iter);
  }
  return to->writer >= 0 && to->writer < WRITERS;
}

static void check_commit(checker *c, const tide_commit *commit) {
  fields f;
  char digits[HEX_SIZE], command_id[48];
  if (commit->position != c->events) wrong(c, "a gap", commit->position);
  c->events = commit->position + commit->count;
  c->commits++;
  aggregate *a = find_aggregate(c, commit->id);
  if (commit->version != a->next) wrong(c, "a version", commit->position);
  a->next = commit->version + commit->count;
  if (!read_fields(commit, &f)) {
    wrong(c, "a body", commit->position);
    return;
  }
  bson_t *body = make_body(f.writer, f.group, f.index, f.size, f.own);
  if (body->len != commit->body_size || memcmp(bson_get_data(body), commit->body, body->len) != 0)
    wrong(c, "a byte of a body", commit->position);
  bson_destroy(body);
  (void)snprintf(command_id, sizeof command_id, "%d-%" PRId64 "-%d", f.writer, f.group, f.index);
  if (commit->command_id != NULL && strcmp(commit->command_id, command_id) != 0)
    wrong(c, "a command id", commit->position);
  while (c->at < c->count && c->acks[c->at].position < commit->position)
    c->at++;
  ack *k = c->at < c->count ? &c->acks[c->at] : NULL;
  if (k != NULL && k->position == commit->position) {
    hex(commit->hash, digits);
    k->found = strcmp(k->id, commit->id) == 0 && k->version == commit->version &&
               k->count == commit->count && strcmp(k->hash, digits) == 0 && k->writer == f.writer &&
               k->group == f.group && k->index == f.index;
    if (k->found)
      c->acknowledged++;
    else
      wrong(c, "another commit than the acknowledged one", commit->position);
    return;
  }
  c->unacknowledged++;
  ending *e = &c->endings[f.writer];
  /* A writer says a group before the next one, so that only its last can be unsaid; a part
  ** of its lines may have come through. */
  if (f.group < e->acknowledged) wrong(c, "a commit of a group that was passed", commit->position);
  if (e->group >= 0 && e->group != f.group) wrong(c, "a second unsaid group", commit->position);
  e->group = f.group;
  e->size = f.size;
  e->own = f.own;
  e->found++;
}

static int run_checker(const char *folder, const char *path) {
  char uri[4200];
  checker *c = need(calloc(1, sizeof *c));
  const tide_query all = {0};
  const tide_commit *commit = NULL;
  tide_store *store = NULL;
  tide_scan *scan = NULL;
  tide_error error = {0};
  int64_t commits = 0, events = 0, lost = 0;
  for (int i = 0; i < WRITERS; i++)
    c->endings[i].acknowledged = c->endings[i].group = -1;
  read_acks(c, path);
  (void)snprintf(uri, sizeof uri, "sqlite:%s", folder);
  if (tide__store_open(uri, NULL, &store, &error) != TIDE_OK) fail("open", &error);
  if (tide__store_check(store, TENANT, &commits, &events, &error) != TIDE_OK) fail("check", &error);
  if (tide__store_scan(store, TENANT, &all, &scan, &error) != TIDE_OK) fail("scan", &error);
  for (;;) {
    if (tide__scan_next(scan, &commit, &error) != TIDE_OK) fail("scan", &error);
    if (commit == NULL) break;
    check_commit(c, commit);
  }
  tide__scan_close(scan);
  tide__store_close(store);
  for (size_t i = 0; i < c->count; i++)
    lost += c->acks[i].found ? 0 : 1;
  for (int i = 0; i < WRITERS; i++) {
    const ending *e = &c->endings[i];
    if (e->group > e->acknowledged && e->own && e->found != e->size)
      wrong(c, "half of a group of the writer with the number", i);
  }
  if (commits != c->commits || events != c->events) wrong(c, "the check's count", events);
  (void)printf("%" PRId64 " %" PRId64 " %zu %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n",
               c->commits, c->events, c->count, c->acknowledged, lost, c->unacknowledged, c->wrong);
  const int status = lost == 0 && c->wrong == 0 ? 0 : 1;
  free(c->acks);
  free(c->aggregates);
  free(c);
  return status;
}

int main(int count, char **arguments) {
  if (count == 5 && strcmp(arguments[1], "write") == 0)
    return run_writer(arguments[2], (int)strtol(arguments[3], NULL, 10),
                      strtoull(arguments[4], NULL, 10));
  if (count == 4 && strcmp(arguments[1], "check") == 0)
    return run_checker(arguments[2], arguments[3]);
  (void)fputs("usage: store_log write FOLDER WRITER SEED | check FOLDER ACKS\n", stderr);
  return 2;
}
