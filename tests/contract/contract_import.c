/* contract_import.c - taking over another store's commits as they are. The tenant T is the
** source, COPY the target. */
#include <stdlib.h>

#include "contract.h"

#define COPY "copy1"
enum { most = 64 };

/* Commits that were read, with copies of what they point to. */
typedef struct copied {
  tide_commit commits[most];
  void *owned[most * 4];
  size_t count, owned_count;
} copied;

static void *own(copied *log, const void *data, size_t size) {
  void *copy = malloc(size);
  assert_non_null(copy);
  memcpy(copy, data, size);
  log->owned[log->owned_count++] = copy;
  return copy;
}

static void add(copied *log, const tide_commit *commit) {
  assert_true(log->count < most);
  tide_commit *to = &log->commits[log->count++];
  *to = *commit;
  to->type = own(log, commit->type, strlen(commit->type) + 1);
  to->id = own(log, commit->id, strlen(commit->id) + 1);
  if (commit->command_id != NULL)
    to->command_id = own(log, commit->command_id, strlen(commit->command_id) + 1);
  to->body = own(log, commit->body, commit->body_size);
}

static void read_all(contract *c, copied *log) {
  const tide_query all = {0};
  tide_scan *scan = NULL;
  const tide_commit *commit = NULL;
  *log = (copied){0};
  OK(c, tide__store_scan(c->store, T, &all, &scan, &c->error));
  for (;;) {
    OK(c, tide__scan_next(scan, &commit, &c->error));
    if (commit == NULL) break;
    add(log, commit);
  }
  tide__scan_close(scan);
}

static void drop(copied *log) {
  for (size_t i = 0; i < log->owned_count; i++)
    free(log->owned[i]);
  *log = (copied){0};
}

static tide_head head_of(contract *c, const char *tenant) {
  tide_head head;
  OK(c, tide__store_head(c->store, tenant, &head, &c->error));
  return head;
}

static void heads_are_equal(contract *c) {
  const tide_head a = head_of(c, T), b = head_of(c, COPY);
  assert_int_equal(a.position, b.position);
  assert_int_equal(a.time, b.time);
  assert_memory_equal(a.hash, b.hash, TIDE_HASH_SIZE);
}

/* A source of ten commits of three aggregates, two with command ids. */
static void fill(contract *c, copied *log) {
  static const char *const ids[] = {"a", "b", "a\xc3\xa4"};
  int64_t next[COUNT(ids)] = {0};
  for (int i = 0; i < 10; i++) {
    const size_t k = (size_t)i % COUNT(ids);
    tide_commit commit = contract_commit(c, "Adder", ids[k], next[k], 1 + i % 4,
                                         i == 3   ? "c1"
                                         : i == 7 ? "c2"
                                                  : NULL);
    assert_int_equal(contract_append(c, T, &commit), TIDE_APPENDED);
    next[k] += commit.count;
  }
  read_all(c, log);
}

static void refused(contract *c, int code, const tide_commit *commits, size_t count) {
  const tide_head before = head_of(c, COPY);
  REFUSED(c, code, NULL, tide__store_import(c->store, COPY, commits, count, &c->error));
  const tide_head after = head_of(c, COPY);
  assert_int_equal(before.position, after.position);
  assert_memory_equal(before.hash, after.hash, TIDE_HASH_SIZE);
}

static void test_an_imported_log_is_the_same_chain(void **state) {
  contract *c = *state;
  copied log;
  fill(c, &log);
  static const size_t groups[] = {1, 3, 6};
  size_t at = 0;
  for (size_t i = 0; i < COUNT(groups); i++) {
    OK(c, tide__store_import(c->store, COPY, &log.commits[at], groups[i], &c->error));
    at += groups[i];
    contract_reopen(c);
  }
  assert_int_equal(at, log.count);
  heads_are_equal(c);
  contract_verify(c, COPY);
  const tide_commit *expected[most];
  for (size_t i = 0; i < log.count; i++)
    expected[i] = &log.commits[i];
  const tide_query all = {0};
  contract_scan_gives(c, COPY, &all, expected, log.count);
  drop(&log);
}

