/* contract_readers.c - a tenant's threads (readers) as they stand: listing, looking,
** putting; and what a store says of itself. */
#include <bson/bson.h>

#include "contract.h"

#define LONG  60000 /* ms: does not expire in a test */
#define SHORT 30    /* ms: expires in one */

static void list_is(contract *c, const char *after, size_t limit, const char *const *expected,
                    size_t expected_count) {
  tide_bytes names;
  size_t count = 99;
  OK(c, tide__store_list_threads(c->store, T, after, limit, &names, &count, &c->error));
  const char *name = (const char *)names.data;
  assert_int_equal(count, expected_count);
  for (size_t i = 0; i < count; i++) {
    assert_string_equal(name, expected[i]);
    name += strlen(name) + 1;
  }
  if (count > 0) assert_ptr_equal(name, (const char *)names.data + names.size);
  tide__bytes_free(&names);
}

/* Expects the thread so; owner "": nobody's. */
static void thread_is(contract *c, const char *name, int64_t token, const char *owner,
                      const tide_bytes *cursors) {
  static const uint8_t empty[] = {5, 0, 0, 0, 0};
  tide_thread thread;
  memset(&thread, 0xAA, sizeof thread);
  OK(c, tide__store_get_thread(c->store, T, name, &thread, &c->error));
  assert_int_equal(thread.token, token);
  assert_string_equal(thread.owner, owner);
  if (owner[0] == '\0')
    assert_int_equal(thread.until, 0);
  else
    assert_in_range(thread.until, tide__now(), tide__now() + LONG);
  assert_int_equal(thread.cursors.size, cursors != NULL ? cursors->size : sizeof empty);
  assert_memory_equal(thread.cursors.data, cursors != NULL ? cursors->data : empty,
                      thread.cursors.size);
  tide__bytes_free(&thread.cursors);
}

static void commit(contract *c, const char *name, const char *owner, int64_t token,
                   const tide_bytes *cursors, bool release) {
  OK(c, tide__store_commit_cursors(c->store, T, name, owner, token, cursors, NULL, 0, release,
                                   &c->error));
}

static void test_threads_are_listed_by_bytes_and_page(void **state) {
  contract *c = *state;
  static const char *const sorted[] = {"A", "a", "a%", "ab", "b", "\xc3\xa4", "\xf0\x9f\x98\x80"};
  enum { many = COUNT(sorted) };
  list_is(c, NULL, 10, NULL, 0);
  for (size_t i = 0; i < many; i++)
    contract_lease(c, sorted[(i * 3 + 2) % many], "owner", LONG);
  for (int round = 0; round < 2; round++) {
    list_is(c, NULL, 100, sorted, many);
    list_is(c, "", SIZE_MAX, sorted, many);
    list_is(c, "a", 2, &sorted[2], 2);
    list_is(c, "a$", 1, &sorted[2], 1); /* after one that is not there */
    list_is(c, sorted[many - 1], 100, NULL, 0);
    contract_reopen(c);
  }
}

static void test_a_thread_is_shown_as_it_stands(void **state) {
  contract *c = *state;
  const tide_bytes cursors = contract_body(c, 1);
  thread_is(c, "thread", 0, "", NULL);
  list_is(c, NULL, 10, NULL, 0); /* looking makes none */
  const int64_t token = contract_lease(c, "thread", "owner", LONG);
  thread_is(c, "thread", token, "owner", NULL);
  commit(c, "thread", "owner", token, &cursors, false);
  contract_reopen(c);
  thread_is(c, "thread", token, "owner", &cursors);
  commit(c, "thread", "owner", token, NULL, true);
  thread_is(c, "thread", token, "", &cursors);
  contract_lease(c, "thread", "owner", SHORT);
  contract_sleep(SHORT + 2);
  thread_is(c, "thread", token + 1, "", &cursors); /* expired */
}

static void test_a_thread_that_is_put_is_leased_behind_its_token(void **state) {
  contract *c = *state;
  const tide_bytes one = contract_body(c, 1), two = contract_body(c, 2);
  OK(c, tide__store_put_thread(c->store, T, "thread", 41, &one, &c->error));
  contract_reopen(c);
  thread_is(c, "thread", 41, "", &one);
  assert_int_equal(contract_lease(c, "thread", "owner", LONG), 42);
  commit(c, "thread", "owner", 42, &two, true);
  thread_is(c, "thread", 42, "", &two);
  OK(c, tide__store_put_thread(c->store, T, "highest", TIDE_TOKEN_MAX, &one, &c->error));
  assert_int_equal(contract_lease(c, "highest", "owner", LONG), TIDE_TOKEN_MAX + 1);
}

static void test_putting_a_thread_never_lowers_its_token(void **state) {
  contract *c = *state;
  const tide_bytes one = contract_body(c, 1), two = contract_body(c, 2);
  OK(c, tide__store_put_thread(c->store, T, "thread", 41, &one, &c->error));
  static const int64_t tokens[] = {40, 0, 41};
  for (size_t i = 0; i < COUNT(tokens); i++) {
    OK(c, tide__store_put_thread(c->store, T, "thread", tokens[i], &two, &c->error));
    thread_is(c, "thread", 41, "", &two); /* but replaces the cursors */
  }
  OK(c, tide__store_put_thread(c->store, T, "thread", 50, &one, &c->error));
  thread_is(c, "thread", 50, "", &one);
}

