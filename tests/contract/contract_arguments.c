/* contract_arguments.c - every pointer may be NULL and every number wrong: an error, never
** a crash, and nothing written. */
#include "contract.h"

/* Fails in the same way with an error and without one (NULL). */
#define BAD(code, argument, ...)                                                                   \
  do {                                                                                             \
    tide_error *error = &c->error;                                                                 \
    REFUSED(c, code, argument, __VA_ARGS__);                                                       \
    error = NULL;                                                                                  \
    assert_int_equal(__VA_ARGS__, code);                                                           \
  } while (0)
#define MISSING(argument, ...) BAD(TIDE_MISSING_ARGUMENT, argument, __VA_ARGS__)
#define INVALID(argument, ...) BAD(TIDE_INVALID_ARGUMENT, argument, __VA_ARGS__)

static void nothing_was_written(contract *c) {
  tide_bytes names;
  size_t count = 99;
  OK(c, tide__store_tenants(c->store, &names, &count, &c->error));
  assert_int_equal(count, 0);
}

static void test_open_refuses_what_is_no_store(void **state) {
  contract *c = *state;
  tide_store *store = c->store;
  static const char *const bad[] = {"memory",    "memory:x", "sqlite",        "mongo",
                                    ":",         "file:x",   "Memory:",       " memory:",
                                    "sqlite3:x", "/tmp",     "user:secret@x", "\xff:"};
  for (size_t i = 0; i < COUNT(bad); i++) {
    store = c->store;
    INVALID("uri", tide__store_open(bad[i], NULL, &store, error));
    assert_null(store);
  }
  MISSING("uri", tide__store_open(NULL, NULL, &store, error));
  MISSING("uri", tide__store_open("", NULL, &store, error));
  MISSING("store", tide__store_open(c->uri, NULL, NULL, error));
  const tide_store_options timeout = {.busy_timeout = -1}, open = {.max_open = -1};
  INVALID(NULL, tide__store_open(c->uri, &timeout, &store, error));
  INVALID(NULL, tide__store_open(c->uri, &open, &store, error));
  tide__store_close(NULL);
}

static void test_open_never_shows_what_follows_the_scheme(void **state) {
  contract *c = *state;
  tide_store *store;
  tide_error error = {0};
  assert_int_equal(tide__store_open("mysql://user:secret@host", NULL, &store, &error),
                   TIDE_INVALID_ARGUMENT);
  assert_null(strstr(error.message, "secret"));
  assert_null(strstr(error.argument, "secret"));
  (void)c;
}

static void test_append_refuses_bad_arguments(void **state) {
  contract *c = *state;
  const tide_commit good = contract_commit(c, "Adder", "a", 0, 1, NULL);
  tide_commit commit = good;
  tide_outcome outcome;
  MISSING("store", tide__store_append(NULL, T, &commit, 1, &outcome, error));
  MISSING("tenant", tide__store_append(c->store, NULL, &commit, 1, &outcome, error));
  MISSING("tenant", tide__store_append(c->store, "", &commit, 1, &outcome, error));
  MISSING("commits", tide__store_append(c->store, T, NULL, 1, &outcome, error));
  MISSING("commits", tide__store_append(c->store, T, &commit, 0, &outcome, error));
  MISSING("outcomes", tide__store_append(c->store, T, &commit, 1, NULL, error));
  commit.type = NULL;
  MISSING("aggregateType", tide__store_append(c->store, T, &commit, 1, &outcome, error));
  commit = good;
  commit.id = NULL;
  MISSING("aggregateId", tide__store_append(c->store, T, &commit, 1, &outcome, error));
  static const int64_t versions[] = {-1, INT64_MIN, INT64_MAX};
  for (size_t i = 0; i < COUNT(versions); i++) {
    commit = good;
    commit.version = versions[i];
    INVALID("version", tide__store_append(c->store, T, &commit, 1, &outcome, error));
  }
  static const int32_t counts[] = {0, -1, INT32_MIN};
  for (size_t i = 0; i < COUNT(counts); i++) {
    commit = good;
    commit.count = counts[i];
    INVALID("count", tide__store_append(c->store, T, &commit, 1, &outcome, error));
  }
  nothing_was_written(c);
}