static void test_an_imported_log_is_appended_to(void **state) {
  contract *c = *state;
  copied log;
  fill(c, &log);
  OK(c, tide__store_import(c->store, COPY, log.commits, log.count, &c->error));
  int64_t position, version;
  OK(c,
     tide__store_find_command(c->store, COPY, "Adder", "a", "c1", &position, &version, &c->error));
  assert_int_equal(position, log.commits[3].position);
  tide_commit again = contract_commit(c, "Adder", "a", 99, 1, "c1");
  assert_int_equal(contract_append(c, COPY, &again), TIDE_DUPLICATE);
  tide_commit stale = contract_commit(c, "Adder", "a", 0, 1, NULL);
  assert_int_equal(contract_append(c, COPY, &stale), TIDE_CONFLICT);
  int64_t next = 0;
  for (size_t i = 0; i < log.count; i++)
    if (strcmp(log.commits[i].id, "a") == 0) next += log.commits[i].count;
  contract_put(c, COPY, "Adder", "a", next, 2);
  contract_put(c, COPY, "Adder", "new", 0, 1);
  contract_verify(c, COPY);
  drop(&log);
}

static void test_an_import_that_does_not_follow_is_refused(void **state) {
  contract *c = *state;
  copied log;
  tide_bytes names;
  size_t count = 99;
  fill(c, &log);
  /* not the beginning: and it makes no tenant */
  refused(c, TIDE_CONCURRENCY, &log.commits[1], 2);
  OK(c, tide__store_tenants(c->store, &names, &count, &c->error));
  assert_int_equal(count, 1);
  tide__bytes_free(&names);
  OK(c, tide__store_import(c->store, COPY, log.commits, 4, &c->error));
  refused(c, TIDE_CONCURRENCY, &log.commits[0], 4); /* again */
  refused(c, TIDE_CONCURRENCY, &log.commits[3], 2); /* overlaps */
  refused(c, TIDE_CONCURRENCY, &log.commits[5], 2); /* leaves a gap */
  /* another history of the same length */
  static const char *const ids[] = {"a", "b", "a\xc3\xa4", "a"};
  int64_t version = 0;
  for (int i = 0; i < 4; i++) {
    const tide_commit *like = &log.commits[i];
    contract_put(c, "other", "Adder", ids[i], i == 3 ? version : 0, like->count);
    if (i == 0) version = like->count;
  }
  REFUSED(c, TIDE_CONCURRENCY, "hash",
          tide__store_import(c->store, "other", &log.commits[4], 1, &c->error));
  OK(c, tide__store_import(c->store, COPY, &log.commits[4], log.count - 4, &c->error));
  heads_are_equal(c);
  drop(&log);
}

static void test_an_import_that_does_not_hold_together_is_refused(void **state) {
  contract *c = *state;
  copied log;
  fill(c, &log);
  OK(c, tide__store_import(c->store, COPY, log.commits, 2, &c->error));
  tide_commit *const rest = &log.commits[2];
  const size_t count = log.count - 2;
  tide_commit good = rest[3];
  rest[3] = rest[4]; /* one is missing, one comes twice */
  refused(c, TIDE_STORE, rest, count);
  rest[3] = good;
  rest[3].hash[5] ^= 1;
  refused(c, TIDE_STORE, rest, count);
  rest[3] = good;
  rest[3].time++;
  refused(c, TIDE_STORE, rest, count);
  rest[3] = good;
  rest[3].count++;
  refused(c, TIDE_STORE, rest, count);
  rest[3] = good;
  rest[3].id = "b";
  refused(c, TIDE_STORE, rest, count);
  rest[3] = good;
  rest[3].position = -1;
  refused(c, TIDE_INVALID_ARGUMENT, &rest[3], 1);
  rest[3] = good;
  rest[0].hash[0] ^= 1; /* the first one's is compared with what is there */
  refused(c, TIDE_CONCURRENCY, rest, 1);
  rest[0].hash[0] ^= 1;
  OK(c, tide__store_import(c->store, COPY, rest, count, &c->error));
  heads_are_equal(c);
  drop(&log);
}