static void test_a_thread_whose_lease_is_held_is_not_put(void **state) {
  contract *c = *state;
  const tide_bytes one = contract_body(c, 1), two = contract_body(c, 2);
  const int64_t token = contract_lease(c, "thread", "owner", LONG);
  commit(c, "thread", "owner", token, &one, false);
  REFUSED(c, TIDE_CONCURRENCY, "lease",
          tide__store_put_thread(c->store, T, "thread", 90, &two, &c->error));
  thread_is(c, "thread", token, "owner", &one);
  commit(c, "thread", "owner", token, NULL, true);
  OK(c, tide__store_put_thread(c->store, T, "thread", 90, &two, &c->error));
  thread_is(c, "thread", 90, "", &two);
  contract_lease(c, "thread", "owner", SHORT);
  contract_sleep(SHORT + 2);
  OK(c, tide__store_put_thread(c->store, T, "thread", 0, &one, &c->error)); /* expired */
  thread_is(c, "thread", 91, "", &one);
  REFUSED(c, TIDE_CONCURRENCY, NULL,
          tide__store_commit_cursors(c->store, T, "thread", "owner", 91, &two, NULL, 0, false,
                                     &c->error));
}

/* A field of the description that must be a text of one line. */
static const char *said(const bson_t *bson, const char *key) {
  bson_iter_t at;
  assert_true(bson_iter_init_find(&at, bson, key));
  assert_true(BSON_ITER_HOLDS_UTF8(&at));
  const char *text = bson_iter_utf8(&at, NULL);
  assert_true(text[0] != '\0' && strchr(text, '\n') == NULL);
  return text;
}

static void test_a_store_says_what_it_is(void **state) {
  contract *c = *state;
  for (int i = 0; i < 3; i++) {
    tide_bytes bytes;
    bson_t bson;
    OK(c, tide__store_describe(c->store, i == 0 ? NULL : T, &bytes, &c->error));
    assert_true(bson_init_static(&bson, bytes.data, bytes.size));
    assert_true(bson_validate(&bson, BSON_VALIDATE_UTF8, NULL));
    assert_string_equal(said(&bson, "store"), c->store->ops->scheme);
    said(&bson, "place");
    said(&bson, "server");
    const char *documents = said(&bson, "documents"), *news = said(&bson, "news");
    assert_true(strcmp(documents, "with cursors") == 0 || strcmp(documents, "forward only") == 0);
    assert_true(strcmp(news, "polling") == 0 || strcmp(news, "change stream") == 0);
    tide__bytes_free(&bytes);
    if (i == 1) contract_put(c, T, "Adder", "a", 0, 1);
  }
}

static void test_what_a_store_has_no_need_of_is_said(void **state) {
  contract *c = *state;
  int64_t events = 0;
  if (c->store->ops->setup == NULL) {
    REFUSED(c, TIDE_NOT_IMPLEMENTED, "setup", tide__store_setup(c->store, T, &c->error));
  } else {
    OK(c, tide__store_setup(c->store, T, &c->error));
    OK(c, tide__store_setup(c->store, T, &c->error));
  }
  if (c->store->ops->close_hole == NULL)
    REFUSED(c, TIDE_NOT_IMPLEMENTED, "closeHole",
            tide__store_close_hole(c->store, T, 0, "actor", "lost", &events, &c->error));
}

static void test_documents_carry_their_writers(void **state) {
  contract *c = *state;
  const tide_bytes one = contract_body(c, 1), two = contract_body(c, 2);
  tide_lease lease;
  OK(c, tide__store_lease(c->store, T, "thread", "owner", LONG, &lease, &c->error));
  tide__bytes_free(&lease.cursors);
  const tide_document documents[] = {{"/d", one.data, one.size, "thread/a", 7},
                                     {"/d", two.data, two.size, "thread/b", 3},
                                     {"/gone", one.data, one.size, "thread/a", 5},
                                     {"/gone", NULL, 0, "thread/a", 6}};
  OK(c, tide__store_commit_cursors(c->store, T, "thread", "owner", lease.token, &one, documents,
                                   COUNT(documents), true, &c->error));
  contract_reopen(c);
  static const struct {
    const char *path, *writer;
    int64_t reflects; /* where documents and cursors are apart */
  } rows[] = {{"/d", "thread/a", 7}, {"/d", "thread/b", 3},    {"/d", "other/a", 0},
              {"/d", NULL, 0},       {"/gone", "thread/a", 6}, {"/e", "thread/a", 0}};
  for (size_t i = 0; i < COUNT(rows); i++) {
    tide_bytes body;
    int64_t reflects = -1;
    OK(c, tide__store_get_document(c->store, T, rows[i].path, rows[i].writer, &body, &reflects,
                                   &c->error));
    assert_int_equal(reflects, lease.apart ? rows[i].reflects : 0);
    assert_true((body.data != NULL) == (strcmp(rows[i].path, "/d") == 0));
    tide__bytes_free(&body);
  }
  contract_document_is(c, T, "/d", &two);
}

static const struct CMUnitTest tests[] = {
    CASE(test_threads_are_listed_by_bytes_and_page),
    CASE(test_a_thread_is_shown_as_it_stands),
    CASE(test_a_thread_that_is_put_is_leased_behind_its_token),
    CASE(test_putting_a_thread_never_lowers_its_token),
    CASE(test_a_thread_whose_lease_is_held_is_not_put),
    CASE(test_a_store_says_what_it_is),
    CASE(test_what_a_store_has_no_need_of_is_said),
    CASE(test_documents_carry_their_writers),
};
GROUP(reader_cases, tests);
