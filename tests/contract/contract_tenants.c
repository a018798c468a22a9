/* contract_tenants.c - tenants: their names, their beginning, and that they are apart. */
#include "contract.h"

/* Expects exactly these tenants, in this order. */
static void tenants_are(contract *c, const char *const *expected, size_t expected_count) {
  tide_bytes names = {0};
  size_t count = 99;
  OK(c, tide__store_tenants(c->store, &names, &count, &c->error));
  assert_int_equal(count, expected_count);
  const char *name = (const char *)names.data;
  for (size_t i = 0; i < expected_count; i++) {
    assert_string_equal(name, expected[i]);
    name += strlen(name) + 1;
  }
  if (expected_count > 0) assert_ptr_equal(name, (const char *)names.data + names.size);
  tide__bytes_free(&names);
}

static void test_tenant_names_follow_the_rule(void **state) {
  contract *c = *state;
  static const char *const good[] = {
      "a",  "0",   "z9",  "tenant1", "a-b_c",         "0-",
      "a_", "con", "nul", "admin",   "sqlite_master", "01234567890123456789012345678901234567"};
  static const char *const bad[] = {"-a",    "_a",
                                    "A",     "tenantT",
                                    "a b",   " a",
                                    "a ",    "a.b",
                                    ".",     "..",
                                    "../a",  "a/b",
                                    "a\\b",  "/",
                                    "a:b",   "a'b",
                                    "a\"b",  "a;b",
                                    "a$b",   "a*",
                                    "a%b",   "a\n",
                                    "\x7f",  "\xc3\xa4",
                                    "a\xff", "012345678901234567890123456789012345678"};
  for (size_t i = 0; i < COUNT(good); i++)
    contract_put(c, good[i], "Adder", "a", 0, 1);
  for (size_t i = 0; i < COUNT(bad); i++) {
    tide_head head;
    tide_outcome outcome;
    tide_commit commit = contract_commit(c, "Adder", "a", 0, 1, NULL);
    REFUSED(c, TIDE_INVALID_ARGUMENT, "tenant",
            tide__store_append(c->store, bad[i], &commit, 1, &outcome, &c->error));
    REFUSED(c, TIDE_INVALID_ARGUMENT, "tenant",
            tide__store_head(c->store, bad[i], &head, &c->error));
  }
  contract_reopen(c);
  for (size_t i = 0; i < COUNT(good); i++)
    assert_int_equal(contract_verify(c, good[i]), 1);
}

static void test_tenants_are_listed_in_order(void **state) {
  contract *c = *state;
  static const char *const made[] = {"b", "a-", "a", "c0", "a_", "0", "a0"};
  static const char *const sorted[] = {"0", "a", "a-", "a0", "a_", "b", "c0"};
  tenants_are(c, NULL, 0);
  for (size_t i = 0; i < COUNT(made); i++)
    contract_put(c, made[i], "Adder", "a", 0, 1);
  tenants_are(c, sorted, COUNT(sorted));
  contract_reopen(c);
  tenants_are(c, sorted, COUNT(sorted));
}

static void test_a_tenant_comes_into_being_with_its_first_write(void **state) {
  contract *c = *state;
  static const char *const expected[] = {"append", "document", "lease"};
  const tide_bytes body = contract_body(c, 1);
  const tide_document document = {"/d", body.data, body.size, NULL, 0};
  tide_lease lease;
  contract_put(c, "append", "Adder", "a", 0, 1);
  OK(c, tide__store_put_documents(c->store, "document", &document, 1, &c->error));
  OK(c, tide__store_lease(c->store, "lease", "thread", "owner", 1000, &lease, &c->error));
  tide__bytes_free(&lease.cursors);
  tenants_are(c, expected, COUNT(expected));
  contract_reopen(c);
  tenants_are(c, expected, COUNT(expected));
}

/* Calls every function that reads, and some that are refused. */
static void read_everything(contract *c, const char *tenant) {
  tide_head head;
  tide_bytes bytes;
  tide_snapshot snapshot;
  size_t count = 99;
  int64_t position = 99, version = 99, commits = 99, events = 99;
  const tide_query all = {0}, of_a = {.type = "Adder", .id = "a"},
                   back = {.backwards = true, .from = INT64_MAX};
  OK(c, tide__store_head(c->store, tenant, &head, &c->error));
  assert_int_equal(head.position, 0);
  contract_scan_gives(c, tenant, &all, NULL, 0);
  contract_scan_gives(c, tenant, &of_a, NULL, 0);
  contract_scan_gives(c, tenant, &back, NULL, 0);
  OK(c, tide__store_find_command(c->store, tenant, "Adder", "a", "command", &position, &version,
                                 &c->error));
  assert_int_equal(position, -1);
  OK(c, tide__store_get_snapshot(c->store, tenant, "Adder", "a", &snapshot, &c->error));
  assert_null(snapshot.state.data);
  contract_document_is(c, tenant, "/d", NULL);
  OK(c, tide__store_list_documents(c->store, tenant, "/", NULL, 10, &bytes, &count, &c->error));
  assert_int_equal(count, 0);
  tide__bytes_free(&bytes);
  OK(c, tide__store_check(c->store, tenant, &commits, &events, &c->error));
  assert_int_equal(commits, 0);
  assert_int_equal(events, 0);
}

