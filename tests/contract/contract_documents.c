/* contract_documents.c - documents: writing, deleting, listing. */
#include "contract.h"

static void put(contract *c, const char *path, const tide_bytes *body) {
  const tide_document document = {path, body != NULL ? body->data : NULL,
                                  body != NULL ? body->size : 0, NULL, 0};
  OK(c, tide__store_put_documents(c->store, T, &document, 1, &c->error));
}

/* Expects exactly these paths, in this order. */
static void list_is(contract *c, const char *prefix, const char *after, size_t limit,
                    const char *const *expected, size_t expected_count) {
  tide_bytes paths;
  size_t count = 99;
  OK(c, tide__store_list_documents(c->store, T, prefix, after, limit, &paths, &count, &c->error));
  const char *path = (const char *)paths.data;
  for (size_t i = 0; i < count && i < expected_count; i++) {
    assert_string_equal(path, expected[i]);
    path += strlen(path) + 1;
  }
  assert_int_equal(count, expected_count);
  if (count > 0) assert_ptr_equal(path, (const char *)paths.data + paths.size);
  tide__bytes_free(&paths);
}

static void test_documents_are_written_replaced_and_deleted(void **state) {
  contract *c = *state;
  const tide_bytes first = contract_body(c, 1), second = contract_body_of_size(c, 70000);
  contract_document_is(c, T, "/d", NULL);
  put(c, "/d", &first);
  contract_reopen(c);
  contract_document_is(c, T, "/d", &first);
  put(c, "/d", &second);
  contract_document_is(c, T, "/d", &second);
  put(c, "/d", &first);
  contract_reopen(c);
  contract_document_is(c, T, "/d", &first);
  put(c, "/d", NULL);
  put(c, "/never", NULL); /* to delete what is not there is no error */
  contract_document_is(c, T, "/d", NULL);
  contract_reopen(c);
  contract_document_is(c, T, "/d", NULL);
  list_is(c, "/", NULL, 10, NULL, 0);
}

static void test_deleting_makes_no_tenant(void **state) {
  contract *c = *state;
  const tide_bytes a = contract_body(c, 1);
  tide_bytes names;
  size_t count = 99;
  put(c, "/never", NULL);
  OK(c, tide__store_tenants(c->store, &names, &count, &c->error));
  assert_int_equal(count, 0);
  tide__bytes_free(&names);
  put(c, "/d", &a);
  put(c, "/d", NULL);
  OK(c, tide__store_tenants(c->store, &names, &count, &c->error));
  assert_int_equal(count, 1);
  tide__bytes_free(&names);
}

static void test_documents_of_one_call_are_written_in_order(void **state) {
  contract *c = *state;
  const tide_bytes a = contract_body(c, 1), b = contract_body(c, 2);
  const tide_document documents[] = {
      {"/twice", a.data, a.size, NULL, 0}, {"/gone", a.data, a.size, NULL, 0},
      {"/twice", b.data, b.size, NULL, 0}, {"/gone", NULL, 0, NULL, 0},
      {"/back", NULL, 0, NULL, 0},         {"/back", b.data, b.size, NULL, 0}};
  OK(c, tide__store_put_documents(c->store, T, documents, COUNT(documents), &c->error));
  contract_document_is(c, T, "/twice", &b);
  contract_document_is(c, T, "/gone", NULL);
  contract_document_is(c, T, "/back", &b);
}

static void test_a_bad_document_among_others_refuses_all(void **state) {
  contract *c = *state;
  const tide_bytes a = contract_body(c, 1);
  static const uint8_t bad[] = {6, 0, 0, 0, 0};
  put(c, "/kept", &a);
  const tide_document documents[] = {{"/a", a.data, a.size, NULL, 0},
                                     {"/kept", NULL, 0, NULL, 0},
                                     {"/bad", bad, sizeof bad, NULL, 0}};
  REFUSED(c, TIDE_INVALID_ARGUMENT, "document",
          tide__store_put_documents(c->store, T, documents, COUNT(documents), &c->error));
  contract_document_is(c, T, "/a", NULL);
  contract_document_is(c, T, "/kept", &a);
}

static void test_documents_have_sizes_up_to_the_limit(void **state) {
  contract *c = *state;
  static const size_t sizes[] = {32, 4096, 100000, TIDE_BODY_MAX};
  tide_bytes bodies[COUNT(sizes)];
  static const char *const paths[] = {"/0", "/1", "/2", "/3"};
  for (size_t i = 0; i < COUNT(sizes); i++) {
    bodies[i] = contract_body_of_size(c, sizes[i]);
    put(c, paths[i], &bodies[i]);
  }
  contract_reopen(c);
  for (size_t i = 0; i < COUNT(sizes); i++)
    contract_document_is(c, T, paths[i], &bodies[i]);
  static const uint8_t empty[] = {5, 0, 0, 0, 0};
  const tide_bytes nothing = {(uint8_t *)(uintptr_t)empty, sizeof empty};
  put(c, "/3", &nothing); /* an empty document is not a deletion */
  contract_document_is(c, T, "/3", &nothing);
  const tide_bytes larger = contract_body_of_size(c, TIDE_BODY_MAX + 1);
  const tide_document refused = {"/3", larger.data, larger.size, NULL, 0};
  REFUSED(c, TIDE_LIMIT, "document",
          tide__store_put_documents(c->store, T, &refused, 1, &c->error));
  contract_document_is(c, T, "/3", &nothing);
}

