/* contract.c - opening a store for each case, and the helpers of contract.h. */
#include "contract.h"

#include <bson/bson.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "mongodb/databases.h"

/* How each store gets a place of its own, named by the case's URI, and loses it again. */

static void make_memory(contract *c) {
  (void)snprintf(c->uri, sizeof c->uri, "memory:");
}

static void remove_memory(const contract *c) {
  (void)c;
}

static const char sqlite_scheme[] = "sqlite:";

static void make_folder(contract *c) {
  const char *parent = getenv("TMPDIR");
  int printed = snprintf(c->uri, sizeof c->uri, "%s%s/tidelog-contract-XXXXXX", sqlite_scheme,
                         parent != NULL && parent[0] != '\0' ? parent : "/tmp");
  assert_in_range(printed, 1, sizeof c->uri - 1);
  assert_non_null(mkdtemp(c->uri + strlen(sqlite_scheme)));
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *ftw) {
  (void)status, (void)type, (void)ftw;
  return remove(path);
}

static void remove_folder(const contract *c) {
  nftw(c->uri + strlen(sqlite_scheme), remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void make_databases(contract *c) {
  static int cases; /* so far: one server has them all */
  char mark[16];
  (void)snprintf(mark, sizeof mark, "c%d-", ++cases);
  databases_uri(getenv("TIDELOG_MONGODB_URI"), mark, c->uri, sizeof c->uri);
}

static void remove_databases(const contract *c) {
  databases_drop(c->uri);
}

typedef struct kind {
  const char *name;
  bool persistent;
  void (*make)(contract *c);
  void (*remove)(const contract *c);
} kind;

static const kind kinds[] = {{"memory", false, make_memory, remove_memory},
                             {"sqlite", true, make_folder, remove_folder},
                             {"mongodb", true, make_databases, remove_databases}};
static const kind *chosen; /* set once, before the first case */

bool contract_choose(const char *name) {
  for (size_t i = 0; i < COUNT(kinds); i++)
    if (strcmp(kinds[i].name, name) == 0) chosen = &kinds[i];
  return chosen != NULL && (chosen->make != make_databases || databases_have_server());
}

void contract_open(contract *c) {
  OK(c, tide__store_open(c->uri, NULL, &c->store, &c->error));
  assert_non_null(c->store);
}

void contract_close(contract *c) {
  tide__store_close(c->store);
  c->store = NULL;
}

void contract_reopen(contract *c) {
  if (!c->persistent) return;
  contract_close(c);
  contract_open(c);
}

tide_store *contract_open_second(contract *c) {
  tide_store *store = NULL;
  OK(c, tide__store_open(c->uri, NULL, &store, &c->error));
  return store;
}

void contract_needs_persistence(const contract *c) {
  if (!c->persistent) skip();
}

int contract_setup(void **state) {
  contract *c = calloc(1, sizeof *c);
  assert_non_null(c);
  *state = c;
  c->persistent = chosen->persistent;
  chosen->make(c);
  contract_open(c);
  return 0;
}

int contract_teardown(void **state) {
  contract *c = *state;
  tide__store_close(c->store);
  chosen->remove(c);
  for (size_t i = 0; i < c->bodies_count; i++)
    bson_destroy(c->bodies[i]);
  free(c->bodies);
  free(c);
  return 0;
}

void contract_expect(int got, int code, const char *argument, tide_error *error, const char *call,
                     const char *file, int line) {
  bool good = got == code && error->code == code;
  if (code == TIDE_OK) {
    good = good && error->message[0] == '\0' && error->argument[0] == '\0';
  } else {
    good = good && error->message[0] != '\0' && strchr(error->message, '\n') == NULL;
    good = good && (argument == NULL || strcmp(error->argument, argument) == 0);
  }
  if (!good) {
    print_error("%s\n  expected %d %s '%s', got %d; error: %d '%s' '%s'\n", call, code,
                tide_error_name(code), argument == NULL ? "any" : argument, got, error->code,
                error->argument, error->message);
    _fail(file, line);
  }
  memset(error, 0, sizeof *error);
}

static tide_bytes keep(contract *c, bson_t *bson) {
  void **grown = realloc(c->bodies, (c->bodies_count + 1) * sizeof *grown);
  assert_non_null(grown);
  c->bodies = grown;
  c->bodies[c->bodies_count++] = bson;
  return (tide_bytes){(uint8_t *)(uintptr_t)bson_get_data(bson), bson->len};
}

tide_bytes contract_body(contract *c, int64_t n) {
  bson_t *bson = bson_new();
  bson_append_int64(bson, "n", -1, n);
  bson_append_double(bson, "x", -1, -0.0);
  bson_append_utf8(bson, "text", -1, "\0 z\xc3\xbc 'quoted'", 14); /* a NUL inside */
  return keep(c, bson);
}

tide_bytes contract_body_of_size(contract *c, size_t size) {
  const size_t frame = 4 + (1 + 2 + 4 + 1) + 1; /* a binary element with the key "b" */
  uint8_t *bytes = malloc(size);
  assert_non_null(bytes);
  for (size_t i = 0; i < size; i++)
    bytes[i] = (uint8_t)(i * 31 + i / 251);
  bson_t *bson = bson_new();
  assert_true(
      bson_append_binary(bson, "b", -1, BSON_SUBTYPE_BINARY, bytes, (uint32_t)(size - frame)));
  free(bytes);
  assert_int_equal(bson->len, size);
  return keep(c, bson);
}

tide_commit contract_commit(contract *c, const char *type, const char *id, int64_t version,
                            int32_t count, const char *command_id) {
  const tide_bytes body = contract_body(c, (int64_t)c->bodies_count);
  return (tide_commit){.type = type,
                       .id = id,
                       .command_id = command_id,
                       .version = version,
                       .count = count,
                       .body = body.data,
                       .body_size = body.size};
}

tide_outcome contract_append(contract *c, const char *tenant, tide_commit *commit) {
  tide_outcome outcome = 0;
  OK(c, tide__store_append(c->store, tenant, commit, 1, &outcome, &c->error));
  return outcome;
}

tide_commit contract_put(contract *c, const char *tenant, const char *type, const char *id,
                         int64_t version, int32_t count) {
  tide_commit commit = contract_commit(c, type, id, version, count, NULL);
  assert_int_equal(contract_append(c, tenant, &commit), TIDE_APPENDED);
  return commit;
}

void contract_same(const tide_commit *expected, const tide_commit *got) {
  assert_string_equal(got->type, expected->type);
  assert_string_equal(got->id, expected->id);
  if (expected->command_id == NULL) {
    assert_null(got->command_id);
  } else {
    assert_non_null(got->command_id);
    assert_string_equal(got->command_id, expected->command_id);
  }
  assert_int_equal(got->version, expected->version);
  assert_int_equal(got->count, expected->count);
  assert_int_equal(got->body_size, expected->body_size);
  assert_true(memcmp(got->body, expected->body, expected->body_size) == 0);
  assert_int_equal(got->position, expected->position);
  assert_int_equal(got->time, expected->time);
  assert_memory_equal(got->hash, expected->hash, TIDE_HASH_SIZE);
}

void contract_next_is(contract *c, tide_scan *scan, const tide_commit *expected) {
  const tide_commit *commit = NULL;
  OK(c, tide__scan_next(scan, &commit, &c->error));
  if (expected == NULL) {
    assert_null(commit);
  } else {
    assert_non_null(commit);
    contract_same(expected, commit);
  }
}

void contract_scan_gives(contract *c, const char *tenant, const tide_query *query,
                         const tide_commit *const *expected, size_t count) {
  tide_scan *scan = NULL;
  OK(c, tide__store_scan(c->store, tenant, query, &scan, &c->error));
  for (size_t i = 0; i < count; i++)
    contract_next_is(c, scan, expected[i]);
  contract_next_is(c, scan, NULL);
  tide__scan_close(scan);
}

int64_t contract_verify(contract *c, const char *tenant) {
  tide_head head = {0}, end;
  tide_scan *scan = NULL;
  const tide_query all = {0};
  int64_t commits = 0, checked_commits = -1, checked_events = -1;
  OK(c, tide__store_head(c->store, tenant, &end, &c->error));
  OK(c, tide__store_scan(c->store, tenant, &all, &scan, &c->error));
  for (;; commits++) {
    const tide_commit *commit = NULL;
    OK(c, tide__scan_next(scan, &commit, &c->error));
    if (commit == NULL) break;
    OK(c, tide__commit_verify(commit, &head, &c->error));
  }
  tide__scan_close(scan);
  assert_int_equal(head.position, end.position);
  assert_int_equal(head.time, end.time);
  assert_memory_equal(head.hash, end.hash, TIDE_HASH_SIZE);
  OK(c, tide__store_check(c->store, tenant, &checked_commits, &checked_events, &c->error));
  assert_int_equal(checked_commits, commits);
  assert_int_equal(checked_events, end.position);
  return end.position;
}

void contract_document_is(contract *c, const char *tenant, const char *path,
                          const tide_bytes *expected) {
  tide_bytes body = {0};
  OK(c, tide__store_get_document(c->store, tenant, path, NULL, &body, NULL, &c->error));
  if (expected == NULL) {
    assert_null(body.data);
  } else {
    assert_non_null(body.data);
    assert_int_equal(body.size, expected->size);
    assert_true(memcmp(body.data, expected->data, expected->size) == 0);
  }
  tide__bytes_free(&body);
}

int64_t contract_lease(contract *c, const char *thread, const char *owner, int64_t duration) {
  tide_lease lease;
  OK(c, tide__store_lease(c->store, T, thread, owner, duration, &lease, &c->error));
  assert_true(lease.held);
  assert_non_null(lease.cursors.data);
  tide__bytes_free(&lease.cursors);
  return lease.token;
}

void contract_sleep(int ms) {
  struct timespec left = {ms / 1000, (long)(ms % 1000) * 1000000};
  while (nanosleep(&left, &left) != 0)
    continue;
}
