/* test_failpoints.c - a server that answers with errors, breaks off or is slow: what it was
** asked for is done once, or the error says what happened. */
#include "mongodb/fault.h"

#define LONG 60000 /* ms: a lease that does not expire in a test */

/* What a server does in a failover, at its end, or with a majority that is late. */
static const struct {
  const char *name, *data;
} failures[] = {
    {"NotWritablePrimary", "'errorCode': 10107"},
    {"NotWritablePrimary, unlabelled", "'errorCode': 10107, 'errorLabels': []"},
    {"InterruptedDueToReplStateChange", "'errorCode': 11602"},
    {"ShutdownInProgress", "'errorCode': 91"},
    {"the connection is closed", "'closeConnection': true"},
    {"blocked past the socket's time-out", "'blockConnection': true, 'blockTimeMS': 600"},
    {"WriteConcernFailed", "'writeConcernError': {'code': 64, 'errmsg': 'waiting timed out'}"},
    {"ShutdownInProgress after the write",
     "'writeConcernError': {'code': 91, 'errmsg': 'shutting down'}"},
};

#define FAST "&socketTimeoutMS=300"

/* Lets `command` fail in the way of failures[i], so many times. */
static void arm(const char *command, size_t i, int times) {
  char mode[32], data[256];
  (void)snprintf(mode, sizeof mode, "{'times': %d}", times);
  (void)snprintf(data, sizeof data, "'failCommands': ['%s'], %s", command, failures[i].data);
  print_message("  %s: %s, %d times\n", command, failures[i].name, times);
  fault_failpoint(mode, data);
}

static void test_a_group_is_appended_once_whatever_the_insert_meets(void **state) {
  contract *c = *state;
  int64_t n = 0; /* groups so far */
  fault_open(c, FAST, PATIENT);
  contract_put(c, T, "Adder", "other", 0, 1);
  for (size_t i = 0; i < COUNT(failures); i++) {
    for (int times = 1 + (int)(i % 2) * 2; times <= 3; times += 2, n++) {
      tide_commit group[] = {contract_commit(c, "Adder", "a", 3 * n, 2, NULL),
                             contract_commit(c, "Adder", "b", n, 1, NULL),
                             contract_commit(c, "Adder", "a", 3 * n + 2, 1, NULL)};
      tide_outcome outcomes[COUNT(group)];
      arm("insert", i, times);
      OK(c, tide__store_append(c->store, T, group, COUNT(group), outcomes, &c->error));
      fault_failpoint_off();
      for (size_t k = 0; k < COUNT(group); k++)
        assert_int_equal(outcomes[k], TIDE_APPENDED);
      assert_int_equal(group[0].position, 1 + 4 * n);
      assert_int_equal(group[2].position, 4 + 4 * n);
    }
  }
  fault_log_is(c, 1 + 4 * n, 1 + 3 * n);
}

static void test_a_first_append_makes_its_tenant_whatever_the_server_answers(void **state) {
  contract *c = *state;
  static const char *const commands[] = {"create", "createIndexes", "insert", "find"};
  for (size_t i = 0; i < COUNT(commands); i++) {
    char tenant[8];
    tide_commit first = contract_commit(c, "Adder", "a", 0, 1, NULL);
    tide_outcome outcome;
    (void)snprintf(tenant, sizeof tenant, "t%zu", i);
    arm(commands[i], 0, 2);
    OK(c, tide__store_append(c->store, tenant, &first, 1, &outcome, &c->error));
    fault_failpoint_off();
    assert_int_equal(outcome, TIDE_APPENDED);
    assert_int_equal(contract_verify(c, tenant), 1);
  }
}

static void test_a_read_is_whole_whatever_the_find_meets(void **state) {
  contract *c = *state;
  const tide_query all = {0}, mine = {.type = "Adder", .id = "a", .from = 1};
  tide_commit a = contract_put(c, T, "Adder", "a", 0, 2);
  tide_commit b = contract_put(c, T, "Adder", "b", 0, 1);
  tide_commit last = contract_put(c, T, "Adder", "a", 2, 1);
  const tide_commit *everything[] = {&a, &b, &last}, *of_a[] = {&a, &last};
  fault_open(c, FAST, PATIENT);
  for (size_t i = 0; i < COUNT(failures); i++) {
    if (strstr(failures[i].data, "writeConcernError") != NULL) continue; /* it is no write */
    tide_head head;
    arm("find", i, 3);
    contract_scan_gives(c, T, &all, everything, 3);
    arm("find", i, 2);
    contract_scan_gives(c, T, &mine, of_a, 2);
    arm("find", i, 2);
    OK(c, tide__store_head(c->store, T, &head, &c->error));
    fault_failpoint_off();
    assert_int_equal(head.position, 4);
  }
}

