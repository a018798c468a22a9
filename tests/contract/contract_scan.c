/* contract_scan.c - pulled reads of a tenant and of an aggregate. */
#include "contract.h"

/* A log of two aggregates whose commits are interleaved:
**   index       0      1      2      3      4      5
**   aggregate   a      b      a      a      b      a
**   versions    0-1    0      2      3-6    1-3    7
**   positions   0-1    2      3      4-7    8-10   11   */
enum { log_size = 6, log_end = 12 };

typedef struct sample_log {
  tide_commit commits[log_size];
} sample_log;

static void make_log(contract *c, sample_log *log) {
  static const struct {
    const char *id;
    int64_t version;
    int32_t count;
  } rows[log_size] = {{"a", 0, 2}, {"b", 0, 1}, {"a", 2, 1}, {"a", 3, 4}, {"b", 1, 3}, {"a", 7, 1}};
  for (int i = 0; i < log_size; i++) {
    log->commits[i] = contract_commit(c, "Adder", rows[i].id, rows[i].version, rows[i].count,
                                      i % 2 == 0 ? rows[i].id : NULL);
    if (i >= 2) log->commits[i].command_id = i == 3 ? "third" : NULL;
    assert_int_equal(contract_append(c, T, &log->commits[i]), TIDE_APPENDED);
  }
  contract_reopen(c);
}

/* Which commits of the sample log a query gives: their indexes, in a text. */
typedef struct expectation {
  tide_query query;
  const char *indexes;
} expectation;

static void check_rows(contract *c, const sample_log *log, const expectation *rows, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const tide_commit *expected[log_size];
    const size_t size = strlen(rows[i].indexes);
    for (size_t k = 0; k < size; k++)
      expected[k] = &log->commits[rows[i].indexes[k] - '0'];
    contract_scan_gives(c, T, &rows[i].query, expected, size);
  }
}

static void test_scan_reads_the_tenant_from_any_position(void **state) {
  contract *c = *state;
  sample_log log;
  make_log(c, &log);
  static const expectation rows[] = {
      {{.from = 0}, "012345"}, {{.from = 1}, "012345"}, /* from inside the first commit */
      {{.from = 2}, "12345"},  {{.from = 3}, "2345"},    {{.from = 4}, "345"},
      {{.from = 6}, "345"},    {{.from = 7}, "345"},     {{.from = 8}, "45"},
      {{.from = 10}, "45"},    {{.from = 11}, "5"},      {{.from = 12}, ""},
      {{.from = 1000}, ""},    {{.from = INT64_MAX}, ""}};
  check_rows(c, &log, rows, COUNT(rows));
}

static void test_scan_reads_the_tenant_backwards(void **state) {
  contract *c = *state;
  sample_log log;
  make_log(c, &log);
  static const expectation rows[] = {{{.backwards = true, .from = INT64_MAX}, "543210"},
                                     {{.backwards = true, .from = 12}, "543210"},
                                     {{.backwards = true, .from = 11}, "543210"},
                                     {{.backwards = true, .from = 10}, "43210"},
                                     {{.backwards = true, .from = 8}, "43210"},
                                     {{.backwards = true, .from = 7}, "3210"},
                                     {{.backwards = true, .from = 5}, "3210"},
                                     {{.backwards = true, .from = 2}, "10"},
                                     {{.backwards = true, .from = 1}, "0"},
                                     {{.backwards = true, .from = 0}, "0"}};
  check_rows(c, &log, rows, COUNT(rows));
}

static void test_scan_reads_an_aggregate_from_any_version(void **state) {
  contract *c = *state;
  sample_log log;
  make_log(c, &log);
  static const expectation rows[] = {{{.type = "Adder", .id = "a"}, "0235"},
                                     {{.type = "Adder", .id = "a", .from = 1}, "0235"},
                                     {{.type = "Adder", .id = "a", .from = 2}, "235"},
                                     {{.type = "Adder", .id = "a", .from = 3}, "35"},
                                     {{.type = "Adder", .id = "a", .from = 6}, "35"},
                                     {{.type = "Adder", .id = "a", .from = 7}, "5"},
                                     {{.type = "Adder", .id = "a", .from = 8}, ""},
                                     {{.type = "Adder", .id = "b"}, "14"},
                                     {{.type = "Adder", .id = "b", .from = 3}, "4"},
                                     {{.type = "Adder", .id = "b", .from = 4}, ""},
                                     {{.type = "Adder", .id = "A"}, ""},
                                     {{.type = "Calculator", .id = "a"}, ""},
                                     {{.type = "a", .id = "Adder"}, ""}};
  check_rows(c, &log, rows, COUNT(rows));
}

