/* contract_names.c - what users name: odd texts come back as they are, each is itself
** and no other, and what breaks the rule is refused. */
#include <stdio.h>

#include "contract.h"

/* 256 bytes, and 256 bytes that end in a whole character */
#define A16     "aaaaaaaaaaaaaaaa"
#define A64     A16 A16 A16 A16
#define LONGEST A64 A64 A64 A64
#define A252    A64 A64 A64 A16 A16 A16 "aaaaaaaaaaaa"

static const char *const odd[] = {
    "a",
    "A",  /* no folding of case */
    "a ", /* no trimming */
    " a",
    " ",
    "1", /* no number, in no type system */
    "01",
    "1.0",
    "1e0",
    "+1",
    "-0",
    "0x1",
    "9223372036854775808",
    "null",
    "NULL",
    "true",
    "nan",
    "'",
    "''",
    "\"",
    "`",
    "\\",
    "\\0",
    "%",
    "_",
    "?",
    "?1",
    ":id",
    "$id",
    "$where",
    "a.b",
    ".",
    "..",
    "../../etc/passwd",
    "/",
    "a/b",
    "a:b",
    "a|b",
    "a,b",
    "{}",
    "[1]",
    "'; DROP TABLE commits; --",
    "' OR '1'='1",
    "\"}); db.dropDatabase(); //",
    "x' || (SELECT hash FROM commits) || '",
    "%s%s%n%d",
    "\xc3\xa4",  /* a with diaeresis in one piece */
    "a\xcc\x88", /* and in two: no normalization */
    "\xc3\x9f",  /* sharp s */
    "ss",
    "\xc4\xb0",                 /* I with a dot, of Turkish case */
    "\xe6\x97\xa5\xe6\x9c\xac", /* Japanese */
    "\xd7\xa9\xd7\x9c",         /* right to left */
    "\xe2\x80\x8e",             /* a mark without width */
    "\xe2\x80\xae",
    "\xef\xbb\xbf",     /* a byte order mark */
    "\xef\xbf\xbd",     /* the replacement character */
    "\xef\xbf\xbf",     /* U+FFFF, no character but valid */
    "\xee\x80\x80",     /* private use */
    "\xf0\x9f\x98\x80", /* beyond 16 bits */
    "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb",
    "\xf4\x8f\xbf\xbf", /* the last code point */
    "\xc2\xa0",         /* a space that does not break */
    LONGEST,
    A252 "\xf0\x9f\x98\x80",
};

static const char *const bad[] = {
    "\x01",
    "a\n",
    "a\tb",
    "\x1f",
    "\x7f",
    "\xff",
    "\x80",
    "a\xc3",    /* cut off */
    "\xc0\x80", /* a NUL in disguise */
    "\xc1\xbf", /* overlong */
    "\xe0\x80\x80",
    "\xed\xa0\x80", /* a surrogate */
    "\xf0\x80\x80\x80",
    "\xf4\x90\x80\x80", /* above U+10FFFF */
    "\xf8\x88\x80\x80\x80",
    LONGEST "a",
};

static void test_odd_aggregate_ids_are_each_their_own(void **state) {
  contract *c = *state;
  tide_commit commits[COUNT(odd)];
  tide_outcome outcomes[COUNT(odd)];
  for (size_t i = 0; i < COUNT(odd); i++)
    commits[i] = contract_commit(c, "Adder", odd[i], 0, 1 + (int32_t)i, odd[i]);
  OK(c, tide__store_append(c->store, T, commits, COUNT(odd), outcomes, &c->error));
  contract_reopen(c);
  for (size_t i = 0; i < COUNT(odd); i++) {
    int64_t position, version;
    const tide_commit *expected[] = {&commits[i]};
    const tide_query query = {.type = "Adder", .id = odd[i]};
    assert_int_equal(outcomes[i], TIDE_APPENDED);
    contract_scan_gives(c, T, &query, expected, 1);
    OK(c, tide__store_find_command(c->store, T, "Adder", odd[i], odd[i], &position, &version,
                                   &c->error));
    assert_int_equal(position, commits[i].position);
  }
  contract_verify(c, T);
}