static void test_a_lease_and_its_cursors_are_right_whatever_findandmodify_meets(void **state) {
  contract *c = *state;
  int64_t last = 0;
  fault_open(c, FAST, PATIENT);
  contract_put(c, T, "Adder", "a", 0, 1); /* the tenant is there */
  for (size_t i = 0; i < COUNT(failures); i++) {
    const tide_bytes cursors = contract_body(c, (int64_t)i);
    tide_lease lease;
    arm("findAndModify", i, 2);
    const int64_t token = contract_lease(c, "thread", "owner", LONG);
    assert_true(token > last);
    arm("findAndModify", i, 2);
    OK(c, tide__store_commit_cursors(c->store, T, "thread", "owner", token, &cursors, NULL, 0, true,
                                     &c->error));
    fault_failpoint_off();
    REFUSED(c, TIDE_CONCURRENCY, "lease",
            tide__store_commit_cursors(c->store, T, "thread", "owner", token, NULL, NULL, 0, false,
                                       &c->error)); /* it was given up */
    OK(c, tide__store_lease(c->store, T, "thread", "other", LONG, &lease, &c->error));
    assert_true(lease.held);
    assert_int_equal(lease.cursors.size, cursors.size);
    assert_memory_equal(lease.cursors.data, cursors.data, cursors.size);
    tide__bytes_free(&lease.cursors);
    OK(c, tide__store_commit_cursors(c->store, T, "thread", "other", lease.token, NULL, NULL, 0,
                                     true, &c->error));
    last = lease.token;
  }
}

static void test_a_document_is_as_it_was_last_written_whatever_the_update_meets(void **state) {
  contract *c = *state;
  fault_open(c, FAST, PATIENT);
  contract_put(c, T, "Adder", "a", 0, 1);
  for (size_t i = 0; i < COUNT(failures); i++) {
    const tide_bytes body = contract_body(c, (int64_t)i);
    const tide_document document = {"/d", body.data, body.size, NULL, 0};
    arm("update", i, 3);
    OK(c, tide__store_put_documents(c->store, T, &document, 1, &c->error));
    fault_failpoint_off();
    contract_document_is(c, T, "/d", &body);
  }
  assert_int_equal(fault_count(c, "documents", "{}"), 1);
}

/* Commits cursors and two documents under a lease while `command` fails. */
static void commit_both(contract *c, const char *command, size_t i, int times) {
  const int64_t token = contract_lease(c, "thread", "owner", LONG);
  const tide_bytes cursors = contract_body(c, (int64_t)i), body = contract_body(c, 100 + times);
  const tide_document documents[] = {{"/one", body.data, body.size, "thread/H", (int64_t)i + 1},
                                     {"/two", body.data, body.size, "thread/H", (int64_t)i + 1}};
  arm(command, i, times);
  OK(c, tide__store_commit_cursors(c->store, T, "thread", "owner", token, &cursors, documents, 2,
                                   false, &c->error));
  fault_failpoint_off();
  contract_document_is(c, T, "/one", &body);
  contract_document_is(c, T, "/two", &body);
  tide_lease lease;
  OK(c, tide__store_lease(c->store, T, "thread", "owner", LONG, &lease, &c->error));
  assert_true(lease.held);
  assert_int_equal(lease.cursors.size, cursors.size);
  assert_memory_equal(lease.cursors.data, cursors.data, cursors.size);
  tide__bytes_free(&lease.cursors);
}

static void test_documents_and_cursors_go_together_whatever_the_transaction_meets(void **state) {
  contract *c = *state;
  static const char *const commands[] = {"commitTransaction", "update", "findAndModify"};
  fault_open(c, FAST, PATIENT);
  contract_put(c, T, "Adder", "a", 0, 1);
  for (size_t k = 0; k < COUNT(commands); k++)
    for (size_t i = 0; i < COUNT(failures); i++)
      if (k == 0 || i < 5) commit_both(c, commands[k], i, 1 + (int)(i % 2) * 2);
}

static void test_a_failure_that_lasts_is_told_and_leaves_nothing_doubled(void **state) {
  contract *c = *state;
  fault_open(c, FAST, HASTY);
  contract_put(c, T, "Adder", "a", 0, 1);
  for (size_t i = 0; i < COUNT(failures); i++) {
    if (strstr(failures[i].data, "writeConcernError") != NULL) continue; /* what it wrote is in */
    tide_commit commit = contract_commit(c, "Adder", "a", (int64_t)i + 1, 1, "command");
    tide_outcome outcome = 0;
    char data[256], id[16];
    (void)snprintf(id, sizeof id, "c%zu", i);
    commit.command_id = id;
    print_message("  %s\n", failures[i].name);
    (void)snprintf(data, sizeof data, "'failCommands': ['insert'], %s", failures[i].data);
    fault_failpoint("'alwaysOn'", data);
    const int code = tide__store_append(c->store, T, &commit, 1, &outcome, &c->error);
    if (code == TIDE_OK) { /* one that was only late is found to be in */
      assert_non_null(strstr(failures[i].data, "blockConnection"));
      assert_int_equal(outcome, TIDE_APPENDED);
    } else {
      FAILS(c, true, code);
      assert_non_null(strstr(c->error.message, "MongoDB at "));
      memset(&c->error, 0, sizeof c->error);
    }
    fault_failpoint_off();
    /* what was on its way may have arrived: then it is a duplicate, else it is new */
    fault_open(c, "", PATIENT);
    outcome = contract_append(c, T, &commit);
    assert_true(outcome == TIDE_APPENDED || outcome == TIDE_DUPLICATE);
    assert_int_equal(commit.position, (int64_t)i + 1);
    fault_log_is(c, (int64_t)i + 2, (int64_t)i + 2);
    fault_open(c, "", HASTY);
  }
}

