/* contract_append.c - appending, the log's end, and finding a command's commit. */
#include "contract.h"

static void test_an_empty_log_has_a_head_of_zero(void **state) {
  contract *c = *state;
  tide_head head, zero = {0};
  memset(&head, 0xAA, sizeof head);
  OK(c, tide__store_head(c->store, T, &head, &c->error));
  assert_memory_equal(&head, &zero, sizeof head);
}

static void test_append_sets_position_time_and_hash(void **state) {
  contract *c = *state;
  static const uint8_t no_hash[TIDE_HASH_SIZE];
  const int64_t before = tide__now();
  tide_commit commit = contract_put(c, T, "Adder", "a", 0, 2);
  assert_int_equal(commit.position, 0);
  assert_in_range(commit.time, before, tide__now());
  assert_memory_not_equal(commit.hash, no_hash, TIDE_HASH_SIZE);
  tide_head head;
  OK(c, tide__store_head(c->store, T, &head, &c->error));
  assert_int_equal(head.position, 2);
  assert_int_equal(head.time, commit.time);
  assert_memory_equal(head.hash, commit.hash, TIDE_HASH_SIZE);
}

static void test_positions_and_versions_have_no_gap(void **state) {
  contract *c = *state;
  static const struct {
    const char *id;
    int64_t version;
    int32_t count;
    int64_t position;
  } rows[] = {{"a", 0, 1, 0}, {"b", 0, 3, 1}, {"a", 1, 2, 4},
              {"b", 3, 1, 6}, {"a", 3, 5, 7}, {"c", 0, 1, 12}};
  for (size_t i = 0; i < COUNT(rows); i++) {
    tide_commit commit = contract_put(c, T, "Adder", rows[i].id, rows[i].version, rows[i].count);
    assert_int_equal(commit.position, rows[i].position);
    if (i == 2) contract_reopen(c);
  }
  assert_int_equal(contract_verify(c, T), 13);
}

static void test_positions_go_beyond_32_bits(void **state) {
  contract *c = *state;
  const int64_t many = INT32_MAX;
  for (int i = 0; i < 5; i++) {
    tide_commit commit = contract_put(c, T, "Adder", "a", i * many, INT32_MAX);
    assert_int_equal(commit.position, i * many);
  }
  contract_reopen(c);
  assert_int_equal(contract_verify(c, T), 5 * many);
  tide_commit last = contract_put(c, T, "Adder", "a", 5 * many, 1);
  const tide_commit *expected[] = {&last};
  const tide_query from_last = {.type = "Adder", .id = "a", .from = 5 * many};
  contract_scan_gives(c, T, &from_last, expected, 1);
}

/* Expects that nothing was written since `head`. */
static void assert_head_is_still(contract *c, const tide_head *head) {
  tide_head now;
  OK(c, tide__store_head(c->store, T, &now, &c->error));
  assert_memory_equal(&now, head, sizeof now);
}

static void test_append_refuses_a_version_that_is_not_the_next(void **state) {
  contract *c = *state;
  static const struct {
    const char *id;
    int64_t version;
  } refused[] = {
      {"a", 0},         /* taken, the first of a commit    */
      {"a", 1},         /* taken, inside a commit          */
      {"a", 2},         /* taken, the last                 */
      {"a", 4},         /* beyond the next                 */
      {"a", INT32_MAX}, /* far beyond                      */
      {"new", 1},       /* an aggregate begins at 0        */
      {"new", INT64_MAX - INT32_MAX},
  };
  contract_put(c, T, "Adder", "a", 0, 3);
  tide_head head;
  OK(c, tide__store_head(c->store, T, &head, &c->error));
  for (size_t i = 0; i < COUNT(refused); i++) {
    tide_commit commit = contract_commit(c, "Adder", refused[i].id, refused[i].version, 1, "x");
    assert_int_equal(contract_append(c, T, &commit), TIDE_CONFLICT);
    assert_head_is_still(c, &head);
  }
  contract_put(c, T, "Adder", "a", 3, 1);
  contract_put(c, T, "Adder", "new", 0, 1);
  assert_int_equal(contract_verify(c, T), 5);
}

static void test_aggregates_of_one_id_and_two_types_are_apart(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 2);
  contract_put(c, T, "Calculator", "a", 0, 1);
  contract_put(c, T, "Adder", "a", 2, 1);
  /* type and id are not just joined */
  contract_put(c, T, "AdderA", "b", 0, 1);
  contract_put(c, T, "Adder", "Ab", 0, 1);
  assert_int_equal(contract_verify(c, T), 6);
}

