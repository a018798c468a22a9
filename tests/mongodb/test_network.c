/* test_network.c - a network between engine and server that loses, delays, splits and cuts:
** what was written is acknowledged once, or found to be in when it is asked for again. */
#include "mongodb/fault.h"

#define LONG 60000 /* ms: a lease that does not expire in a test */
#define FAST "&socketTimeoutMS=300&connectTimeoutMS=300"

/* The ways to lose a message; `often`: more often than libmongoc tries by itself. */
static const char *const losses[] = {"cut_before", "cut_request", "cut_after", "cut_reply"};

static void clear_rules(void) {
  bson_destroy(fault_proxy("{'do': 'reset'}"));
}

static void test_a_group_is_appended_once_whatever_is_lost(void **state) {
  contract *c = *state;
  int64_t n = 0;
  contract_put(c, T, "Adder", "other", 0, 1);
  for (size_t i = 0; i < COUNT(losses); i++) {
    for (int times = 1; times <= 5; times += 4, n++) {
      tide_commit group[] = {contract_commit(c, "Adder", "a", 2 * n, 1, NULL),
                             contract_commit(c, "Adder", "b", 2 * n, 2, NULL),
                             contract_commit(c, "Adder", "a", 2 * n + 1, 1, NULL)};
      tide_outcome outcomes[3];
      const int64_t rule = fault_rule(
          "'command': 'insert', 'collection': 'events', 'times': %d, "
          "'action': '%s'",
          times, losses[i]);
      OK(c, tide__store_append(c->store, T, group, 3, outcomes, &c->error));
      assert_true(fault_fired(rule) > 0);
      for (size_t k = 0; k < 3; k++)
        assert_int_equal(outcomes[k], TIDE_APPENDED);
      assert_int_equal(group[0].position, 1 + 4 * n);
      assert_int_equal(group[1].position, 2 + 4 * n);
      assert_int_equal(group[2].position, 4 + 4 * n);
      clear_rules();
    }
  }
  fault_log_is(c, 1 + 4 * n, 1 + 3 * n);
}

static void test_a_command_that_comes_again_after_a_lost_answer_is_known(void **state) {
  contract *c = *state;
  fault_open(c, FAST, HASTY);
  contract_put(c, T, "Adder", "a", 0, 1);
  /* nothing that would tell that it is in comes through */
  fault_rule("'command': 'insert', 'times': 0, 'action': 'cut_after'");
  fault_rule("'command': 'find', 'times': 0, 'action': 'cut_before'");
  tide_commit commit = contract_commit(c, "Adder", "a", 1, 1, "command");
  tide_outcome outcome;
  FAILS(c, true, tide__store_append(c->store, T, &commit, 1, &outcome, &c->error));
  memset(&c->error, 0, sizeof c->error);
  clear_rules();
  assert_int_equal(contract_append(c, T, &commit), TIDE_DUPLICATE);
  assert_int_equal(commit.position, 1);
  fault_log_is(c, 2, 2);
}

static void test_a_late_arrival_meets_the_position_that_was_taken_meanwhile(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  fault_open(c, FAST, HASTY);
  const int64_t rule = fault_rule("'command': 'insert', 'times': 0, 'action': 'hold', 'cut': true");
  tide_commit group[] = {contract_commit(c, "Adder", "late", 0, 1, NULL),
                         contract_commit(c, "Adder", "late", 1, 2, NULL),
                         contract_commit(c, "Adder", "late", 3, 1, NULL)};
  tide_outcome outcomes[3];
  FAILS(c, true, tide__store_append(c->store, T, group, 3, outcomes, &c->error));
  memset(&c->error, 0, sizeof c->error);
  /* the others are not held back; what is, stays */
  bson_destroy(fault_proxy("{'do': 'remove', 'id': %lld}", (long long)rule));
  contract_put(c, T, "Adder", "a", 1, 1);
  contract_put(c, T, "Adder", "b", 0, 5);
  bson_t *released = fault_proxy("{'do': 'release'}");
  bson_iter_t top, replies;
  assert_true(bson_iter_init(&top, released) &&
              bson_iter_find_descendant(&top, "replies.0", &replies));
  bson_destroy(released);
  contract_put(c, T, "Adder", "late", 0, 1);
  fault_log_is(c, 8, 4);
}