static void test_bodies_that_are_no_document_are_refused(void **state) {
  contract *c = *state;
  static const struct {
    uint8_t bytes[8];
    size_t size;
  } bad[] = {
      {{0}, 0},
      {{5}, 1},
      {{4, 0, 0, 0}, 4},
      {{5, 0, 0, 0, 1}, 5},             /* does not end in 0 */
      {{6, 0, 0, 0, 0}, 5},             /* longer than it is */
      {{5, 0, 0, 0, 0, 0}, 6},          /* shorter than it is */
      {{0, 0, 0, 5, 0}, 5},             /* the other byte order */
      {{0xFF, 0xFF, 0xFF, 0xFF, 0}, 5}, /* -1 */
      {{5, 0, 0, 0x80, 0}, 5},
  };
  for (size_t i = 0; i <= COUNT(bad); i++) {
    const uint8_t *bytes = i < COUNT(bad) ? bad[i].bytes : NULL;
    const size_t size = i < COUNT(bad) ? bad[i].size : 8;
    const tide_bytes body = {(uint8_t *)(uintptr_t)bytes, size};
    const tide_snapshot snapshot = {.version = 0, .state = body};
    const tide_document document = {"/d", bytes, size, NULL, 0};
    tide_commit commit = contract_commit(c, "Adder", "a", 0, 1, NULL);
    tide_outcome outcome;
    commit.body = bytes;
    commit.body_size = size;
    INVALID("body", tide__store_append(c->store, T, &commit, 1, &outcome, error));
    INVALID("snapshot", tide__store_put_snapshot(c->store, T, "Adder", "a", &snapshot, error));
    INVALID("cursors", tide__store_commit_cursors(c->store, T, "thread", "owner", 1, &body, NULL, 0,
                                                  false, error));
    if (bytes != NULL)
      INVALID("document", tide__store_put_documents(c->store, T, &document, 1, error));
  }
  nothing_was_written(c);
}

static void test_reads_refuse_bad_arguments(void **state) {
  contract *c = *state;
  tide_store *const s = c->store;
  tide_scan *scan = NULL;
  tide_head head;
  const tide_commit *commit;
  int64_t position, version;
  const tide_query all = {0}, type_only = {.type = "Adder"}, id_only = {.id = "a"},
                   before = {.from = -1}, few = {.limit = -1};
  MISSING("store", tide__store_scan(NULL, T, &all, &scan, error));
  MISSING("tenant", tide__store_scan(s, NULL, &all, &scan, error));
  MISSING("query", tide__store_scan(s, T, NULL, &scan, error));
  MISSING("scan", tide__store_scan(s, T, &all, NULL, error));
  MISSING("aggregateId", tide__store_scan(s, T, &type_only, &scan, error));
  MISSING("aggregateType", tide__store_scan(s, T, &id_only, &scan, error));
  INVALID("from", tide__store_scan(s, T, &before, &scan, error));
  INVALID("limit", tide__store_scan(s, T, &few, &scan, error));
  assert_null(scan);
  MISSING("scan", tide__scan_next(NULL, &commit, error));
  OK(c, tide__store_scan(s, T, &all, &scan, &c->error));
  MISSING("commit", tide__scan_next(scan, NULL, error));
  tide__scan_close(scan);

  MISSING("store", tide__store_head(NULL, T, &head, error));
  MISSING("tenant", tide__store_head(s, NULL, &head, error));
  MISSING("head", tide__store_head(s, T, NULL, error));

  MISSING("store", tide__store_find_command(NULL, T, "A", "a", "c", &position, &version, error));
  MISSING("tenant", tide__store_find_command(s, NULL, "A", "a", "c", &position, &version, error));
  MISSING("aggregateType",
          tide__store_find_command(s, T, NULL, "a", "c", &position, &version, error));
  MISSING("aggregateId",
          tide__store_find_command(s, T, "A", NULL, "c", &position, &version, error));
  MISSING("commandId", tide__store_find_command(s, T, "A", "a", NULL, &position, &version, error));
  MISSING("position", tide__store_find_command(s, T, "A", "a", "c", NULL, &version, error));
  MISSING("version", tide__store_find_command(s, T, "A", "a", "c", &position, NULL, error));

  MISSING("store", tide__store_check(NULL, T, &position, &version, error));
  MISSING("tenant", tide__store_check(s, NULL, &position, &version, error));
  OK(c, tide__store_check(s, T, NULL, NULL, &c->error)); /* who does not want the counts */
  nothing_was_written(c);
}