/* ---- Groups --------------------------------------------------------------- */

typedef struct row {
  const char *id;
  int64_t version;
  int32_t count;
  const char *command_id;
  tide_outcome outcome;
  int64_t position; /* that is expected; -1: not looked at */
} row;

/* Appends the rows as one group; what is not appended is not in the log. */
static void append_group(contract *c, const row *rows, size_t count) {
  tide_commit commits[16];
  tide_outcome outcomes[16];
  const tide_commit *appended[16];
  size_t appended_count = 0;
  tide_head before;
  OK(c, tide__store_head(c->store, T, &before, &c->error));
  assert_true(count <= COUNT(commits));
  for (size_t i = 0; i < count; i++)
    commits[i] =
        contract_commit(c, "Adder", rows[i].id, rows[i].version, rows[i].count, rows[i].command_id);
  OK(c, tide__store_append(c->store, T, commits, count, outcomes, &c->error));
  for (size_t i = 0; i < count; i++) {
    assert_int_equal(outcomes[i], rows[i].outcome);
    if (rows[i].position >= 0) assert_int_equal(commits[i].position, rows[i].position);
    if (outcomes[i] == TIDE_APPENDED) appended[appended_count++] = &commits[i];
  }
  contract_reopen(c);
  const tide_query since = {.from = before.position};
  contract_scan_gives(c, T, &since, appended, appended_count);
  contract_verify(c, T);
}

static void test_two_commits_of_a_group_follow_each_other(void **state) {
  static const row rows[] = {{"a", 0, 2, "1", TIDE_APPENDED, 0},
                             {"a", 2, 1, "2", TIDE_APPENDED, 2},
                             {"a", 3, 1, NULL, TIDE_APPENDED, 3}};
  append_group(*state, rows, COUNT(rows));
}

static void test_a_group_with_a_conflict_in_the_middle_goes_on(void **state) {
  static const row rows[] = {{"a", 0, 2, NULL, TIDE_APPENDED, 0},
                             {"a", 1, 1, NULL, TIDE_CONFLICT, -1}, /* taken by the first */
                             {"b", 1, 1, NULL, TIDE_CONFLICT, -1}, /* beyond the next */
                             {"b", 2, 1, NULL, TIDE_CONFLICT, -1}, /* follows a refused one */
                             {"b", 0, 3, NULL, TIDE_APPENDED, 2},
                             {"a", 2, 1, NULL, TIDE_APPENDED, 5},
                             {"a", 2, 1, NULL, TIDE_CONFLICT, -1}};
  append_group(*state, rows, COUNT(rows));
}

static void test_a_group_with_duplicates_in_it_goes_on(void **state) {
  contract *c = *state;
  static const row first[] = {{"a", 0, 2, "one", TIDE_APPENDED, 0},
                              {"b", 0, 1, "two", TIDE_APPENDED, 2}};
  static const row second[] = {
      {"a", 2, 1, "one", TIDE_DUPLICATE, 0},   {"a", 2, 1, "three", TIDE_APPENDED, 3},
      {"a", 3, 1, "three", TIDE_DUPLICATE, 3}, /* of the same group */
      {"b", 1, 1, "two", TIDE_DUPLICATE, 2},   {"b", 7, 1, "two", TIDE_DUPLICATE, 2},
      {"b", 1, 1, "one", TIDE_APPENDED, 4}, /* another aggregate's id */
      {"b", 2, 1, NULL, TIDE_APPENDED, 5}};
  append_group(c, first, COUNT(first));
  append_group(c, second, COUNT(second));
}

static void test_a_group_of_conflicts_only_changes_nothing(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  static const row rows[] = {{"a", 0, 1, "1", TIDE_CONFLICT, -1},
                             {"b", 1, 1, "2", TIDE_CONFLICT, -1}};
  append_group(c, rows, COUNT(rows));
  assert_int_equal(contract_verify(c, T), 1);
}

static void test_a_large_group_is_appended_whole_and_in_order(void **state) {
  contract *c = *state;
  enum { many = 1000 };
  static tide_commit commits[many];
  static tide_outcome outcomes[many];
  static const char *const ids[] = {"a", "b", "c", "d", "e", "f", "g"};
  for (int i = 0; i < many; i++)
    commits[i] = contract_commit(c, "Adder", ids[i % 7], i / 7, 1, NULL);
  OK(c, tide__store_append(c->store, T, commits, many, outcomes, &c->error));
  for (int i = 0; i < many; i++) {
    assert_int_equal(outcomes[i], TIDE_APPENDED);
    assert_int_equal(commits[i].position, i);
  }
  contract_reopen(c);
  assert_int_equal(contract_verify(c, T), many);
}