static void test_odd_aggregate_types_are_each_their_own(void **state) {
  contract *c = *state;
  tide_commit commits[COUNT(odd)];
  tide_outcome outcomes[COUNT(odd)];
  for (size_t i = 0; i < COUNT(odd); i++)
    commits[i] = contract_commit(c, odd[i], "a", 0, 1 + (int32_t)i, NULL);
  OK(c, tide__store_append(c->store, T, commits, COUNT(odd), outcomes, &c->error));
  contract_reopen(c);
  for (size_t i = 0; i < COUNT(odd); i++) {
    const tide_commit *expected[] = {&commits[i]};
    const tide_query query = {.type = odd[i], .id = "a"};
    const tide_snapshot snapshot = {.version = (int64_t)i, .state = contract_body(c, 1)};
    tide_snapshot got;
    assert_int_equal(outcomes[i], TIDE_APPENDED);
    contract_scan_gives(c, T, &query, expected, 1);
    OK(c, tide__store_put_snapshot(c->store, T, odd[i], "a", &snapshot, &c->error));
    OK(c, tide__store_get_snapshot(c->store, T, odd[i], "a", &got, &c->error));
    assert_int_equal(got.version, i);
    tide__bytes_free(&got.state);
  }
  contract_verify(c, T);
}

static void test_odd_command_ids_are_each_their_own(void **state) {
  contract *c = *state;
  tide_commit commits[COUNT(odd)];
  tide_outcome outcomes[COUNT(odd)];
  for (size_t i = 0; i < COUNT(odd); i++)
    commits[i] = contract_commit(c, "Adder", "a", (int64_t)i, 1, odd[i]);
  OK(c, tide__store_append(c->store, T, commits, COUNT(odd), outcomes, &c->error));
  for (size_t i = 0; i < COUNT(odd); i++)
    assert_int_equal(outcomes[i], TIDE_APPENDED);
  contract_reopen(c);
  OK(c, tide__store_append(c->store, T, commits, COUNT(odd), outcomes, &c->error));
  for (size_t i = 0; i < COUNT(odd); i++) {
    assert_int_equal(outcomes[i], TIDE_DUPLICATE);
    assert_int_equal(commits[i].position, i);
  }
}

static void test_odd_threads_and_owners_are_each_their_own(void **state) {
  contract *c = *state;
  for (size_t i = 0; i < COUNT(odd); i++) {
    const int64_t token = contract_lease(c, odd[i], odd[i], 60000);
    tide_lease lease;
    OK(c,
       tide__store_lease(c->store, T, odd[i], odd[(i + 1) % COUNT(odd)], 60000, &lease, &c->error));
    assert_false(lease.held);
    const tide_bytes cursors = contract_body(c, (int64_t)i);
    OK(c, tide__store_commit_cursors(c->store, T, odd[i], odd[i], token, &cursors, NULL, 0, true,
                                     &c->error));
  }
  contract_reopen(c);
  for (size_t i = 0; i < COUNT(odd); i++) {
    const tide_bytes cursors = contract_body(c, (int64_t)i);
    tide_lease lease;
    OK(c, tide__store_lease(c->store, T, odd[i], "x", 60000, &lease, &c->error));
    assert_int_equal(lease.cursors.size, cursors.size);
    assert_memory_equal(lease.cursors.data, cursors.data, cursors.size);
    tide__bytes_free(&lease.cursors);
  }
}

static void test_odd_paths_are_each_their_own(void **state) {
  contract *c = *state;
  static char paths[COUNT(odd) + 1][TIDE_PATH_MAX + 1];
  tide_document documents[COUNT(paths)];
  tide_bytes bodies[COUNT(paths)];
  for (size_t i = 0; i < COUNT(paths); i++) {
    if (i < COUNT(odd)) {
      snprintf(paths[i], sizeof paths[i], "/%s", odd[i]);
    } else {
      memset(paths[i], 'p', TIDE_PATH_MAX);
      paths[i][0] = '/';
      paths[i][TIDE_PATH_MAX] = '\0';
    }
    bodies[i] = contract_body(c, (int64_t)i);
    documents[i] = (tide_document){paths[i], bodies[i].data, bodies[i].size, NULL, 0};
  }
  OK(c, tide__store_put_documents(c->store, T, documents, COUNT(paths), &c->error));
  contract_reopen(c);
  tide_bytes list;
  size_t count;
  for (size_t i = 0; i < COUNT(paths); i++)
    contract_document_is(c, T, paths[i], &bodies[i]);
  OK(c, tide__store_list_documents(c->store, T, "/", NULL, 1000, &list, &count, &c->error));
  assert_int_equal(count, COUNT(paths));
  const char *path = (const char *)list.data;
  for (size_t i = 1; i < count; i++) {
    const char *next = path + strlen(path) + 1;
    assert_true(strcmp(path, next) < 0);
    path = next;
  }
  tide__bytes_free(&list);
}

