/* contract_processes.c - fork(), two handles of one log, and several processes that write
** it. */
#include <signal.h>
#include <stdio.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "contract.h"

static const uint8_t small[] = {14, 0, 0, 0, 0x10, 'n', 'u', 'm', 0, 7, 0, 0, 0, 0};

/* A forked child. It reports one byte and ends at once by a signal: what it has from its
** parent it cannot free, so no leak checker shall look at it. */
typedef struct child {
  pid_t pid;
  int report; /* the child writes, the parent reads */
} child;

/* true in the child. */
static bool forked(child *ch) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  ch->pid = fork();
  assert_true(ch->pid >= 0);
  close(ends[ch->pid == 0 ? 0 : 1]);
  ch->report = ends[ch->pid == 0 ? 1 : 0];
  return ch->pid == 0;
}

static void leave(const child *ch, int status) {
  const uint8_t byte = (uint8_t)status;
  while (write(ch->report, &byte, 1) != 1)
    continue;
  for (;;)
    raise(SIGKILL);
}

/* What the child reported; -1: it ended before it could. */
static int reported(const child *ch) {
  uint8_t byte = 0;
  const bool got = read(ch->report, &byte, 1) == 1;
  close(ch->report);
  assert_int_equal(waitpid(ch->pid, NULL, 0), ch->pid);
  return got ? byte : -1;
}

/* In the child: 0 if each call on the parent's handle answers TIDE_STORE, else which one
** did not. */
static int use_parents_handle(tide_store *s, tide_scan *open_scan) {
  tide_commit commit = {.type = "Adder",
                        .id = "a",
                        .version = 1,
                        .count = 1,
                        .body = small,
                        .body_size = sizeof small};
  const tide_commit *next;
  const tide_query all = {0};
  const tide_document document = {"/d", small, sizeof small, NULL, 0};
  const tide_snapshot snapshot = {.version = 0,
                                  .state = {(uint8_t *)(uintptr_t)small, sizeof small}};
  tide_snapshot got;
  tide_outcome outcome;
  tide_scan *scan;
  tide_head head;
  tide_lease lease;
  tide_thread thread;
  const tide_bytes cursors = {(uint8_t *)(uintptr_t)small, sizeof small};
  tide_bytes bytes;
  size_t count;
  int64_t position, version;
  tide_error error = {0};
  if (tide__store_append(s, T, &commit, 1, &outcome, &error) != TIDE_STORE) return 1;
  if (tide__store_scan(s, T, &all, &scan, &error) != TIDE_STORE) return 2;
  if (tide__scan_next(open_scan, &next, &error) != TIDE_STORE) return 3;
  if (tide__store_head(s, T, &head, &error) != TIDE_STORE) return 4;
  if (tide__store_find_command(s, T, "Adder", "a", "c", &position, &version, &error) != TIDE_STORE)
    return 5;
  if (tide__store_get_snapshot(s, T, "Adder", "a", &got, &error) != TIDE_STORE) return 6;
  if (tide__store_put_snapshot(s, T, "Adder", "a", &snapshot, &error) != TIDE_STORE) return 7;
  if (tide__store_lease(s, T, "thread", "owner", 1000, &lease, &error) != TIDE_STORE) return 8;
  if (tide__store_commit_cursors(s, T, "thread", "owner", 1, NULL, &document, 1, false, &error) !=
      TIDE_STORE)
    return 9;
  if (tide__store_put_documents(s, T, &document, 1, &error) != TIDE_STORE) return 10;
  if (tide__store_get_document(s, T, "/d", NULL, &bytes, NULL, &error) != TIDE_STORE) return 11;
  if (tide__store_list_documents(s, T, "/", NULL, 1, &bytes, &count, &error) != TIDE_STORE)
    return 12;
  if (tide__store_tenants(s, &bytes, &count, &error) != TIDE_STORE) return 13;
  if (tide__store_check(s, T, NULL, NULL, &error) != TIDE_STORE) return 14;
  if (tide__store_wait(s, T, 0, 1000, &position, &error) != TIDE_STORE) return 15;
  if (tide__store_import(s, T, &commit, 1, &error) != TIDE_STORE) return 16;
  if (tide__store_list_threads(s, T, NULL, 1, &bytes, &count, &error) != TIDE_STORE) return 17;
  if (tide__store_get_thread(s, T, "thread", &thread, &error) != TIDE_STORE) return 18;
  if (tide__store_put_thread(s, T, "thread", 1, &cursors, &error) != TIDE_STORE) return 19;
  if (tide__store_describe(s, T, &bytes, &error) != TIDE_STORE) return 20;
  return error.message[0] != '\0' && error.code == TIDE_STORE ? 0 : 21;
}