/* A chain that is sound by itself, but not by its aggregates. */
static void test_an_import_keeps_versions_and_command_ids(void **state) {
  contract *c = *state;
  tide_head head = {0};
  tide_commit commits[3] = {contract_commit(c, "Adder", "a", 0, 2, "c1"),
                            contract_commit(c, "Adder", "a", 3, 1, NULL),
                            contract_commit(c, "Adder", "b", 0, 1, NULL)};
  for (size_t i = 0; i < COUNT(commits); i++)
    OK(c, tide__commit_seal(&commits[i], &head, tide__now(), &c->error));
  refused(c, TIDE_STORE, commits, 3); /* a gap */
  head = (tide_head){0};
  commits[1].version = 2;
  commits[1].command_id = "c1";
  for (size_t i = 0; i < COUNT(commits); i++)
    OK(c, tide__commit_seal(&commits[i], &head, tide__now(), &c->error));
  refused(c, TIDE_STORE, commits, 3); /* the id twice */
  OK(c, tide__store_import(c->store, COPY, commits, 1, &c->error));
  refused(c, TIDE_STORE, &commits[1], 2);
  assert_int_equal(contract_verify(c, COPY), 2);
}

static void test_an_import_goes_on_behind_a_tombstone(void **state) {
  contract *c = *state;
  tide_commit first = contract_commit(c, "Adder", "a", 0, 1, NULL),
              lost = contract_commit(c, "Adder", "b", 0, 2, NULL),
              stone = contract_commit(c, TIDE_TOMBSTONE, "1", 0, 2, NULL),
              behind = contract_commit(c, "Adder", "a", 1, 1, NULL),
              last = contract_commit(c, "Adder", "a", 2, 1, NULL);
  tide_head head = {0};
  OK(c, tide__commit_seal(&first, &head, 1000, &c->error));
  tide_head hole = head;
  OK(c, tide__commit_seal(&stone, &hole, 1001, &c->error));
  OK(c, tide__commit_seal(&lost, &head, 1001, &c->error));
  OK(c, tide__commit_seal(&behind, &head, 1002, &c->error));
  OK(c, tide__commit_seal(&last, &head, 1003, &c->error));
  const tide_commit log[] = {first, stone, behind, last};
  refused(c, TIDE_STORE, (tide_commit[]){first, behind}, 2);
  OK(c, tide__store_import(c->store, COPY, log, 4, &c->error));
  OK(c, tide__store_import(c->store, T, log, 2, &c->error));
  /* the hash behind it is not known, but the position is, and so is what follows */
  REFUSED(c, TIDE_CONCURRENCY, "position", tide__store_import(c->store, T, &log[3], 1, &c->error));
  OK(c, tide__store_import(c->store, T, &log[2], 1, &c->error));
  contract_reopen(c);
  tide_commit altered = last;
  altered.hash[0] ^= 1;
  REFUSED(c, TIDE_CONCURRENCY, "hash", tide__store_import(c->store, T, &altered, 1, &c->error));
  OK(c, tide__store_import(c->store, T, &log[3], 1, &c->error));
  heads_are_equal(c);
  int64_t commits, events;
  OK(c, tide__store_check(c->store, COPY, &commits, &events, &c->error));
  assert_int_equal(commits, 4);
  assert_int_equal(events, 5);
  /* a log that ends with one is appended to */
  OK(c, tide__store_import(c->store, "third", log, 2, &c->error));
  contract_put(c, "third", "Adder", "a", 1, 1);
  OK(c, tide__store_check(c->store, "third", NULL, NULL, &c->error));
}

static void test_types_of_the_engines_own_are_not_appended(void **state) {
  contract *c = *state;
  static const char *const types[] = {TIDE_TOMBSTONE, "tidelog.", "tidelog.x"};
  tide_outcome outcome;
  for (size_t i = 0; i < COUNT(types); i++) {
    tide_commit commit = contract_commit(c, types[i], "a", 0, 1, NULL);
    REFUSED(c, TIDE_INVALID_ARGUMENT, "aggregateType",
            tide__store_append(c->store, T, &commit, 1, &outcome, &c->error));
  }
  contract_put(c, T, "tidelog", "a", 0, 1);
  contract_put(c, T, "Tidelog.x", "a", 0, 1);
}

static const struct CMUnitTest tests[] = {
    CASE(test_an_imported_log_is_the_same_chain),
    CASE(test_an_imported_log_is_appended_to),
    CASE(test_an_import_that_does_not_follow_is_refused),
    CASE(test_an_import_that_does_not_hold_together_is_refused),
    CASE(test_an_import_keeps_versions_and_command_ids),
    CASE(test_an_import_goes_on_behind_a_tombstone),
    CASE(test_types_of_the_engines_own_are_not_appended),
};
GROUP(import_cases, tests);