static void
test_a_write_that_a_majority_has_is_acknowledged_though_the_server_gives_up_waiting(void **state) {
  contract *c = *state;
  fault_open(c, "", HASTY);
  fault_failpoint("'alwaysOn'",
                  "'failCommands': ['insert'], "
                  "'writeConcernError': {'code': 64, 'errmsg': 'timed out'}");
  /* as for the first write, which makes the tenant: each is found to be there */
  tide_commit commit = contract_commit(c, "Adder", "a", 0, 1, NULL);
  tide_outcome outcome = 0;
  const int code = tide__store_append(c->store, T, &commit, 1, &outcome, &c->error);
  assert_true(code == TIDE_OK || (code == TIDE_STORE && c->error.transient));
  memset(&c->error, 0, sizeof c->error);
  fault_failpoint_off();
  if (code != TIDE_OK) {
    contract_put(c, T, "Adder", "a", 0, 1);
    fault_failpoint("'alwaysOn'",
                    "'failCommands': ['insert'], "
                    "'writeConcernError': {'code': 64, 'errmsg': 'timed out'}");
    contract_put(c, T, "Adder", "a", 1, 1);
    fault_failpoint_off();
    fault_log_is(c, 2, 2);
  } else {
    assert_int_equal(outcome, TIDE_APPENDED);
    fault_log_is(c, 1, 1);
  }
}

static void test_a_wait_survives_a_stream_that_fails(void **state) {
  contract *c = *state;
  static const char *const commands[] = {"aggregate", "getMore"};
  fault_open(c, FAST, PATIENT);
  contract_put(c, T, "Adder", "a", 0, 1);
  for (size_t k = 0; k < COUNT(commands); k++) {
    for (size_t i = 0; i < 5; i++) {
      int64_t head = -1;
      arm(commands[k], i, 2);
      OK(c, tide__store_wait(c->store, T, 0, 300, &head, &c->error));
      assert_int_equal(head, 1);
      OK(c, tide__store_wait(c->store, T, 1, 300, &head, &c->error));
      assert_int_equal(head, 1);
      fault_failpoint_off();
    }
  }
}

static void test_a_lost_history_costs_no_news(void **state) {
  contract *c = *state;
  int64_t head = -1;
  contract_put(c, T, "Adder", "a", 0, 1);
  OK(c, tide__store_wait(c->store, T, 1, 200, &head, &c->error));
  fault_failpoint("{'times': 2}", "'failCommands': ['aggregate', 'getMore'], 'errorCode': 286");
  tide_store *kept = c->store;
  c->store = contract_open_second(c);
  contract_put(c, T, "Adder", "a", 1, 1);
  tide__store_close(c->store);
  c->store = kept;
  OK(c, tide__store_wait(c->store, T, 1, 5000, &head, &c->error));
  assert_int_equal(head, 2);
  OK(c, tide__store_wait(c->store, T, 2, 200, &head, &c->error));
  assert_int_equal(head, 2);
  fault_failpoint_off();
}

int main(void) {
  static const struct CMUnitTest cases[] = {
      CASE(test_a_group_is_appended_once_whatever_the_insert_meets),
      CASE(test_a_first_append_makes_its_tenant_whatever_the_server_answers),
      CASE(test_a_read_is_whole_whatever_the_find_meets),
      CASE(test_a_lease_and_its_cursors_are_right_whatever_findandmodify_meets),
      CASE(test_a_document_is_as_it_was_last_written_whatever_the_update_meets),
      CASE(test_documents_and_cursors_go_together_whatever_the_transaction_meets),
      CASE(test_a_failure_that_lasts_is_told_and_leaves_nothing_doubled),
      CASE(test_a_write_that_a_majority_has_is_acknowledged_though_the_server_gives_up_waiting),
      CASE(test_a_wait_survives_a_stream_that_fails),
      CASE(test_a_lost_history_costs_no_news),
  };
  return RUN("failpoints", cases);
}
