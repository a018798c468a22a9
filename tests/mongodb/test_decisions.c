/* test_decisions.c - what is decided on while other threads read, and after what was given up
** arrives late: nobody is told of a conflict with its own commit, and cursors never go back. */
#include <pthread.h>
#include <stdatomic.h>

#include "mongodb/fault.h"

#define LONG 60000 /* ms: a lease that does not expire in a test */
#define FAST "&socketTimeoutMS=300&connectTimeoutMS=300"

/* Asks for the version of the aggregate "a" again and again, as who keeps snapshots does. */
typedef struct asker {
  tide_store *store;
  _Atomic bool stop;
} asker;

static void *ask_for_versions(void *arg) {
  static const uint8_t state[] = {5, 0, 0, 0, 0};
  asker *a = arg;
  tide_snapshot snapshot = {.version = 1,
                            .state = {.data = (uint8_t *)(uintptr_t)state, .size = sizeof state}};
  while (!atomic_load(&a->stop)) {
    tide_error error = {0};
    (void)tide__store_put_snapshot(a->store, T, "Adder", "a", &snapshot, &error);
    contract_sleep(1);
  }
  return NULL;
}

static void test_who_is_overtaken_by_its_own_commit_has_no_conflict(void **state) {
  contract *c = *state;
  pthread_t thread;
  contract_put(c, T, "Adder", "a", 0, 1);
  contract_put(c, T, "Adder", "b", 0, 1);
  fault_open(c, FAST, PATIENT);
  tide_head head;
  OK(c, tide__store_head(c->store, T, &head, &c->error)); /* it is warm */
  asker a = {.store = c->store};
  /* the answers to the insert are lost, and its writer does not see the tail for a while */
  fault_rule("'command': 'insert', 'collection': 'events', 'times': 2, 'action': 'cut_after'");
  fault_rule(
      "'command': 'find', 'collection': 'events', 'contains': '$gte', 'skip': 1, "
      "'times': 6, 'action': 'amend', 'set': {'cursor': {'id': 0, 'ns': 'x.events', "
      "'firstBatch': []}}");
  assert_int_equal(pthread_create(&thread, NULL, ask_for_versions, &a), 0);
  tide_commit group[] = {contract_commit(c, "Adder", "b", 7, 1, NULL),
                         contract_commit(c, "Adder", "a", 1, 1, NULL)};
  tide_outcome outcomes[2] = {0};
  int code = tide__store_append(c->store, T, group, 2, outcomes, &c->error);
  atomic_store(&a.stop, true);
  assert_int_equal(pthread_join(thread, NULL), 0);
  OK(c, code);
  assert_int_equal(outcomes[0], TIDE_CONFLICT);
  assert_int_equal(outcomes[1], TIDE_APPENDED);
  assert_int_equal(group[1].position, 2);
  bson_destroy(fault_proxy("{'do': 'reset'}"));
  fault_log_is(c, 3, 3);
}

static void commit(contract *c, int64_t token, int64_t n) {
  const tide_bytes cursors = contract_body(c, n);
  OK(c, tide__store_commit_cursors(c->store, T, "thread", "owner", token, &cursors, NULL, 0, false,
                                   &c->error));
}

static void test_cursors_that_come_late_do_not_go_back(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  fault_open(c, FAST, PATIENT);
  const int64_t token = contract_lease(c, "thread", "owner", LONG);
  for (int64_t n = 0; n < 12; n += 4) {
    commit(c, token, n);
    /* the first try and libmongoc's own are held back, ours gets through */
    fault_rule("'command': 'findAndModify', 'skip': %d, 'times': 2, 'action': 'hold', 'cut': true",
               (int)n / 4);
    commit(c, token, n + 1);
    commit(c, token, n + 2);
    bson_destroy(fault_proxy("{'do': 'release'}"));
    bson_destroy(fault_proxy("{'do': 'reset'}"));
    tide_thread thread = {0};
    const tide_bytes last = contract_body(c, n + 2);
    OK(c, tide__store_get_thread(c->store, T, "thread", &thread, &c->error));
    assert_int_equal(thread.cursors.size, last.size);
    assert_memory_equal(thread.cursors.data, last.data, last.size);
    tide__bytes_free(&thread.cursors);
  }
}

static void test_who_waits_is_not_woken_by_what_was_read(void **state) {
  contract *c = *state;
  enum { many = 100 };
  int64_t head;
  contract_put(c, T, "Adder", "a", 0, 1);
  OK(c, tide__store_wait(c->store, T, 1, 100, &head, &c->error));
  fault_append_some(c, "a", 1, many);
  bson_destroy(fault_proxy("{'do': 'reset'}"));
  OK(c, tide__store_wait(c->store, T, 1 + many, 2500, &head, &c->error));
  assert_int_equal(head, 1 + many);
  bson_t *stats = fault_proxy("{'do': 'stats'}");
  /* one each second, and none for each commit that was there */
  assert_in_range(fault_number(stats, "commands.aggregate"), 1, 5);
  bson_destroy(stats);
}

static const struct CMUnitTest cases[] = {
    PROXY_CASE(test_who_is_overtaken_by_its_own_commit_has_no_conflict),
    PROXY_CASE(test_cursors_that_come_late_do_not_go_back),
    PROXY_CASE(test_who_waits_is_not_woken_by_what_was_read),
};

int main(void) {
  return RUN("decisions", cases);
}