static void test_a_late_arrival_at_a_free_position_is_in_once_and_whole(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  fault_open(c, FAST, HASTY);
  const int64_t rule = fault_rule("'command': 'insert', 'times': 0, 'action': 'hold', 'cut': true");
  tide_commit group[] = {contract_commit(c, "Adder", "late", 0, 1, "late0"),
                         contract_commit(c, "Adder", "late", 1, 2, "late1")};
  tide_outcome outcomes[2];
  FAILS(c, true, tide__store_append(c->store, T, group, 2, outcomes, &c->error));
  memset(&c->error, 0, sizeof c->error);
  bson_destroy(fault_proxy("{'do': 'remove', 'id': %lld}", (long long)rule));
  bson_destroy(fault_proxy("{'do': 'release'}")); /* the first of several tries lands */
  contract_put(c, T, "Adder", "a", 1, 1);         /* whose head lay behind */
  OK(c, tide__store_append(c->store, T, group, 2, outcomes, &c->error));
  assert_int_equal(outcomes[0], TIDE_DUPLICATE);
  assert_int_equal(outcomes[1], TIDE_DUPLICATE);
  assert_int_equal(group[0].position, 1);
  assert_int_equal(group[1].position, 2);
  fault_log_is(c, 5, 4);
}

static void test_a_write_that_arrives_while_its_writer_asks_is_acknowledged(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  fault_open(c, FAST, PATIENT);
  for (int64_t i = 1; i <= 3; i++) {
    fault_rule("'command': 'insert', 'times': %d, 'action': 'hold', 'ms': 700, 'cut': true",
               (int)(2 * i));
    contract_put(c, T, "Adder", "a", i, 1);
    bson_destroy(fault_proxy("{'do': 'release'}"));
    clear_rules();
  }
  fault_log_is(c, 4, 4);
}

static void test_messages_that_are_slow_or_in_pieces_are_as_good_as_others(void **state) {
  contract *c = *state;
  const tide_query all = {0};
  fault_rule("'times': 0, 'action': 'trickle'");
  tide_commit first = contract_put(c, T, "Adder", "a", 0, 2);
  const tide_commit *log[] = {&first};
  contract_scan_gives(c, T, &all, log, 1);
  clear_rules();
  fault_rule("'command': ['insert', 'find'], 'times': 0, 'action': 'delay', 'ms': 50");
  contract_put(c, T, "Adder", "a", 2, 1);
  clear_rules();
  fault_log_is(c, 3, 2);
}

static void test_a_reader_goes_on_where_it_was_when_its_connection_is_cut(void **state) {
  contract *c = *state;
  const tide_query all = {0};
  enum { many = 40 };
  tide_commit log[many];
  tide_scan *scan;
  for (int64_t i = 0; i < many; i++)
    log[i] = contract_put(c, T, "Adder", "a", i, 1);
  for (size_t i = 0; i < COUNT(losses); i++) {
    OK(c, tide__store_scan(c->store, T, &all, &scan, &c->error));
    for (size_t k = 0; k < many; k++) {
      if (k % 8 == 0) fault_rule("'command': 'find', 'times': 3, 'action': '%s'", losses[i]);
      contract_next_is(c, scan, &log[k]);
    }
    contract_next_is(c, scan, NULL);
    tide__scan_close(scan);
    clear_rules();
  }
}

static void test_cursors_and_documents_are_committed_once_whatever_is_lost(void **state) {
  contract *c = *state;
  static const char *const commands[] = {"commitTransaction", "findAndModify", "update"};
  contract_put(c, T, "Adder", "a", 0, 1);
  for (size_t k = 0; k < COUNT(commands); k++) {
    for (size_t i = 0; i < COUNT(losses); i++) {
      const tide_bytes cursors = contract_body(c, (int64_t)i), body = contract_body(c, 9);
      const tide_document documents[] = {{"/d", body.data, body.size, "thread/H", 1},
                                         {"/e", body.data, body.size, "thread/H", 1}};
      const int64_t token = contract_lease(c, "thread", "owner", LONG);
      const int64_t rule =
          fault_rule("'command': '%s', 'times': 3, 'action': '%s'", commands[k], losses[i]);
      OK(c, tide__store_commit_cursors(c->store, T, "thread", "owner", token, &cursors, documents,
                                       2, true, &c->error));
      assert_true(fault_fired(rule) > 0);
      clear_rules();
      tide_thread thread;
      OK(c, tide__store_get_thread(c->store, T, "thread", &thread, &c->error));
      assert_string_equal(thread.owner, "");
      assert_int_equal(thread.token, token);
      assert_int_equal(thread.cursors.size, cursors.size);
      assert_memory_equal(thread.cursors.data, cursors.data, cursors.size);
      tide__bytes_free(&thread.cursors);
      contract_document_is(c, T, "/d", &body);
      contract_document_is(c, T, "/e", &body);
    }
  }
}