static void test_names_that_break_the_rule_are_refused(void **state) {
  contract *c = *state;
  tide_outcome outcome;
  tide_lease lease;
  tide_bytes bytes;
  tide_snapshot snapshot;
  tide_scan *scan;
  int64_t position, version;
  for (size_t i = 0; i <= COUNT(bad); i++) {
    const char *const name = i < COUNT(bad) ? bad[i] : "";
    const int code = i < COUNT(bad) ? TIDE_INVALID_ARGUMENT : TIDE_MISSING_ARGUMENT;
    tide_commit type = contract_commit(c, name, "a", 0, 1, NULL),
                id = contract_commit(c, "Adder", name, 0, 1, NULL),
                command = contract_commit(c, "Adder", "a", 0, 1, name);
    REFUSED(c, code, "aggregateType",
            tide__store_append(c->store, T, &type, 1, &outcome, &c->error));
    REFUSED(c, code, "aggregateId", tide__store_append(c->store, T, &id, 1, &outcome, &c->error));
    REFUSED(c, code, "commandId",
            tide__store_append(c->store, T, &command, 1, &outcome, &c->error));
    const tide_query by_type = {.type = name, .id = "a"}, by_id = {.type = "Adder", .id = name};
    REFUSED(c, code, "aggregateType", tide__store_scan(c->store, T, &by_type, &scan, &c->error));
    REFUSED(c, code, "aggregateId", tide__store_scan(c->store, T, &by_id, &scan, &c->error));
    REFUSED(
        c, code, "commandId",
        tide__store_find_command(c->store, T, "Adder", "a", name, &position, &version, &c->error));
    REFUSED(c, code, "aggregateId",
            tide__store_get_snapshot(c->store, T, "Adder", name, &snapshot, &c->error));
    REFUSED(c, code, "thread",
            tide__store_lease(c->store, T, name, "owner", 1000, &lease, &c->error));
    REFUSED(c, code, "owner",
            tide__store_lease(c->store, T, "thread", name, 1000, &lease, &c->error));
    REFUSED(
        c, code, "thread",
        tide__store_commit_cursors(c->store, T, name, "owner", 1, NULL, NULL, 0, false, &c->error));
    REFUSED(c, code, "owner",
            tide__store_commit_cursors(c->store, T, "thread", name, 1, NULL, NULL, 0, false,
                                       &c->error));
  }
  static char too_long[TIDE_PATH_MAX + 2];
  memset(too_long, 'p', TIDE_PATH_MAX + 1);
  too_long[0] = '/';
  const char *const bad_paths[] = {"a", "a/b", "/", " /a", "/a\n", "/\xff", "/\xc0\x80", too_long};
  const tide_bytes body = contract_body(c, 1);
  for (size_t i = 0; i < COUNT(bad_paths); i++) {
    const tide_document document = {bad_paths[i], body.data, body.size, NULL, 0};
    REFUSED(c, TIDE_INVALID_ARGUMENT, "path",
            tide__store_put_documents(c->store, T, &document, 1, &c->error));
    REFUSED(c, TIDE_INVALID_ARGUMENT, "path",
            tide__store_get_document(c->store, T, bad_paths[i], NULL, &bytes, NULL, &c->error));
  }
  tide_head head;
  OK(c, tide__store_head(c->store, T, &head, &c->error));
  assert_int_equal(head.position, 0);
}

static const struct CMUnitTest tests[] = {
    CASE(test_odd_aggregate_ids_are_each_their_own),
    CASE(test_odd_aggregate_types_are_each_their_own),
    CASE(test_odd_command_ids_are_each_their_own),
    CASE(test_odd_threads_and_owners_are_each_their_own),
    CASE(test_odd_paths_are_each_their_own),
    CASE(test_names_that_break_the_rule_are_refused),
};
GROUP(name_cases, tests);
