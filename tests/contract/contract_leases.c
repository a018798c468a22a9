/* contract_leases.c - a thread's lease, its fencing token, and the commit of cursors. */
#include "contract.h"

#define LONG  60000 /* ms: does not expire in a test */
#define SHORT 30    /* ms: expires in one */

/* The lease as `owner` finds it; its cursors are the caller's. */
static tide_lease try_lease(contract *c, const char *thread, const char *owner, int64_t duration) {
  tide_lease lease;
  OK(c, tide__store_lease(c->store, T, thread, owner, duration, &lease, &c->error));
  if (!lease.held) assert_null(lease.cursors.data);
  return lease;
}

static void cursors_are(contract *c, const char *thread, const char *owner,
                        const tide_bytes *expected) {
  tide_lease lease = try_lease(c, thread, owner, LONG);
  assert_true(lease.held);
  assert_int_equal(lease.cursors.size, expected->size);
  assert_memory_equal(lease.cursors.data, expected->data, expected->size);
  tide__bytes_free(&lease.cursors);
}

static int commit_cursors(contract *c, const char *thread, const char *owner, int64_t token,
                          const tide_bytes *cursors, bool release) {
  return tide__store_commit_cursors(c->store, T, thread, owner, token, cursors, NULL, 0, release,
                                    &c->error);
}

static void test_lease_is_given_with_empty_cursors_and_an_end(void **state) {
  contract *c = *state;
  static const uint8_t empty[] = {5, 0, 0, 0, 0};
  const int64_t before = tide__now();
  tide_lease lease = try_lease(c, "thread", "owner", LONG);
  assert_true(lease.held);
  assert_true(lease.token >= 1);
  assert_in_range(lease.until, before + LONG, tide__now() + LONG);
  assert_int_equal(lease.cursors.size, sizeof empty);
  assert_memory_equal(lease.cursors.data, empty, sizeof empty);
  tide__bytes_free(&lease.cursors);
}

static void test_lease_held_by_another_is_refused_until_its_end(void **state) {
  contract *c = *state;
  tide_lease mine = try_lease(c, "thread", "owner", LONG);
  tide__bytes_free(&mine.cursors);
  for (int i = 0; i < 2; i++) {
    tide_lease other = try_lease(c, "thread", "other", LONG);
    assert_false(other.held);
    assert_int_equal(other.until, mine.until);
    contract_reopen(c);
  }
  /* the try took nothing away */
  OK(c, commit_cursors(c, "thread", "owner", mine.token, NULL, false));
}

static void test_lease_tokens_grow_by_one_for_ever(void **state) {
  contract *c = *state;
  int64_t token = contract_lease(c, "thread", "owner", LONG);
  static const char *const owners[] = {"owner", "owner", "other", "owner", "third"};
  for (size_t i = 0; i < COUNT(owners); i++) {
    assert_int_equal(contract_lease(c, "thread", owners[i], LONG), ++token);
    assert_false(try_lease(c, "thread", "none", LONG).held); /* takes no token */
    contract_reopen(c);
    OK(c, commit_cursors(c, "thread", owners[i], token, NULL, true));
    contract_reopen(c);
  }
}

static void test_leases_of_two_threads_are_apart(void **state) {
  contract *c = *state;
  const tide_bytes one = contract_body(c, 1), two = contract_body(c, 2);
  const int64_t first = contract_lease(c, "thread1", "owner", LONG);
  for (int i = 0; i < 3; i++)
    contract_lease(c, "thread2", "other", LONG);
  const int64_t second = contract_lease(c, "thread2", "other", LONG);
  assert_int_equal(second, first + 3);
  OK(c, commit_cursors(c, "thread1", "owner", first, &one, true));
  OK(c, commit_cursors(c, "thread2", "other", second, &two, false));
  REFUSED(c, TIDE_CONCURRENCY, NULL, commit_cursors(c, "thread1", "other", second, &two, false));
  cursors_are(c, "thread1", "x", &one);
  cursors_are(c, "thread2", "other", &two);
}

static void test_lease_renewed_by_its_owner_ends_later(void **state) {
  contract *c = *state;
  tide_lease first = try_lease(c, "thread", "owner", 1000);
  tide_lease second = try_lease(c, "thread", "owner", LONG);
  assert_true(first.held && second.held);
  assert_true(second.until > first.until);
  tide__bytes_free(&first.cursors);
  tide__bytes_free(&second.cursors);
  OK(c, commit_cursors(c, "thread", "owner", second.token, NULL, false));
  /* the token before it is the owner's no more: two workers of one name are fenced, too */
  REFUSED(c, TIDE_CONCURRENCY, NULL,
          commit_cursors(c, "thread", "owner", first.token, NULL, false));
}

static void test_lease_that_has_expired_may_be_taken(void **state) {
  contract *c = *state;
  const tide_bytes cursors = contract_body(c, 1), late = contract_body(c, 2);
  const int64_t token = contract_lease(c, "thread", "owner", LONG);
  OK(c, commit_cursors(c, "thread", "owner", token, &cursors, false));
  const int64_t expired = contract_lease(c, "thread", "owner", SHORT);
  assert_int_equal(expired, token + 1);
  contract_sleep(SHORT + 2);
  tide_lease taken = try_lease(c, "thread", "other", LONG);
  assert_true(taken.held);
  assert_int_equal(taken.token, expired + 1);
  assert_memory_equal(taken.cursors.data, cursors.data, cursors.size);
  tide__bytes_free(&taken.cursors);
  REFUSED(c, TIDE_CONCURRENCY, NULL, commit_cursors(c, "thread", "owner", expired, &late, false));
  OK(c, commit_cursors(c, "thread", "other", taken.token, NULL, true));
  cursors_are(c, "thread", "third", &cursors);
}