static void test_a_lease_whose_answer_is_lost_is_taken_once(void **state) {
  contract *c = *state;
  int64_t last = contract_lease(c, "thread", "owner", LONG);
  for (size_t i = 0; i < COUNT(losses); i++) {
    fault_rule("'command': 'findAndModify', 'times': 3, 'action': '%s'", losses[i]);
    const int64_t token = contract_lease(c, "thread", "owner", LONG);
    assert_int_equal(token, last + 1);
    last = token;
    clear_rules();
  }
}

static void test_a_server_that_never_answers_ends_in_an_error(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  fault_open(c, FAST, HASTY);
  fault_rule("'command': ['insert', 'find', 'findAndModify'], 'times': 0, 'action': 'black_hole'");
  tide_commit commit = contract_commit(c, "Adder", "a", 1, 1, NULL);
  tide_outcome outcome;
  tide_head head;
  tide_lease lease;
  FAILS(c, true, tide__store_append(c->store, T, &commit, 1, &outcome, &c->error));
  memset(&c->error, 0, sizeof c->error);
  FAILS(c, true, tide__store_head(c->store, T, &head, &c->error));
  memset(&c->error, 0, sizeof c->error);
  FAILS(c, true, tide__store_lease(c->store, T, "t", "owner", LONG, &lease, &c->error));
  memset(&c->error, 0, sizeof c->error);
  clear_rules();
  contract_put(c, T, "Adder", "a", 1, 1);
  fault_log_is(c, 2, 2);
}

static void test_an_engine_goes_on_when_the_network_is_back(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  fault_open(c, "&connectTimeoutMS=300&serverSelectionTimeoutMS=500", HASTY);
  contract_put(c, T, "Adder", "a", 1, 1);
  bson_destroy(fault_proxy("{'do': 'refuse', 'on': true}"));
  tide_commit commit = contract_commit(c, "Adder", "a", 2, 1, NULL);
  tide_outcome outcome;
  FAILS(c, true, tide__store_append(c->store, T, &commit, 1, &outcome, &c->error));
  memset(&c->error, 0, sizeof c->error);
  bson_destroy(fault_proxy("{'do': 'refuse', 'on': false}"));
  contract_put(c, T, "Adder", "a", 2, 1);
  fault_log_is(c, 3, 3);
}

static void test_each_group_is_one_command_however_large_it_is(void **state) {
  contract *c = *state;
  enum { many = 2500 };
  char path[64];
  contract_put(c, T, "Adder", "first", 0, 1);
  clear_rules(); /* and the counts */
  fault_append_some(c, "a", 0, many);
  const tide_bytes large = contract_body_of_size(c, (size_t)6 << 20);
  tide_commit commits[4];
  tide_outcome outcomes[4];
  for (int i = 0; i < 4; i++) {
    commits[i] = contract_commit(c, "Adder", "large", i, 1, NULL);
    commits[i].body = large.data;
    commits[i].body_size = large.size;
  }
  OK(c, tide__store_append(c->store, T, commits, 4, outcomes, &c->error));
  bson_t *stats = fault_proxy("{'do': 'stats'}");
  static const int64_t groups[] = {1000, 1000, 500, 1, 1, 1, 1};
  for (size_t i = 0; i <= COUNT(groups); i++) {
    (void)snprintf(path, sizeof path, "inserts.%zu.documents", i);
    assert_int_equal(fault_number(stats, path), i < COUNT(groups) ? groups[i] : -1);
  }
  bson_destroy(stats);
  fault_log_is(c, 1 + many + 4, 1 + many + 4);
}

int main(void) {
  static const struct CMUnitTest cases[] = {
      PROXY_CASE(test_a_group_is_appended_once_whatever_is_lost),
      PROXY_CASE(test_a_command_that_comes_again_after_a_lost_answer_is_known),
      PROXY_CASE(test_a_late_arrival_meets_the_position_that_was_taken_meanwhile),
      PROXY_CASE(test_a_late_arrival_at_a_free_position_is_in_once_and_whole),
      PROXY_CASE(test_a_write_that_arrives_while_its_writer_asks_is_acknowledged),
      PROXY_CASE(test_messages_that_are_slow_or_in_pieces_are_as_good_as_others),
      PROXY_CASE(test_a_reader_goes_on_where_it_was_when_its_connection_is_cut),
      PROXY_CASE(test_cursors_and_documents_are_committed_once_whatever_is_lost),
      PROXY_CASE(test_a_lease_whose_answer_is_lost_is_taken_once),
      PROXY_CASE(test_a_server_that_never_answers_ends_in_an_error),
      PROXY_CASE(test_an_engine_goes_on_when_the_network_is_back),
      PROXY_CASE(test_each_group_is_one_command_however_large_it_is),
  };
  return RUN("network", cases);
}