static void test_snapshots_refuse_bad_arguments(void **state) {
  contract *c = *state;
  tide_store *const s = c->store;
  tide_snapshot got, good = {.version = 0, .state = contract_body(c, 1)}, bad = good;
  MISSING("store", tide__store_get_snapshot(NULL, T, "A", "a", &got, error));
  MISSING("tenant", tide__store_get_snapshot(s, NULL, "A", "a", &got, error));
  MISSING("aggregateType", tide__store_get_snapshot(s, T, NULL, "a", &got, error));
  MISSING("aggregateId", tide__store_get_snapshot(s, T, "A", NULL, &got, error));
  MISSING("snapshot", tide__store_get_snapshot(s, T, "A", "a", NULL, error));
  MISSING("store", tide__store_put_snapshot(NULL, T, "A", "a", &good, error));
  MISSING("tenant", tide__store_put_snapshot(s, NULL, "A", "a", &good, error));
  MISSING("aggregateType", tide__store_put_snapshot(s, T, NULL, "a", &good, error));
  MISSING("aggregateId", tide__store_put_snapshot(s, T, "A", NULL, &good, error));
  MISSING("snapshot", tide__store_put_snapshot(s, T, "A", "a", NULL, error));
  bad.version = -1;
  INVALID("version", tide__store_put_snapshot(s, T, "A", "a", &bad, error));
  bad = good;
  bad.state = (tide_bytes){NULL, 0};
  INVALID("snapshot", tide__store_put_snapshot(s, T, "A", "a", &bad, error));
  nothing_was_written(c);
}

static void test_leases_refuse_bad_arguments(void **state) {
  contract *c = *state;
  tide_store *const s = c->store;
  tide_lease lease;
  const tide_bytes body = contract_body(c, 1), none = {NULL, 0};
  const tide_document no_path = {NULL, body.data, body.size, NULL, 0};
  MISSING("store", tide__store_lease(NULL, T, "t", "o", 1, &lease, error));
  MISSING("tenant", tide__store_lease(s, NULL, "t", "o", 1, &lease, error));
  MISSING("thread", tide__store_lease(s, T, NULL, "o", 1, &lease, error));
  MISSING("owner", tide__store_lease(s, T, "t", NULL, 1, &lease, error));
  MISSING("lease", tide__store_lease(s, T, "t", "o", 1, NULL, error));
  static const int64_t durations[] = {0, -1, INT64_MIN, TIDE_LEASE_MAX + 1, INT64_MAX};
  for (size_t i = 0; i < COUNT(durations); i++)
    INVALID(NULL, tide__store_lease(s, T, "t", "o", durations[i], &lease, error));
#define COMMIT(store, tenant, thread, owner, cursors, documents, count)                            \
  tide__store_commit_cursors(store, tenant, thread, owner, 1, cursors, documents, count, false,    \
                             error)
  MISSING("store", COMMIT(NULL, T, "t", "o", &body, NULL, 0));
  MISSING("tenant", COMMIT(s, NULL, "t", "o", &body, NULL, 0));
  MISSING("thread", COMMIT(s, T, NULL, "o", &body, NULL, 0));
  MISSING("owner", COMMIT(s, T, "t", NULL, &body, NULL, 0));
  INVALID("cursors", COMMIT(s, T, "t", "o", &none, NULL, 0));
  MISSING("documents", COMMIT(s, T, "t", "o", &body, NULL, 1));
  MISSING("path", COMMIT(s, T, "t", "o", &body, &no_path, 1));
  nothing_was_written(c);
}