static void test_a_bad_commit_in_a_group_refuses_the_whole_group(void **state) {
  contract *c = *state;
  tide_commit commits[3];
  tide_outcome outcomes[3];
  for (int i = 0; i < 3; i++)
    commits[i] = contract_commit(c, "Adder", "a", i, 1, NULL);
  commits[2].count = 0;
  REFUSED(c, TIDE_INVALID_ARGUMENT, "count",
          tide__store_append(c->store, T, commits, 3, outcomes, &c->error));
  const tide_head zero = {0};
  assert_head_is_still(c, &zero);
  contract_put(c, T, "Adder", "a", 0, 1);
}

/* ---- Command ids ---------------------------------------------------------- */

static void test_a_command_id_is_found_before_the_version(void **state) {
  contract *c = *state;
  static const int64_t versions[] = {0, 1, 3, 100}; /* taken twice, the next, beyond */
  tide_commit first = contract_commit(c, "Adder", "a", 0, 3, "command");
  contract_put(c, T, "Adder", "other", 0, 4);
  assert_int_equal(contract_append(c, T, &first), TIDE_APPENDED);
  for (size_t i = 0; i < COUNT(versions); i++) {
    tide_commit again = contract_commit(c, "Adder", "a", versions[i], 1, "command");
    assert_int_equal(contract_append(c, T, &again), TIDE_DUPLICATE);
    assert_int_equal(again.position, 4);
    contract_reopen(c);
  }
  assert_int_equal(contract_verify(c, T), 7);
}

static void test_a_command_id_belongs_to_its_aggregate(void **state) {
  contract *c = *state;
  static const struct {
    const char *tenant, *type, *id;
  } rows[] = {
      {T, "Adder", "a"}, {T, "Adder", "b"}, {T, "Calculator", "a"}, {"tenant2", "Adder", "a"}};
  for (size_t i = 0; i < COUNT(rows); i++) {
    tide_commit commit = contract_commit(c, rows[i].type, rows[i].id, 0, 1, "command");
    assert_int_equal(contract_append(c, rows[i].tenant, &commit), TIDE_APPENDED);
  }
}

static void test_a_refused_commit_leaves_its_command_id_free(void **state) {
  contract *c = *state;
  tide_commit early = contract_commit(c, "Adder", "a", 1, 1, "command");
  assert_int_equal(contract_append(c, T, &early), TIDE_CONFLICT);
  tide_commit right = contract_commit(c, "Adder", "a", 0, 1, "command");
  assert_int_equal(contract_append(c, T, &right), TIDE_APPENDED);
}

static void test_find_command_gives_position_and_version(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "other", 0, 5);
  contract_put(c, T, "Adder", "a", 0, 2);
  tide_commit commit = contract_commit(c, "Adder", "a", 2, 3, "command");
  assert_int_equal(contract_append(c, T, &commit), TIDE_APPENDED);
  static const struct {
    const char *tenant, *type, *id, *command_id;
    int64_t position, version;
  } rows[] = {
      {T, "Adder", "a", "command", 7, 2},        {T, "Adder", "a", "comman", -1, -1},
      {T, "Adder", "a", "COMMAND", -1, -1},      {T, "Adder", "a", "command ", -1, -1},
      {T, "Adder", "other", "command", -1, -1},  {T, "Adder", "none", "command", -1, -1},
      {T, "Calculator", "a", "command", -1, -1}, {"nobody", "Adder", "a", "command", -1, -1}};
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < COUNT(rows); i++) {
      int64_t position = 99, version = 99;
      OK(c, tide__store_find_command(c->store, rows[i].tenant, rows[i].type, rows[i].id,
                                     rows[i].command_id, &position, &version, &c->error));
      assert_int_equal(position, rows[i].position);
      if (position >= 0) assert_int_equal(version, rows[i].version);
    }
    contract_reopen(c);
  }
}

static void test_a_commit_without_command_id_is_never_a_duplicate(void **state) {
  contract *c = *state;
  for (int i = 0; i < 3; i++)
    contract_put(c, T, "Adder", "a", i, 1);
  int64_t position, version;
  REFUSED(
      c, TIDE_MISSING_ARGUMENT, "commandId",
      tide__store_find_command(c->store, T, "Adder", "a", NULL, &position, &version, &c->error));
}