static void test_lease_that_is_released_is_free_at_once(void **state) {
  contract *c = *state;
  const tide_bytes cursors = contract_body(c, 1);
  const int64_t token = contract_lease(c, "thread", "owner", LONG);
  OK(c, commit_cursors(c, "thread", "owner", token, &cursors, true));
  contract_reopen(c);
  REFUSED(c, TIDE_CONCURRENCY, NULL, commit_cursors(c, "thread", "owner", token, NULL, false));
  REFUSED(c, TIDE_CONCURRENCY, NULL, commit_cursors(c, "thread", "owner", token, NULL, true));
  cursors_are(c, "thread", "other", &cursors);
}

static void test_cursors_are_kept_as_last_committed(void **state) {
  contract *c = *state;
  const int64_t token = contract_lease(c, "thread", "owner", LONG);
  tide_bytes last = {0};
  for (int i = 0; i < 5; i++) {
    last = contract_body(c, i);
    OK(c, commit_cursors(c, "thread", "owner", token, &last, false));
  }
  OK(c, commit_cursors(c, "thread", "owner", token, NULL, false)); /* leaves them */
  contract_reopen(c);
  cursors_are(c, "thread", "owner", &last);
  const tide_bytes large = contract_body_of_size(c, 300000);
  OK(c, commit_cursors(c, "thread", "owner", token + 1, &large, true));
  contract_reopen(c);
  cursors_are(c, "thread", "other", &large);
}

static void test_documents_and_cursors_commit_together(void **state) {
  contract *c = *state;
  const tide_bytes cursors = contract_body(c, 1), a = contract_body(c, 2), b = contract_body(c, 3);
  const tide_document old = {"/old", a.data, a.size, NULL, 0};
  OK(c, tide__store_put_documents(c->store, T, &old, 1, &c->error));
  const int64_t token = contract_lease(c, "thread", "owner", LONG);
  const tide_document documents[] = {{"/a", a.data, a.size, NULL, 0},
                                     {"/b", b.data, b.size, NULL, 0},
                                     {"/old", NULL, 0, NULL, 0},
                                     {"/none", NULL, 0, NULL, 0}};
  OK(c, tide__store_commit_cursors(c->store, T, "thread", "owner", token, &cursors, documents,
                                   COUNT(documents), true, &c->error));
  contract_reopen(c);
  contract_document_is(c, T, "/a", &a);
  contract_document_is(c, T, "/b", &b);
  contract_document_is(c, T, "/old", NULL);
  cursors_are(c, "thread", "other", &cursors);
}

/* A commit of cursors and documents that must be refused and change nothing. */
static void refused_commit(contract *c, const char *owner, int64_t token) {
  const tide_bytes before = contract_body(c, 1), new = contract_body(c, 99);
  const tide_document documents[] = {{"/kept", NULL, 0, NULL, 0},
                                     {"/d", new.data, new.size, NULL, 0}};
  for (int release = 0; release < 2; release++)
    REFUSED(c, TIDE_CONCURRENCY, NULL,
            tide__store_commit_cursors(c->store, T, "thread", owner, token, &new, documents, 2,
                                       release != 0, &c->error));
  contract_document_is(c, T, "/kept", &before);
  contract_document_is(c, T, "/d", NULL);
}

static void test_a_commit_without_the_lease_is_refused_and_changes_nothing(void **state) {
  contract *c = *state;
  const tide_bytes body = contract_body(c, 1);
  const tide_document kept = {"/kept", body.data, body.size, NULL, 0};
  OK(c, tide__store_put_documents(c->store, T, &kept, 1, &c->error));
  /* never taken */
  static const int64_t guesses[] = {0, 1, -1, 2, INT64_MAX, INT64_MIN};
  for (size_t i = 0; i < COUNT(guesses); i++)
    refused_commit(c, "owner", guesses[i]);
  /* another's, and another token than the current one */
  const int64_t token = contract_lease(c, "thread", "owner", LONG);
  OK(c, commit_cursors(c, "thread", "owner", token, &body, false));
  refused_commit(c, "other", token);
  refused_commit(c, "Owner", token);
  refused_commit(c, "owner", token - 1);
  refused_commit(c, "owner", token + 1);
  contract_reopen(c);
  refused_commit(c, "other", token);
  OK(c, commit_cursors(c, "thread", "owner", token, NULL, false)); /* still the owner's */
  /* expired, though nobody has taken it since */
  const int64_t expired = contract_lease(c, "thread", "owner", SHORT);
  contract_sleep(SHORT + 2);
  refused_commit(c, "owner", expired);
  cursors_are(c, "thread", "owner", &body);
}

static const struct CMUnitTest tests[] = {
    CASE(test_lease_is_given_with_empty_cursors_and_an_end),
    CASE(test_lease_held_by_another_is_refused_until_its_end),
    CASE(test_lease_tokens_grow_by_one_for_ever),
    CASE(test_leases_of_two_threads_are_apart),
    CASE(test_lease_renewed_by_its_owner_ends_later),
    CASE(test_lease_that_has_expired_may_be_taken),
    CASE(test_lease_that_is_released_is_free_at_once),
    CASE(test_cursors_are_kept_as_last_committed),
    CASE(test_documents_and_cursors_commit_together),
    CASE(test_a_commit_without_the_lease_is_refused_and_changes_nothing),
};
GROUP(lease_cases, tests);