static void test_documents_refuse_bad_arguments(void **state) {
  contract *c = *state;
  tide_store *const s = c->store;
  tide_bytes bytes;
  size_t count;
  const tide_bytes body = contract_body(c, 1);
  const tide_document good = {"/d", body.data, body.size, NULL, 0},
                      no_path = {NULL, body.data, body.size, NULL, 0};
  MISSING("store", tide__store_put_documents(NULL, T, &good, 1, error));
  MISSING("tenant", tide__store_put_documents(s, NULL, &good, 1, error));
  MISSING("documents", tide__store_put_documents(s, T, NULL, 1, error));
  MISSING("path", tide__store_put_documents(s, T, &no_path, 1, error));
  OK(c, tide__store_put_documents(s, T, NULL, 0, &c->error)); /* nothing to do */
  MISSING("store", tide__store_get_document(NULL, T, "/d", NULL, &bytes, NULL, error));
  MISSING("tenant", tide__store_get_document(s, NULL, "/d", NULL, &bytes, NULL, error));
  MISSING("path", tide__store_get_document(s, T, NULL, NULL, &bytes, NULL, error));
  MISSING("body", tide__store_get_document(s, T, "/d", NULL, NULL, NULL, error));
  MISSING("store", tide__store_list_documents(NULL, T, "/", NULL, 1, &bytes, &count, error));
  MISSING("tenant", tide__store_list_documents(s, NULL, "/", NULL, 1, &bytes, &count, error));
  MISSING("prefix", tide__store_list_documents(s, T, NULL, NULL, 1, &bytes, &count, error));
  MISSING("paths", tide__store_list_documents(s, T, "/", NULL, 1, NULL, &count, error));
  MISSING("count", tide__store_list_documents(s, T, "/", NULL, 1, &bytes, NULL, error));
  INVALID("prefix", tide__store_list_documents(s, T, "a", NULL, 1, &bytes, &count, error));
  INVALID("prefix", tide__store_list_documents(s, T, "/\xff", NULL, 1, &bytes, &count, error));
  INVALID("limit", tide__store_list_documents(s, T, "/", NULL, 0, &bytes, &count, error));
  MISSING("store", tide__store_tenants(NULL, &bytes, &count, error));
  MISSING("names", tide__store_tenants(s, NULL, &count, error));
  MISSING("count", tide__store_tenants(s, &bytes, NULL, error));
  nothing_was_written(c);
}

static void test_waiting_and_importing_refuse_bad_arguments(void **state) {
  contract *c = *state;
  tide_store *const s = c->store;
  int64_t head;
  const tide_commit good = contract_commit(c, "Adder", "a", 0, 1, NULL);
  tide_commit bad = good;
  MISSING("store", tide__store_wait(NULL, T, 0, 0, &head, error));
  MISSING("tenant", tide__store_wait(s, NULL, 0, 0, &head, error));
  MISSING("head", tide__store_wait(s, T, 0, 0, NULL, error));
  INVALID("position", tide__store_wait(s, T, -1, 0, &head, error));
  INVALID("timeout", tide__store_wait(s, T, 0, -1, &head, error));
  INVALID("timeout", tide__store_wait(s, T, 0, TIDE_WAIT_MAX + 1, &head, error));
  MISSING("store", tide__store_import(NULL, T, &good, 1, error));
  MISSING("tenant", tide__store_import(s, NULL, &good, 1, error));
  MISSING("commits", tide__store_import(s, T, NULL, 1, error));
  MISSING("commits", tide__store_import(s, T, &good, 0, error));
  bad.type = NULL;
  MISSING("aggregateType", tide__store_import(s, T, &bad, 1, error));
  bad = good;
  bad.count = 0;
  INVALID("count", tide__store_import(s, T, &bad, 1, error));
  bad = good;
  bad.body_size--;
  INVALID("body", tide__store_import(s, T, &bad, 1, error));
  bad = good;
  bad.position = -1;
  INVALID("position", tide__store_import(s, T, &bad, 1, error));
  bad.position = INT64_MAX;
  BAD(TIDE_STORE, NULL, tide__store_import(s, T, &bad, 1, error));
  nothing_was_written(c);
}