static void test_after_fork_the_parents_handle_answers_store_error(void **state) {
  contract *c = *state;
  const tide_query all = {0};
  tide_scan *scan = NULL;
  tide_commit first = contract_put(c, T, "Adder", "a", 0, 1);
  OK(c, tide__store_scan(c->store, T, &all, &scan, &c->error));
  child ch;
  if (forked(&ch)) {
    const int status = use_parents_handle(c->store, scan);
    tide__scan_close(scan); /* to close them is harmless, here and to the parent */
    tide__store_close(c->store);
    leave(&ch, status);
  }
  assert_int_equal(reported(&ch), 0);
  contract_next_is(c, scan, &first);
  contract_next_is(c, scan, NULL);
  tide__scan_close(scan);
  contract_put(c, T, "Adder", "a", 1, 1);
  contract_reopen(c);
  assert_int_equal(contract_verify(c, T), 2);
}

/* In the child: appends `count` events to the aggregate. 0: done. */
static int append_some(const char *uri, const char *id, int64_t version, int count) {
  tide_store *store = NULL;
  tide_error error = {0};
  int status = 0;
  if (tide__store_open(uri, NULL, &store, &error) != TIDE_OK) status = 1;
  for (int i = 0; status == 0 && i < count; i++) {
    tide_commit commit = {.type = "Adder",
                          .id = id,
                          .version = version + i,
                          .count = 1,
                          .body = small,
                          .body_size = sizeof small};
    tide_outcome outcome = 0;
    if (tide__store_append(store, T, &commit, 1, &outcome, &error) != TIDE_OK) status = 2;
    if (status == 0 && outcome != TIDE_APPENDED) status = 3;
  }
  if (status != 0) fprintf(stderr, "child: %d %s\n", status, error.message);
  tide__store_close(store);
  return status;
}

/* Appends `count` events to "b" while the parent closes its handle and opens another one
** in the middle. 0: done; 1: the store refuses to be opened after such a fork. */
static int append_while_the_parent_reopens(const char *uri, int to_parent, int from_parent,
                                           int count) {
  tide_store *store = NULL;
  tide_error error = {0};
  char byte = 'x';
  if (tide__store_open(uri, NULL, &store, &error) != TIDE_OK) return 1;
  int status = 0;
  for (int i = 0; i < count && status == 0; i++) {
    tide_commit commit = {.type = "Adder",
                          .id = "b",
                          .version = i,
                          .count = 1,
                          .body = small,
                          .body_size = sizeof small};
    tide_outcome outcome = 0;
    if (i == count / 2 && (write(to_parent, &byte, 1) != 1 || read(from_parent, &byte, 1) != 1))
      status = 2;
    const int code = tide__store_append(store, T, &commit, 1, &outcome, &error);
    if (i == 0 && code == TIDE_STORE) { /* a store may look at its files no sooner */
      status = 1;
    } else if (code != TIDE_OK || outcome != TIDE_APPENDED) {
      status = 3;
      fprintf(stderr, "child: %s\n", error.message);
    }
  }
  tide__store_close(store);
  return status;
}

