/* contract_wait.c - waiting for news. */
#include <pthread.h>

#include "contract.h"

#define LONG 20000 /* ms: no case waits so long */

static int64_t waited(contract *c, tide_store *store, int64_t position, int64_t timeout,
                      int64_t *head) {
  const int64_t start = tide__monotonic();
  *head = -1;
  OK(c, tide__store_wait(store, T, position, timeout, head, &c->error));
  return tide__monotonic() - start;
}

static void test_wait_returns_at_once_where_there_is_news(void **state) {
  contract *c = *state;
  int64_t head;
  contract_put(c, T, "Adder", "a", 0, 3);
  for (int64_t position = 0; position < 3; position++) {
    assert_true(waited(c, c->store, position, LONG, &head) < LONG / 2);
    assert_int_equal(head, 3);
  }
  contract_reopen(c);
  assert_true(waited(c, c->store, 0, LONG, &head) < LONG / 2);
  assert_int_equal(head, 3);
}

static void test_wait_returns_at_the_timeout_where_there_is_none(void **state) {
  contract *c = *state;
  int64_t head;
  contract_put(c, T, "Adder", "a", 0, 2);
  static const int64_t positions[] = {2, 3, INT64_MAX};
  for (size_t i = 0; i < COUNT(positions); i++) {
    assert_true(waited(c, c->store, positions[i], 60, &head) >= 60);
    assert_int_equal(head, 2);
  }
  assert_true(waited(c, c->store, 2, 0, &head) < LONG / 2); /* only looks */
  assert_int_equal(head, 2);
}

static void test_wait_on_an_unknown_tenant_creates_nothing(void **state) {
  contract *c = *state;
  int64_t head;
  tide_bytes names;
  size_t count = 99;
  assert_true(waited(c, c->store, 0, 20, &head) >= 20);
  assert_int_equal(head, 0);
  OK(c, tide__store_tenants(c->store, &names, &count, &c->error));
  assert_int_equal(count, 0);
}

static const uint8_t small[] = {14, 0, 0, 0, 0x10, 'n', 'u', 'm', 0, 7, 0, 0, 0, 0};

typedef struct writer {
  tide_store *store;
  int64_t version;
  int code;
} writer;

static void *append_later(void *argument) {
  writer *w = argument;
  tide_commit commit = {.type = "Adder",
                        .id = "a",
                        .version = w->version,
                        .count = 1,
                        .body = small,
                        .body_size = sizeof small};
  tide_outcome outcome;
  contract_sleep(100);
  w->code = tide__store_append(w->store, T, &commit, 1, &outcome, NULL);
  return NULL;
}

/* Waits on one handle while a thread appends through another. */
static void wakes(contract *c, tide_store *reader, tide_store *store, int64_t version) {
  writer w = {.store = store, .version = version, .code = -1};
  pthread_t thread;
  int64_t head;
  assert_int_equal(pthread_create(&thread, NULL, append_later, &w), 0);
  const int64_t took = waited(c, reader, version, LONG, &head);
  pthread_join(thread, NULL);
  assert_int_equal(w.code, TIDE_OK);
  assert_int_equal(head, version + 1);
  assert_true(took < LONG / 2);
}

static void test_wait_ends_when_another_thread_appends(void **state) {
  contract *c = *state;
  wakes(c, c->store, c->store, 0); /* a tenant that is not there yet, too */
  wakes(c, c->store, c->store, 1);
}

static void test_wait_ends_when_another_handle_appends(void **state) {
  contract *c = *state;
  contract_needs_persistence(c);
  tide_store *second = contract_open_second(c);
  wakes(c, second, c->store, 0);
  wakes(c, second, c->store, 1);
  tide__store_close(second);
}

static const struct CMUnitTest tests[] = {
    CASE(test_wait_returns_at_once_where_there_is_news),
    CASE(test_wait_returns_at_the_timeout_where_there_is_none),
    CASE(test_wait_on_an_unknown_tenant_creates_nothing),
    CASE(test_wait_ends_when_another_thread_appends),
    CASE(test_wait_ends_when_another_handle_appends),
};
GROUP(wait_cases, tests);