static void test_documents_are_listed_by_bytes_prefix_and_page(void **state) {
  contract *c = *state;
  static const char *const sorted[] = {"/%",
                                       "/A",
                                       "/a",
                                       "/a%b",
                                       "/a%b/c",
                                       "/a*",
                                       "/a/",
                                       "/a/1",
                                       "/a/10",
                                       "/a/2",
                                       "/a/\xc3\xa4",
                                       "/a/\xf4\x8f\xbf\xbf",
                                       "/a/\xf4\x8f\xbf\xbf/x",
                                       "/a0",
                                       "/a?",
                                       "/aXb",
                                       "/a[b]",
                                       "/a\\",
                                       "/a_b",
                                       "/ab",
                                       "/b/1",
                                       "/\xc3\xa4",
                                       "/\xf0\x9f\x98\x80"};
  enum { many = COUNT(sorted) };
  const tide_bytes body = contract_body(c, 1);
  for (size_t i = 0; i < many; i++) /* 7 and 23 have no common factor: all, in another order */
    put(c, sorted[(i * 7 + 5) % many], &body);
  for (size_t i = 1; i < many; i++)
    assert_true(strcmp(sorted[i - 1], sorted[i]) < 0);
  static const struct {
    const char *prefix, *after;
    size_t limit, first, count;
  } rows[] = {
      {"/", NULL, 100, 0, many},
      {"/", "", SIZE_MAX, 0, many},
      {"/", "/", 100, 0, many},
      {"/", NULL, 5, 0, 5},
      {"/", NULL, 1, 0, 1},
      {"/a", NULL, 100, 2, 18}, /* the path "/a" itself begins with it, too */
      {"/a/", NULL, 100, 6, 7},
      {"/a/", NULL, 2, 6, 2},
      {"/a/", "/a/", 100, 7, 6}, /* after: that one itself is not wanted */
      {"/a/", "/a/1", 100, 8, 5},
      {"/a/", "/a/1x", 100, 9, 4}, /* after one that is not there */
      {"/a/", "/A", 100, 6, 7},    /* after one before the prefix */
      {"/a/", "/b", 100, 0, 0},    /* after one beyond the prefix */
      {"/a/", "/a/\xf4\x8f\xbf\xbf/x", 100, 0, 0},
      {"/a/\xf4\x8f\xbf\xbf", NULL, 100, 11, 2}, /* the last prefix there is */
      {"/a%", NULL, 100, 3, 2},                  /* no pattern in any language */
      {"/a_", NULL, 100, 18, 1},
      {"/a*", NULL, 100, 5, 1},
      {"/a?", NULL, 100, 14, 1},
      {"/a[", NULL, 100, 16, 1},
      {"/a\\", NULL, 100, 17, 1},
      {"/%", NULL, 100, 0, 1},
      {"/A", NULL, 100, 1, 1}, /* not "/a" */
      {"/b/1", NULL, 100, 20, 1},
      {"/b/11", NULL, 100, 0, 0},
      {"/z", NULL, 100, 0, 0},
      {"/\xc3\xa4", NULL, 100, 21, 1},
  };
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < COUNT(rows); i++)
      list_is(c, rows[i].prefix, rows[i].after, rows[i].limit, &sorted[rows[i].first],
              rows[i].count);
    for (size_t i = 0; i < many; i += 4) /* page by page */
      list_is(c, "/", i == 0 ? NULL : sorted[i - 1], 4, &sorted[i], many - i < 4 ? many - i : 4);
    contract_reopen(c);
  }
}

static void test_documents_are_not_listed_after_their_deletion(void **state) {
  contract *c = *state;
  static const char *const left[] = {"/1", "/3"};
  const tide_bytes body = contract_body(c, 1);
  put(c, "/2", &body);
  put(c, "/3", &body);
  put(c, "/1", &body);
  put(c, "/2", NULL);
  list_is(c, "/", NULL, 10, left, 2);
}

static const struct CMUnitTest tests[] = {
    CASE(test_documents_are_written_replaced_and_deleted),
    CASE(test_deleting_makes_no_tenant),
    CASE(test_documents_of_one_call_are_written_in_order),
    CASE(test_a_bad_document_among_others_refuses_all),
    CASE(test_documents_have_sizes_up_to_the_limit),
    CASE(test_documents_are_listed_by_bytes_prefix_and_page),
    CASE(test_documents_are_not_listed_after_their_deletion),
};
GROUP(document_cases, tests);
