/* contract_snapshots.c - snapshots, which are only a cache of the log. */
#include "contract.h"

static const uint8_t code_a[TIDE_CODE_SIZE] = "code a\0\xff\x01", code_b[TIDE_CODE_SIZE] = "code b";

static tide_snapshot snapshot_of(contract *c, int64_t version, const uint8_t *code, int64_t n) {
  tide_snapshot snapshot = {.version = version, .state = contract_body(c, n)};
  memcpy(snapshot.code, code, TIDE_CODE_SIZE);
  return snapshot;
}

static void put(contract *c, const char *id, const tide_snapshot *snapshot) {
  OK(c, tide__store_put_snapshot(c->store, T, "Adder", id, snapshot, &c->error));
}

/* NULL: there is none. */
static void snapshot_is(contract *c, const char *type, const char *id,
                        const tide_snapshot *expected) {
  tide_snapshot got;
  memset(&got, 0xAA, sizeof got);
  OK(c, tide__store_get_snapshot(c->store, T, type, id, &got, &c->error));
  if (expected == NULL) {
    assert_null(got.state.data);
  } else {
    assert_non_null(got.state.data);
    assert_int_equal(got.version, expected->version);
    assert_memory_equal(got.code, expected->code, TIDE_CODE_SIZE);
    assert_int_equal(got.state.size, expected->state.size);
    assert_true(memcmp(got.state.data, expected->state.data, got.state.size) == 0);
  }
  tide__bytes_free(&got.state);
}

static void test_a_snapshot_is_kept_for_its_aggregate(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 5);
  contract_put(c, T, "Adder", "b", 0, 1);
  contract_put(c, T, "Calculator", "a", 0, 1);
  snapshot_is(c, "Adder", "a", NULL);
  const tide_snapshot snapshot = snapshot_of(c, 3, code_a, 1);
  put(c, "a", &snapshot);
  snapshot_is(c, "Adder", "a", &snapshot);
  snapshot_is(c, "Adder", "b", NULL);
  snapshot_is(c, "Adder", "none", NULL);
  snapshot_is(c, "Calculator", "a", NULL);
}

static void test_a_newer_snapshot_replaces_an_older_one(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 10);
  static const int64_t versions[] = {0, 1, 5, 9};
  for (size_t i = 0; i < COUNT(versions); i++) {
    const tide_snapshot snapshot = snapshot_of(c, versions[i], code_a, (int64_t)i);
    put(c, "a", &snapshot);
    snapshot_is(c, "Adder", "a", &snapshot);
  }
}

static void test_an_older_snapshot_does_not_replace_a_newer_one(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 10);
  const tide_snapshot newer = snapshot_of(c, 7, code_a, 1), older = snapshot_of(c, 6, code_a, 2);
  put(c, "a", &newer);
  put(c, "a", &older); /* no error: it is only a cache */
  snapshot_is(c, "Adder", "a", &newer);
}

static void test_a_snapshot_by_other_code_replaces_any(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 10);
  const tide_snapshot newer = snapshot_of(c, 7, code_a, 1), older = snapshot_of(c, 2, code_b, 2),
                      same = snapshot_of(c, 2, code_a, 3);
  put(c, "a", &newer);
  put(c, "a", &older);
  snapshot_is(c, "Adder", "a", &older);
  put(c, "a", &same);
  snapshot_is(c, "Adder", "a", &same);
}

static void test_a_snapshot_beyond_the_head_is_refused(void **state) {
  contract *c = *state;
  static const int64_t beyond[] = {3, 4, 1000, INT64_MAX};
  contract_put(c, T, "Adder", "a", 0, 1);
  contract_put(c, T, "Adder", "a", 1, 2);
  contract_put(c, T, "Adder", "other", 0, 9);
  for (size_t i = 0; i < COUNT(beyond); i++) {
    const tide_snapshot snapshot = snapshot_of(c, beyond[i], code_a, 1);
    REFUSED(c, TIDE_INVALID_ARGUMENT, "version",
            tide__store_put_snapshot(c->store, T, "Adder", "a", &snapshot, &c->error));
  }
  snapshot_is(c, "Adder", "a", NULL);
  const tide_snapshot last = snapshot_of(c, 2, code_a, 1),
                      beyond_last = snapshot_of(c, 3, code_b, 2);
  put(c, "a", &last);
  REFUSED(c, TIDE_INVALID_ARGUMENT, "version",
          tide__store_put_snapshot(c->store, T, "Adder", "a", &beyond_last, &c->error));
  snapshot_is(c, "Adder", "a", &last);
}

static void test_a_snapshot_of_an_aggregate_without_events_is_refused(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  const tide_snapshot first = snapshot_of(c, 0, code_a, 1), none = snapshot_of(c, -1, code_a, 1);
  REFUSED(c, TIDE_INVALID_ARGUMENT, "version",
          tide__store_put_snapshot(c->store, T, "Adder", "none", &first, &c->error));
  REFUSED(c, TIDE_INVALID_ARGUMENT, "version",
          tide__store_put_snapshot(c->store, T, "Calculator", "a", &first, &c->error));
  REFUSED(c, TIDE_INVALID_ARGUMENT, "version",
          tide__store_put_snapshot(c->store, T, "Adder", "a", &none, &c->error));
  snapshot_is(c, "Adder", "none", NULL);
}

static void test_snapshots_are_right_or_absent_after_a_reopen(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 3);
  const tide_snapshot snapshot = snapshot_of(c, 1, code_a, 1);
  put(c, "a", &snapshot);
  contract_reopen(c);
  tide_snapshot got;
  OK(c, tide__store_get_snapshot(c->store, T, "Adder", "a", &got, &c->error));
  if (got.state.data != NULL) snapshot_is(c, "Adder", "a", &snapshot);
  tide__bytes_free(&got.state);
}

static void test_large_snapshots_are_kept_up_to_the_limit(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 3);
  tide_snapshot snapshot = {.version = 0, .state = contract_body_of_size(c, TIDE_BODY_MAX)};
  put(c, "a", &snapshot);
  snapshot_is(c, "Adder", "a", &snapshot);
  tide_snapshot larger = {.version = 1, .state = contract_body_of_size(c, TIDE_BODY_MAX + 1)};
  REFUSED(c, TIDE_LIMIT, "snapshot",
          tide__store_put_snapshot(c->store, T, "Adder", "a", &larger, &c->error));
  snapshot_is(c, "Adder", "a", &snapshot);
}

static const struct CMUnitTest tests[] = {
    CASE(test_a_snapshot_is_kept_for_its_aggregate),
    CASE(test_a_newer_snapshot_replaces_an_older_one),
    CASE(test_an_older_snapshot_does_not_replace_a_newer_one),
    CASE(test_a_snapshot_by_other_code_replaces_any),
    CASE(test_a_snapshot_beyond_the_head_is_refused),
    CASE(test_a_snapshot_of_an_aggregate_without_events_is_refused),
    CASE(test_snapshots_are_right_or_absent_after_a_reopen),
    CASE(test_large_snapshots_are_kept_up_to_the_limit),
};
GROUP(snapshot_cases, tests);