static void test_reading_an_unknown_tenant_creates_nothing(void **state) {
  contract *c = *state;
  static const char *const expected[] = {T};
  read_everything(c, "unknown");
  tenants_are(c, NULL, 0);
  contract_put(c, T, "Adder", "a", 0, 1);
  read_everything(c, "unknown");
  contract_reopen(c);
  read_everything(c, "unknown");
  tenants_are(c, expected, 1);
}

static void test_a_refused_write_to_an_unknown_tenant_creates_nothing(void **state) {
  contract *c = *state;
  const tide_bytes body = contract_body(c, 1);
  const tide_document document = {"/d", body.data, body.size, NULL, 0};
  const tide_snapshot snapshot = {.version = 0, .state = body};
  REFUSED(c, TIDE_CONCURRENCY, NULL,
          tide__store_commit_cursors(c->store, "unknown", "thread", "owner", 1, &body, &document, 1,
                                     false, &c->error));
  REFUSED(c, TIDE_INVALID_ARGUMENT, "version",
          tide__store_put_snapshot(c->store, "unknown", "Adder", "a", &snapshot, &c->error));
  OK(c, tide__store_put_documents(c->store, "unknown", NULL, 0, &c->error));
  tide_commit conflict = contract_commit(c, "Adder", "a", 1, 1, NULL);
  assert_int_equal(contract_append(c, "unknown", &conflict), TIDE_CONFLICT);
  tenants_are(c, NULL, 0);
  read_everything(c, "unknown");
}

static void test_tenants_are_apart(void **state) {
  contract *c = *state;
  static const char *const tenants[] = {"one", "two", "three"};
  const tide_bytes shared = contract_body(c, 0);
  for (int i = 0; i < 3; i++) {
    const tide_bytes body = contract_body(c, i);
    const tide_document document = {"/d", body.data, body.size, NULL, 0};
    const tide_snapshot snapshot = {.version = i, .state = body};
    tide_commit commit = contract_commit(c, "Adder", "a", 0, 1 + i, "command");
    assert_int_equal(contract_append(c, tenants[i], &commit), TIDE_APPENDED);
    assert_int_equal(commit.position, 0);
    OK(c, tide__store_put_documents(c->store, tenants[i], &document, 1, &c->error));
    OK(c, tide__store_put_snapshot(c->store, tenants[i], "Adder", "a", &snapshot, &c->error));
    /* each has this thread's lease for itself */
    tide_lease lease;
    OK(c, tide__store_lease(c->store, tenants[i], "thread", tenants[i], 60000, &lease, &c->error));
    assert_true(lease.held);
    assert_int_equal(lease.cursors.size, 5);
    tide__bytes_free(&lease.cursors);
    OK(c, tide__store_commit_cursors(c->store, tenants[i], "thread", tenants[i], lease.token,
                                     &shared, NULL, 0, false, &c->error));
  }
  contract_reopen(c);
  for (int i = 0; i < 3; i++) {
    const tide_bytes body = contract_body(c, i);
    tide_snapshot snapshot;
    assert_int_equal(contract_verify(c, tenants[i]), 1 + i);
    contract_document_is(c, tenants[i], "/d", &body);
    OK(c, tide__store_get_snapshot(c->store, tenants[i], "Adder", "a", &snapshot, &c->error));
    if (snapshot.state.data != NULL) assert_int_equal(snapshot.version, i);
    tide__bytes_free(&snapshot.state);
  }
}

static void test_more_tenants_than_are_kept_open(void **state) {
  contract *c = *state;
  enum { many = 12 };
  tide_scan *scans[many];
  tide_commit commits[many];
  char names[many][16] = {{0}};
  const tide_store_options few = {.max_open = 3};
  contract_reopen(c);
  if (c->persistent) {
    contract_close(c);
    OK(c, tide__store_open(c->uri, &few, &c->store, &c->error));
  }
  for (int i = 0; i < many; i++) {
    names[i][0] = (char)('a' + i);
    commits[i] = contract_put(c, names[i], "Adder", "a", 0, 1);
  }
  const tide_query all = {0};
  for (int i = 0; i < many; i++) /* open scans keep what they need */
    OK(c, tide__store_scan(c->store, names[i], &all, &scans[i], &c->error));
  for (int i = many - 1; i >= 0; i--)
    contract_next_is(c, scans[i], &commits[i]);
  for (int i = 0; i < many; i++) {
    commits[i] = contract_put(c, names[i], "Adder", "a", 1, 1);
    contract_next_is(c, scans[i], &commits[i]);
    contract_next_is(c, scans[i], NULL);
  }
  for (int i = 0; i < many; i++) {
    tide__scan_close(scans[i]);
    assert_int_equal(contract_verify(c, names[i]), 2);
  }
}

static const struct CMUnitTest tests[] = {
    CASE(test_tenant_names_follow_the_rule),
    CASE(test_tenants_are_listed_in_order),
    CASE(test_a_tenant_comes_into_being_with_its_first_write),
    CASE(test_reading_an_unknown_tenant_creates_nothing),
    CASE(test_a_refused_write_to_an_unknown_tenant_creates_nothing),
    CASE(test_tenants_are_apart),
    CASE(test_more_tenants_than_are_kept_open),
};
GROUP(tenant_cases, tests);
