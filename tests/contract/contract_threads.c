/* contract_threads.c - one store used by several threads, and one log by several handles.
** A thread reports by its struct: cmocka's assertions are the main thread's. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "contract.h"

enum { workers = 4, events_each = 60, leases_each = 40 };

static const uint8_t small[] = {14, 0, 0, 0, 0x10, 'n', 'u', 'm', 0, 7, 0, 0, 0, 0};

typedef struct worker {
  tide_store *store;
  int number;
  int hot_events;
  int64_t tokens; /* leases won */
  tide_error error;
  bool failed;
  pthread_barrier_t *barrier;
} worker;

/* The aggregate's next version, by a scan backwards. -1: failed. */
static int64_t next_version(worker *w, const char *id) {
  const tide_query last = {
      .type = "Adder", .id = id, .from = INT64_MAX, .backwards = true, .limit = 1};
  tide_scan *scan = NULL;
  const tide_commit *commit = NULL;
  int64_t next = -1;
  if (tide__store_scan(w->store, T, &last, &scan, &w->error) != TIDE_OK) return -1;
  if (tide__scan_next(scan, &commit, &w->error) == TIDE_OK)
    next = commit == NULL ? 0 : commit->version + commit->count;
  tide__scan_close(scan);
  return next;
}

/* Appends one event to the hot aggregate, which all want, and one to the worker's own;
** tries again where another one was first. */
static bool append_both(worker *w, int64_t *own_version) {
  char own[16];
  snprintf(own, sizeof own, "cold%d", w->number);
  bool hot_done = false, own_done = false;
  while (!hot_done || !own_done) {
    tide_commit commits[2] = {
        {.type = "Adder",
         .id = own,
         .version = *own_version,
         .count = 1,
         .body = small,
         .body_size = sizeof small},
        {.type = "Adder", .id = "hot", .count = 2, .body = small, .body_size = sizeof small}};
    tide_outcome outcomes[2] = {0};
    if ((commits[1].version = next_version(w, "hot")) < 0) return false;
    const size_t first = own_done ? 1 : 0, count = hot_done ? 1 : 2 - first;
    if (tide__store_append(w->store, T, commits + first, count, outcomes + first, &w->error) !=
        TIDE_OK)
      return false;
    if (outcomes[0] == TIDE_APPENDED) own_done = true;
    if (outcomes[1] == TIDE_APPENDED) {
      hot_done = true;
      w->hot_events += 2;
    }
    if (outcomes[0] == TIDE_CONFLICT) return false; /* nobody else writes there */
  }
  ++*own_version;
  return true;
}

static void *run_appends(void *argument) {
  worker *w = argument;
  int64_t own_version = 0;
  pthread_barrier_wait(w->barrier);
  for (int i = 0; i < events_each && !w->failed; i++)
    w->failed = !append_both(w, &own_version);
  return NULL;
}

/* Follows the log to its end while others write it. */
static void *run_reader(void *argument) {
  worker *w = argument;
  const tide_query all = {0};
  const int64_t end = workers * events_each * 3;
  tide_scan *scan = NULL;
  tide_head head = {0};
  pthread_barrier_wait(w->barrier);
  w->failed = tide__store_scan(w->store, T, &all, &scan, &w->error) != TIDE_OK;
  for (int idle = 0; !w->failed && head.position < end && idle < 60000;) {
    const tide_commit *commit = NULL;
    w->failed = tide__scan_next(scan, &commit, &w->error) != TIDE_OK;
    if (commit != NULL) {
      idle = 0;
      w->failed = tide__commit_verify(commit, &head, &w->error) != TIDE_OK;
    } else {
      idle++;
      contract_sleep(1);
    }
  }
  tide__scan_close(scan);
  if (head.position != end) w->failed = true;
  return NULL;
}

static void run(contract *c, worker *all, int count, void *(*body)(void *)) {
  pthread_t threads[workers + 1];
  pthread_barrier_t barrier;
  assert_int_equal(pthread_barrier_init(&barrier, NULL, (unsigned)count), 0);
  for (int i = 0; i < count; i++) {
    all[i].number = i;
    all[i].barrier = &barrier;
    if (all[i].store == NULL) all[i].store = c->store;
    void *(*const runs)(void *) = body == run_appends && i == workers ? run_reader : body;
    assert_int_equal(pthread_create(&threads[i], NULL, runs, &all[i]), 0);
  }
  for (int i = 0; i < count; i++)
    pthread_join(threads[i], NULL);
  pthread_barrier_destroy(&barrier);
  for (int i = 0; i < count; i++) {
    if (all[i].failed) print_error("thread %d: %s\n", i, all[i].error.message);
    assert_false(all[i].failed);
  }
}

static void check_appends(contract *c, const worker *all) {
  assert_int_equal(contract_verify(c, T), workers * events_each * 3);
  worker reader = {.store = c->store};
  for (int i = 0; i < workers; i++) {
    char own[16];
    snprintf(own, sizeof own, "cold%d", i);
    assert_int_equal(all[i].hot_events, events_each * 2);
    assert_int_equal(next_version(&reader, own), events_each);
  }
  assert_int_equal(next_version(&reader, "hot"), workers * events_each * 2);
}