/* ---- Time, hashes, sizes -------------------------------------------------- */

static void test_time_never_goes_back(void **state) {
  contract *c = *state;
  int64_t last = tide__now();
  for (int i = 0; i < 50; i++) {
    tide_commit commit = contract_put(c, T, "Adder", "a", i, 1);
    assert_true(commit.time >= last);
    last = commit.time;
  }
  assert_true(last <= tide__now());
}

static void test_the_hash_chain_verifies_and_each_hash_differs(void **state) {
  contract *c = *state;
  tide_commit first = contract_put(c, T, "Adder", "a", 0, 1);
  tide_commit second = contract_put(c, T, "Adder", "a", 1, 1);
  assert_memory_not_equal(first.hash, second.hash, TIDE_HASH_SIZE);
  tide_head head = {0};
  OK(c, tide__commit_verify(&first, &head, &c->error));
  OK(c, tide__commit_verify(&second, &head, &c->error));
  contract_reopen(c);
  tide_head stored;
  OK(c, tide__store_head(c->store, T, &stored, &c->error));
  assert_memory_equal(stored.hash, head.hash, TIDE_HASH_SIZE);
  contract_put(c, T, "Adder", "a", 2, 1);
  assert_int_equal(contract_verify(c, T), 3);
}

static void test_bodies_of_every_size_come_back(void **state) {
  contract *c = *state;
  static const size_t sizes[] = {
      32,           511, 512, 4000, 4095, 4096, 4097, 65535, 65536, 1000000, TIDE_BODY_MAX - 1,
      TIDE_BODY_MAX};
  tide_commit commits[COUNT(sizes)];
  const tide_commit *expected[COUNT(sizes)];
  for (size_t i = 0; i < COUNT(sizes); i++) {
    const tide_bytes body = contract_body_of_size(c, sizes[i]);
    commits[i] = contract_commit(c, "Adder", "a", (int64_t)i, 1, NULL);
    commits[i].body = body.data;
    commits[i].body_size = body.size;
    assert_int_equal(contract_append(c, T, &commits[i]), TIDE_APPENDED);
    expected[i] = &commits[i];
  }
  contract_reopen(c);
  const tide_query all = {0}, aggregate = {.type = "Adder", .id = "a"};
  contract_scan_gives(c, T, &all, expected, COUNT(sizes));
  contract_scan_gives(c, T, &aggregate, expected, COUNT(sizes));
  contract_verify(c, T);
}

static void test_a_body_above_the_limit_is_refused(void **state) {
  contract *c = *state;
  const tide_bytes body = contract_body_of_size(c, TIDE_BODY_MAX + 1);
  tide_commit commit = contract_commit(c, "Adder", "a", 0, 1, NULL);
  tide_outcome outcome;
  commit.body = body.data;
  commit.body_size = body.size;
  REFUSED(c, TIDE_LIMIT, "body", tide__store_append(c->store, T, &commit, 1, &outcome, &c->error));
  const tide_head zero = {0};
  assert_head_is_still(c, &zero);
}

static const struct CMUnitTest tests[] = {
    CASE(test_an_empty_log_has_a_head_of_zero),
    CASE(test_append_sets_position_time_and_hash),
    CASE(test_positions_and_versions_have_no_gap),
    CASE(test_positions_go_beyond_32_bits),
    CASE(test_append_refuses_a_version_that_is_not_the_next),
    CASE(test_aggregates_of_one_id_and_two_types_are_apart),
    CASE(test_two_commits_of_a_group_follow_each_other),
    CASE(test_a_group_with_a_conflict_in_the_middle_goes_on),
    CASE(test_a_group_with_duplicates_in_it_goes_on),
    CASE(test_a_group_of_conflicts_only_changes_nothing),
    CASE(test_a_large_group_is_appended_whole_and_in_order),
    CASE(test_a_bad_commit_in_a_group_refuses_the_whole_group),
    CASE(test_a_command_id_is_found_before_the_version),
    CASE(test_a_command_id_belongs_to_its_aggregate),
    CASE(test_a_refused_commit_leaves_its_command_id_free),
    CASE(test_find_command_gives_position_and_version),
    CASE(test_a_commit_without_command_id_is_never_a_duplicate),
    CASE(test_time_never_goes_back),
    CASE(test_the_hash_chain_verifies_and_each_hash_differs),
    CASE(test_bodies_of_every_size_come_back),
    CASE(test_a_body_above_the_limit_is_refused),
};
GROUP(append_cases, tests);