static void test_scan_reads_an_aggregate_backwards(void **state) {
  contract *c = *state;
  sample_log log;
  make_log(c, &log);
  static const expectation rows[] = {
      {{.type = "Adder", .id = "a", .backwards = true, .from = INT64_MAX}, "5320"},
      {{.type = "Adder", .id = "a", .backwards = true, .from = 7}, "5320"},
      {{.type = "Adder", .id = "a", .backwards = true, .from = 6}, "320"},
      {{.type = "Adder", .id = "a", .backwards = true, .from = 3}, "320"},
      {{.type = "Adder", .id = "a", .backwards = true, .from = 2}, "20"},
      {{.type = "Adder", .id = "a", .backwards = true, .from = 0}, "0"},
      {{.type = "Adder", .id = "b", .backwards = true, .from = 2}, "41"},
      {{.type = "Adder", .id = "none", .backwards = true, .from = 9}, ""}};
  check_rows(c, &log, rows, COUNT(rows));
}

static void test_scan_gives_no_more_commits_than_the_limit(void **state) {
  contract *c = *state;
  sample_log log;
  make_log(c, &log);
  static const expectation rows[] = {
      {{.limit = 1}, "0"},
      {{.limit = 5}, "01234"},
      {{.limit = 6}, "012345"},
      {{.limit = INT64_MAX}, "012345"},
      {{.from = 9, .limit = 1}, "4"},
      {{.from = 11, .backwards = true, .limit = 2}, "54"},
      {{.type = "Adder", .id = "a", .limit = 3}, "023"},
      {{.type = "Adder", .id = "a", .from = 4, .backwards = true, .limit = 2}, "32"}};
  check_rows(c, &log, rows, COUNT(rows));
}

static void test_scan_at_its_limit_stays_there(void **state) {
  contract *c = *state;
  tide_commit first = contract_put(c, T, "Adder", "a", 0, 1);
  tide_scan *scan = NULL;
  const tide_query one = {.limit = 1};
  OK(c, tide__store_scan(c->store, T, &one, &scan, &c->error));
  contract_next_is(c, scan, &first);
  contract_put(c, T, "Adder", "a", 1, 1);
  for (int i = 0; i < 3; i++)
    contract_next_is(c, scan, NULL);
  tide__scan_close(scan);
}

static void test_scan_of_nothing_finds_nothing(void **state) {
  contract *c = *state;
  static const tide_query queries[] = {{.from = 0},
                                       {.backwards = true, .from = INT64_MAX},
                                       {.type = "Adder", .id = "a"},
                                       {.type = "Adder", .id = "a", .backwards = true, .from = 9}};
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < COUNT(queries); i++) {
      contract_scan_gives(c, "nobody", &queries[i], NULL, 0);
      if (round == 1 && queries[i].type != NULL) contract_scan_gives(c, T, &queries[i], NULL, 0);
    }
    contract_put(c, T, "Adder", "b", round, 1);
  }
}

static void test_scan_goes_on_after_the_end(void **state) {
  contract *c = *state;
  tide_scan *tenant = NULL, *aggregate = NULL;
  const tide_query all = {0}, of_a = {.type = "Adder", .id = "a"};
  /* opened before there is anything: the tenant comes into being later */
  OK(c, tide__store_scan(c->store, T, &all, &tenant, &c->error));
  OK(c, tide__store_scan(c->store, T, &of_a, &aggregate, &c->error));
  contract_next_is(c, tenant, NULL);
  contract_next_is(c, aggregate, NULL);
  for (int i = 0; i < 4; i++) {
    tide_commit a = contract_put(c, T, "Adder", "a", i * 2, 2);
    tide_commit b = contract_put(c, T, "Adder", "b", i, 1);
    contract_next_is(c, tenant, &a);
    contract_next_is(c, tenant, &b);
    contract_next_is(c, aggregate, &a);
    for (int again = 0; again < 2; again++) {
      contract_next_is(c, tenant, NULL);
      contract_next_is(c, aggregate, NULL);
    }
  }
  tide__scan_close(tenant);
  tide__scan_close(aggregate);
}

static void test_scan_from_beyond_the_end_waits_for_what_it_wants(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  tide_scan *tenant = NULL, *aggregate = NULL;
  const tide_query from_3 = {.from = 3}, version_3 = {.type = "Adder", .id = "a", .from = 3};
  OK(c, tide__store_scan(c->store, T, &from_3, &tenant, &c->error));
  OK(c, tide__store_scan(c->store, T, &version_3, &aggregate, &c->error));
  contract_next_is(c, tenant, NULL);
  contract_next_is(c, aggregate, NULL);
  contract_put(c, T, "Adder", "a", 1, 1); /* before what is wanted */
  contract_next_is(c, tenant, NULL);
  contract_next_is(c, aggregate, NULL);
  tide_commit wanted = contract_put(c, T, "Adder", "a", 2, 2); /* holds 3 */
  contract_next_is(c, tenant, &wanted);
  contract_next_is(c, aggregate, &wanted);
  contract_next_is(c, tenant, NULL);
  contract_next_is(c, aggregate, NULL);
  tide__scan_close(tenant);
  tide__scan_close(aggregate);
}