/* A store may refuse it at once; what it takes, it keeps. */
static void test_after_fork_a_child_opens_its_own_store_or_is_refused(void **state) {
  contract *c = *state;
  contract_needs_persistence(c);
  enum { many = 20 };
  contract_put(c, T, "Adder", "a", 0, 1);
  int to_parent[2], to_child[2];
  char byte = 0;
  assert_int_equal(pipe(to_parent), 0);
  assert_int_equal(pipe(to_child), 0);
  child ch;
  if (forked(&ch))
    leave(&ch, append_while_the_parent_reopens(c->uri, to_parent[1], to_child[0], many));
  close(to_parent[1]); /* so that a child that ends early is noticed */
  close(to_child[0]);
  if (read(to_parent[0], &byte, 1) == 1) {
    contract_reopen(c);
    contract_put(c, T, "Adder", "a", 1, 1);
    assert_int_equal(write(to_child[1], &byte, 1), 1);
  } else {
    contract_put(c, T, "Adder", "a", 1, 1);
  }
  const int status = reported(&ch);
  close(to_parent[0]);
  close(to_child[1]);
  assert_in_range(status, 0, 1);
  contract_put(c, T, "Adder", "b", status == 0 ? many : 0, 1);
  contract_reopen(c);
  assert_int_equal(contract_verify(c, T), 3 + (status == 0 ? many : 0));
}

static void test_processes_append_to_one_order_without_gaps(void **state) {
  contract *c = *state;
  contract_needs_persistence(c);
  enum { children = 3, each = 40 };
  static const char *const ids[children] = {"a", "b", "c"};
  child all[children];
  contract_close(c); /* what is open at a fork() is another case's */
  for (int i = 0; i < children; i++)
    if (forked(&all[i])) leave(&all[i], append_some(c->uri, ids[i], 0, each));
  int failed = 0;
  for (int i = 0; i < children; i++)
    failed += reported(&all[i]) != 0;
  contract_open(c);
  assert_int_equal(failed, 0);
  assert_int_equal(contract_verify(c, T), children * each);
}

static void test_handles_see_each_others_writes(void **state) {
  contract *c = *state;
  contract_needs_persistence(c);
  tide_store *other = contract_open_second(c);
  const tide_query all = {0};
  tide_scan *scan = NULL;
  OK(c, tide__store_scan(other, T, &all, &scan, &c->error));
  contract_next_is(c, scan, NULL);
  for (int i = 0; i < 3; i++) {
    tide_commit commit = contract_commit(c, "Adder", "a", 2 * i, 1, NULL), second = commit;
    tide_outcome outcome;
    tide_head head;
    assert_int_equal(contract_append(c, T, &commit), TIDE_APPENDED);
    contract_next_is(c, scan, &commit);
    OK(c, tide__store_append(other, T, &second, 1, &outcome, &c->error));
    assert_int_equal(outcome, TIDE_CONFLICT); /* a cached version would not know */
    second.version++;
    OK(c, tide__store_append(other, T, &second, 1, &outcome, &c->error));
    assert_int_equal(outcome, TIDE_APPENDED);
    contract_next_is(c, scan, &second);
    OK(c, tide__store_head(c->store, T, &head, &c->error));
    assert_int_equal(head.position, 2 * i + 2);
  }
  const int64_t token = contract_lease(c, "thread", "owner", 60000);
  const tide_bytes body = contract_body(c, 1);
  const tide_document document = {"/d", body.data, body.size, NULL, 0};
  tide_lease lease;
  OK(c, tide__store_lease(other, T, "thread", "other", 1000, &lease, &c->error));
  assert_false(lease.held);
  OK(c, tide__store_commit_cursors(other, T, "thread", "owner", token, &body, &document, 1, true,
                                   &c->error));
  contract_document_is(c, T, "/d", &body);
  assert_int_equal(contract_lease(c, "thread", "other", 60000), token + 1);
  tide__scan_close(scan);
  tide__store_close(other);
  assert_int_equal(contract_verify(c, T), 6);
}

static const struct CMUnitTest tests[] = {
    CASE(test_after_fork_the_parents_handle_answers_store_error),
    CASE(test_after_fork_a_child_opens_its_own_store_or_is_refused),
    CASE(test_processes_append_to_one_order_without_gaps),
    CASE(test_handles_see_each_others_writes),
};
GROUP(process_cases, tests);