static void test_threads_refuse_bad_arguments(void **state) {
  contract *c = *state;
  tide_store *const s = c->store;
  const tide_bytes body = contract_body(c, 1), none = {NULL, 0};
  tide_bytes bytes;
  tide_thread thread;
  size_t count;
  MISSING("store", tide__store_list_threads(NULL, T, NULL, 1, &bytes, &count, error));
  MISSING("tenant", tide__store_list_threads(s, NULL, NULL, 1, &bytes, &count, error));
  MISSING("names", tide__store_list_threads(s, T, NULL, 1, NULL, &count, error));
  MISSING("count", tide__store_list_threads(s, T, NULL, 1, &bytes, NULL, error));
  INVALID("limit", tide__store_list_threads(s, T, NULL, 0, &bytes, &count, error));
  MISSING("store", tide__store_get_thread(NULL, T, "t", &thread, error));
  MISSING("tenant", tide__store_get_thread(s, NULL, "t", &thread, error));
  MISSING("thread", tide__store_get_thread(s, T, NULL, &thread, error));
  MISSING("thread", tide__store_get_thread(s, T, "t", NULL, error));
  MISSING("store", tide__store_put_thread(NULL, T, "t", 0, &body, error));
  MISSING("tenant", tide__store_put_thread(s, NULL, "t", 0, &body, error));
  MISSING("thread", tide__store_put_thread(s, T, "", 0, &body, error));
  MISSING("cursors", tide__store_put_thread(s, T, "t", 0, NULL, error));
  INVALID("cursors", tide__store_put_thread(s, T, "t", 0, &none, error));
  INVALID("token", tide__store_put_thread(s, T, "t", -1, &body, error));
  INVALID("token", tide__store_put_thread(s, T, "t", TIDE_TOKEN_MAX + 1, &body, error));
  nothing_was_written(c);
}

static void test_the_rest_refuses_bad_arguments(void **state) {
  contract *c = *state;
  tide_store *const s = c->store;
  const tide_bytes body = contract_body(c, 1);
  char long_writer[TIDE_WRITER_MAX + 2];
  tide_bytes bytes;
  int64_t number;
  memset(long_writer, 'w', sizeof long_writer - 1);
  long_writer[sizeof long_writer - 1] = '\0';
  MISSING("store", tide__store_describe(NULL, T, &bytes, error));
  MISSING("bson", tide__store_describe(s, T, NULL, error));
  INVALID("tenant", tide__store_describe(s, "A", &bytes, error));
  MISSING("store", tide__store_setup(NULL, T, error));
  MISSING("tenant", tide__store_setup(s, "", error));
  MISSING("store", tide__store_close_hole(NULL, T, 0, "a", "r", &number, error));
  MISSING("tenant", tide__store_close_hole(s, NULL, 0, "a", "r", &number, error));
  MISSING("actor", tide__store_close_hole(s, T, 0, NULL, "r", &number, error));
  MISSING("reason", tide__store_close_hole(s, T, 0, "a", "", &number, error));
  MISSING("events", tide__store_close_hole(s, T, 0, "a", "r", NULL, error));
  INVALID("position", tide__store_close_hole(s, T, -1, "a", "r", &number, error));
  INVALID("writer", tide__store_get_document(s, T, "/d", long_writer, &bytes, &number, error));
  MISSING("writer", tide__store_get_document(s, T, "/d", "", &bytes, &number, error));
  const tide_document bad_writer = {"/d", body.data, body.size, "a\n", 0},
                      bad_position = {"/d", body.data, body.size, "a", -1};
  INVALID("writer", tide__store_put_documents(s, T, &bad_writer, 1, error));
  INVALID("position", tide__store_put_documents(s, T, &bad_position, 1, error));
  nothing_was_written(c);
}

static void test_freeing_bytes_twice_is_harmless(void **state) {
  contract *c = *state;
  const tide_bytes body = contract_body(c, 1);
  const tide_document document = {"/d", body.data, body.size, NULL, 0};
  tide_bytes got = {0};
  OK(c, tide__store_put_documents(c->store, T, &document, 1, &c->error));
  OK(c, tide__store_get_document(c->store, T, "/d", NULL, &got, NULL, &c->error));
  assert_non_null(got.data);
  tide__bytes_free(&got);
  assert_null(got.data);
  tide__bytes_free(&got);
  tide__bytes_free(NULL);
}

static const struct CMUnitTest tests[] = {
    CASE(test_open_refuses_what_is_no_store),
    CASE(test_open_never_shows_what_follows_the_scheme),
    CASE(test_append_refuses_bad_arguments),
    CASE(test_bodies_that_are_no_document_are_refused),
    CASE(test_reads_refuse_bad_arguments),
    CASE(test_snapshots_refuse_bad_arguments),
    CASE(test_leases_refuse_bad_arguments),
    CASE(test_documents_refuse_bad_arguments),
    CASE(test_waiting_and_importing_refuse_bad_arguments),
    CASE(test_threads_refuse_bad_arguments),
    CASE(test_the_rest_refuses_bad_arguments),
    CASE(test_freeing_bytes_twice_is_harmless),
};
GROUP(argument_cases, tests);