static void test_scan_backwards_ends_for_good(void **state) {
  contract *c = *state;
  tide_scan *scan = NULL, *of_nothing = NULL;
  const tide_query query = {.backwards = true, .from = INT64_MAX};
  OK(c, tide__store_scan(c->store, T, &query, &of_nothing, &c->error));
  contract_next_is(c, of_nothing, NULL);
  tide_commit first = contract_put(c, T, "Adder", "a", 0, 1);
  contract_next_is(c, of_nothing, NULL);
  tide__scan_close(of_nothing);
  OK(c, tide__store_scan(c->store, T, &query, &scan, &c->error));
  contract_next_is(c, scan, &first);
  contract_put(c, T, "Adder", "a", 1, 1);
  contract_next_is(c, scan, NULL);
  contract_put(c, T, "Adder", "a", 2, 1);
  contract_next_is(c, scan, NULL);
  tide__scan_close(scan);
}

static void test_scans_are_valid_while_others_append(void **state) {
  contract *c = *state;
  enum { many = 300 };
  static tide_commit commits[many];
  tide_scan *forwards = NULL, *backwards = NULL, *aggregate = NULL;
  const tide_query all = {0}, of_a = {.type = "Adder", .id = "a"},
                   back = {.backwards = true, .from = 99};
  for (int i = 0; i < 100; i++)
    commits[i] = contract_put(c, T, "Adder", "a", i, 1);
  OK(c, tide__store_scan(c->store, T, &all, &forwards, &c->error));
  OK(c, tide__store_scan(c->store, T, &back, &backwards, &c->error));
  OK(c, tide__store_scan(c->store, T, &of_a, &aggregate, &c->error));
  for (int i = 0; i < many; i++) {
    const tide_commit *held = NULL;
    OK(c, tide__scan_next(forwards, &held, &c->error));
    assert_non_null(held);
    if (i < 200) { /* what was read stays as it is while something is appended */
      commits[i + 100] = contract_put(c, T, "Adder", "a", i + 100, 1);
    }
    contract_same(&commits[i], held);
    contract_next_is(c, aggregate, &commits[i]);
    contract_next_is(c, backwards, i < 100 ? &commits[99 - i] : NULL);
  }
  contract_next_is(c, forwards, NULL);
  tide__scan_close(aggregate);
  tide__scan_close(backwards);
  tide__scan_close(forwards);
}

static void test_scan_copies_the_strings_of_its_query(void **state) {
  contract *c = *state;
  tide_commit commit = contract_put(c, T, "Adder", "a", 0, 1);
  char tenant[] = T, type[] = "Adder", id[] = "a";
  tide_query query = {.type = type, .id = id};
  tide_scan *scan = NULL;
  OK(c, tide__store_scan(c->store, tenant, &query, &scan, &c->error));
  memset(tenant, 'x', sizeof tenant - 1);
  memset(type, 'x', sizeof type - 1);
  memset(id, 'x', sizeof id - 1);
  memset(&query, 0xFF, sizeof query);
  contract_next_is(c, scan, &commit);
  contract_next_is(c, scan, NULL);
  tide__scan_close(scan);
}

static void test_many_scans_may_be_open_at_once(void **state) {
  contract *c = *state;
  tide_scan *scans[40] = {NULL};
  tide_commit commits[40];
  const tide_query all = {0};
  for (size_t i = 0; i < COUNT(commits); i++)
    commits[i] = contract_put(c, T, "Adder", "a", (int64_t)i, 1);
  for (size_t i = 0; i < COUNT(scans); i++) {
    OK(c, tide__store_scan(c->store, T, &all, &scans[i], &c->error));
    for (size_t k = 0; k <= i; k++)
      contract_next_is(c, scans[k], &commits[i - k]);
  }
  contract_put(c, T, "Adder", "b", 0, 1); /* none of them stands in a writer's way */
  for (size_t i = 0; i < COUNT(scans); i++)
    tide__scan_close(scans[i]);
}

static void test_closing_no_scan_is_harmless(void **state) {
  (void)state;
  tide__scan_close(NULL);
}

static const struct CMUnitTest tests[] = {
    CASE(test_scan_reads_the_tenant_from_any_position),
    CASE(test_scan_reads_the_tenant_backwards),
    CASE(test_scan_reads_an_aggregate_from_any_version),
    CASE(test_scan_reads_an_aggregate_backwards),
    CASE(test_scan_gives_no_more_commits_than_the_limit),
    CASE(test_scan_at_its_limit_stays_there),
    CASE(test_scan_of_nothing_finds_nothing),
    CASE(test_scan_goes_on_after_the_end),
    CASE(test_scan_from_beyond_the_end_waits_for_what_it_wants),
    CASE(test_scan_backwards_ends_for_good),
    CASE(test_scans_are_valid_while_others_append),
    CASE(test_scan_copies_the_strings_of_its_query),
    CASE(test_many_scans_may_be_open_at_once),
    CASE(test_closing_no_scan_is_harmless),
};
GROUP(scan_cases, tests);