static void test_threads_append_to_one_order_without_gaps(void **state) {
  contract *c = *state;
  worker all[workers + 1] = {{0}}; /* the last one reads */
  run(c, all, workers + 1, run_appends);
  check_appends(c, all);
  contract_reopen(c);
  check_appends(c, all);
}

static void test_handles_append_to_one_order_without_gaps(void **state) {
  contract *c = *state;
  contract_needs_persistence(c);
  worker all[workers + 1] = {{0}};
  for (int i = 0; i <= workers; i++)
    all[i].store = contract_open_second(c);
  run(c, all, workers + 1, run_appends);
  check_appends(c, all);
  for (int i = 0; i <= workers; i++)
    tide__store_close(all[i].store);
  contract_reopen(c);
  check_appends(c, all);
}

/* Two threads want one lease so and so often; who has it counts and gives it up. */
static void *run_leases(void *argument) {
  worker *w = argument;
  const char *owner = w->number == 0 ? "worker0" : "worker1";
  pthread_barrier_wait(w->barrier);
  while (w->tokens < leases_each && !w->failed) {
    tide_lease lease;
    if (tide__store_lease(w->store, T, "thread", owner, 60000, &lease, &w->error) != TIDE_OK) {
      w->failed = true;
      break;
    }
    tide_bytes body = {0};
    if (!lease.held) {
      sched_yield();
    } else {
      w->tokens++;
      /* a counter that only the lease protects */
      uint8_t counter[sizeof small];
      w->failed = tide__store_get_document(w->store, T, "/counter", NULL, &body, NULL, &w->error) !=
                  TIDE_OK;
      memcpy(counter, body.data != NULL ? body.data : small, sizeof counter);
      if (body.data == NULL) counter[9] = 0;
      if (++counter[9] == 0) counter[10]++;
      const tide_document document = {"/counter", counter, sizeof counter, NULL, 0};
      w->failed =
          w->failed || tide__store_commit_cursors(w->store, T, "thread", owner, lease.token, NULL,
                                                  &document, 1, true, &w->error) != TIDE_OK;
    }
    tide__bytes_free(&body);
    tide__bytes_free(&lease.cursors);
  }
  return NULL;
}

static void check_leases(contract *c, const worker *all) {
  const int64_t won = all[0].tokens + all[1].tokens;
  tide_bytes body;
  assert_int_equal(won, 2 * leases_each);
  OK(c, tide__store_get_document(c->store, T, "/counter", NULL, &body, NULL, &c->error));
  assert_int_equal(body.data[9] + 256 * body.data[10], won);
  tide__bytes_free(&body);
}

static void test_two_threads_race_for_a_lease_and_one_has_it(void **state) {
  contract *c = *state;
  worker all[2] = {{0}};
  run(c, all, 2, run_leases);
  check_leases(c, all);
}

static void test_two_handles_race_for_a_lease_and_one_has_it(void **state) {
  contract *c = *state;
  contract_needs_persistence(c);
  worker all[2] = {{.store = contract_open_second(c)}, {.store = contract_open_second(c)}};
  run(c, all, 2, run_leases);
  check_leases(c, all);
  tide__store_close(all[0].store);
  tide__store_close(all[1].store);
}

/* Each thread its own tenant, all kinds of calls, on one handle. */
static void *run_tenants(void *argument) {
  worker *w = argument;
  char tenant[16];
  snprintf(tenant, sizeof tenant, "t%d", w->number);
  pthread_barrier_wait(w->barrier);
  for (int i = 0; i < events_each && !w->failed; i++) {
    tide_commit commit = {.type = "Adder",
                          .id = "a",
                          .version = i,
                          .count = 1,
                          .body = small,
                          .body_size = sizeof small};
    const tide_document document = {"/d", small, sizeof small, NULL, 0};
    const tide_snapshot snapshot = {.version = i,
                                    .state = {(uint8_t *)(uintptr_t)small, sizeof small}};
    tide_outcome outcome = 0;
    tide_bytes names = {0};
    size_t count;
    w->failed =
        tide__store_append(w->store, tenant, &commit, 1, &outcome, &w->error) != TIDE_OK ||
        outcome != TIDE_APPENDED || commit.position != i ||
        tide__store_put_documents(w->store, tenant, &document, 1, &w->error) != TIDE_OK ||
        tide__store_put_snapshot(w->store, tenant, "Adder", "a", &snapshot, &w->error) != TIDE_OK ||
        tide__store_tenants(w->store, &names, &count, &w->error) != TIDE_OK || count < 1;
    tide__bytes_free(&names);
  }
  return NULL;
}

static void test_threads_write_to_their_own_tenants(void **state) {
  contract *c = *state;
  static const char *const names[workers] = {"t0", "t1", "t2", "t3"};
  worker all[workers] = {{0}};
  run(c, all, workers, run_tenants);
  for (int i = 0; i < workers; i++)
    assert_int_equal(contract_verify(c, names[i]), events_each);
}

static const struct CMUnitTest tests[] = {
    CASE(test_threads_append_to_one_order_without_gaps),
    CASE(test_handles_append_to_one_order_without_gaps),
    CASE(test_two_threads_race_for_a_lease_and_one_has_it),
    CASE(test_two_handles_race_for_a_lease_and_one_has_it),
    CASE(test_threads_write_to_their_own_tenants),
};
GROUP(thread_cases, tests);
