/* test_forward.c - documents and cursors where the database has no transactions: a reader that
** dies in between, comes late, or is two.
**
** The server has none here, by the proxy, which also cuts off what a reader that died would not
** have sent. */
#include "mongodb/fault.h"

#define LONG 60000 /* ms: a lease that does not expire in a test */

/* The thread's lease, apart, on a log of 20 events. */
static int64_t begin_apart(contract *c, int64_t duration) {
  tide_lease lease;
  char mode[32];
  fault_pretend("no_transactions");
  fault_open(c, "", HASTY);
  contract_put(c, T, "Adder", "a", 0, 20);
  fault_described(c, "documents", mode, sizeof mode);
  assert_string_equal(mode, "forward only");
  OK(c, tide__store_lease(c->store, T, "thread", "owner", duration, &lease, &c->error));
  assert_true(lease.held && lease.apart);
  tide__bytes_free(&lease.cursors);
  return lease.token;
}

/* What a reader that dies in its commit does not come to. */
typedef enum death { NOTHING, CURSORS, DOCUMENTS, SECOND_DOCUMENT } death;

/* Commits cursors and `count` documents, unless it dies. */
static int commit(contract *c, int64_t token, const tide_document *documents, size_t count,
                  death dies) {
  /* the first findAndModify is the look at the lease */
  static const char *const rules[] = {
      [NOTHING] = "'command': 'none'",
      [CURSORS] = "'command': 'findAndModify', 'skip': 1",
      [DOCUMENTS] = "'command': 'update', 'collection': 'documents'",
      [SECOND_DOCUMENT] = "'command': 'update', 'collection': 'documents', 'skip': 1"};
  const tide_bytes cursors = contract_body(c, documents[0].position);
  const int64_t rule = fault_rule("%s, 'times': 0, 'action': 'cut_before'", rules[dies]);
  const int code = tide__store_commit_cursors(c->store, T, "thread", "owner", token, &cursors,
                                              documents, count, false, &c->error);
  assert_true(dies == NOTHING || fault_fired(rule) > 0);
  bson_destroy(fault_proxy("{'do': 'remove', 'id': %lld}", (long long)rule));
  return code;
}

static void dies(contract *c, int64_t token, const tide_document *documents, size_t count,
                 death how) {
  FAILS(c, true, commit(c, token, documents, count, how));
  memset(&c->error, 0, sizeof c->error);
}

static void reflects(contract *c, const char *path, const char *writer, int64_t expected,
                     const tide_bytes *body) {
  tide_bytes got;
  int64_t position = -1;
  OK(c, tide__store_get_document(c->store, T, path, writer, &got, &position, &c->error));
  assert_int_equal(position, expected);
  assert_int_equal(got.size, body == NULL ? 0 : body->size);
  if (body != NULL) assert_memory_equal(got.data, body->data, body->size);
  tide__bytes_free(&got);
}

/* NULL: they never moved. */
static void cursors_are(contract *c, const tide_bytes *expected) {
  tide_thread thread;
  OK(c, tide__store_get_thread(c->store, T, "thread", &thread, &c->error));
  assert_int_equal(thread.cursors.size, expected == NULL ? 5 : expected->size);
  if (expected != NULL) assert_memory_equal(thread.cursors.data, expected->data, expected->size);
  tide__bytes_free(&thread.cursors);
}

static void paths_are(contract *c, const char *const *expected, size_t count) {
  tide_bytes paths;
  size_t found;
  OK(c, tide__store_list_documents(c->store, T, "/", NULL, 100, &paths, &found, &c->error));
  assert_int_equal(found, count);
  const char *path = (const char *)paths.data;
  for (size_t i = 0; i < count; i++, path += strlen(path) + 1)
    assert_string_equal(path, expected[i]);
  tide__bytes_free(&paths);
}

static void test_documents_ahead_of_their_cursors_say_so_and_go_only_forward(void **state) {
  contract *c = *state;
  const int64_t token = begin_apart(c, LONG);
  const tide_bytes five = contract_body(c, 5), three = contract_body(c, 3),
                   nine = contract_body(c, 9);
  const tide_document ahead[] = {{"/d", five.data, five.size, "thread/H", 5},
                                 {"/gone", five.data, five.size, "thread/H", 4},
                                 {"/gone", NULL, 0, "thread/H", 5}};
  /* killed between the documents and the cursors */
  assert_int_equal(commit(c, token, ahead, 3, CURSORS), TIDE_STORE);
  memset(&c->error, 0, sizeof c->error);
  reflects(c, "/d", "thread/H", 5, &five);
  reflects(c, "/gone", "thread/H", 5, NULL);
  cursors_are(c, NULL);
  /* the same again, and less, change nothing; more is written */
  const tide_document less[] = {{"/d", three.data, three.size, "thread/H", 3}},
                      more[] = {{"/d", nine.data, nine.size, "thread/H", 9}},
                      others[] = {{"/d", three.data, three.size, "thread/G", 2}};
  OK(c, commit(c, token, ahead, 3, NOTHING));
  reflects(c, "/d", "thread/H", 5, &five);
  OK(c, commit(c, token, less, 1, NOTHING));
  reflects(c, "/d", "thread/H", 5, &five);
  OK(c, commit(c, token, more, 1, NOTHING));
  reflects(c, "/d", "thread/H", 9, &nine);
  /* another handler's events are its own */
  OK(c, commit(c, token, others, 1, NOTHING));
  reflects(c, "/d", "thread/H", 9, &three);
  reflects(c, "/d", "thread/G", 2, &three);
  reflects(c, "/d", "thread/none", 0, &three);
}

static void test_each_document_goes_on_from_where_it_is(void **state) {
  contract *c = *state;
  const int64_t token = begin_apart(c, LONG);
  const tide_bytes old = contract_body(c, 2), four = contract_body(c, 4), six = contract_body(c, 6);
  const tide_document before[] = {{"/a", old.data, old.size, "thread/H", 2},
                                  {"/b", old.data, old.size, "thread/H", 2}};
  const tide_document now[] = {{"/a", four.data, four.size, "thread/H", 4},
                               {"/b", four.data, four.size, "thread/H", 4}};
  const tide_document then[] = {{"/a", six.data, six.size, "thread/H", 6},
                                {"/b", six.data, six.size, "thread/H", 6}};
  OK(c, commit(c, token, before, 2, NOTHING));
  const tide_bytes cursors = contract_body(c, 2);
  dies(c, token, now, 2, DOCUMENTS);
  reflects(c, "/a", "thread/H", 2, &old);
  dies(c, token, now, 2, SECOND_DOCUMENT);
  reflects(c, "/a", "thread/H", 4, &four);
  reflects(c, "/b", "thread/H", 2, &old);
  cursors_are(c, &cursors);
  OK(c, commit(c, token, now, 2, NOTHING));
  reflects(c, "/a", "thread/H", 4, &four);
  reflects(c, "/b", "thread/H", 4, &four);
  OK(c, commit(c, token, then, 2, NOTHING));
  reflects(c, "/a", "thread/H", 6, &six);
  reflects(c, "/b", "thread/H", 6, &six);
}

static void test_a_deleted_document_stays_deleted_and_known(void **state) {
  contract *c = *state;
  static const char *const other[] = {"/other"}, *const both[] = {"/gone", "/other"};
  const int64_t token = begin_apart(c, LONG);
  const tide_bytes three = contract_body(c, 3), six = contract_body(c, 6);
  const tide_document gone[] = {{"/gone", NULL, 0, "thread/H", 5},
                                {"/other", three.data, three.size, "thread/H", 5}};
  const tide_document less[] = {{"/gone", three.data, three.size, "thread/H", 3}},
                      more[] = {{"/gone", six.data, six.size, "thread/H", 6}};
  OK(c, commit(c, token, less, 1, NOTHING));
  dies(c, token, gone, 2, CURSORS);
  for (int i = 0; i < 2; i++) { /* again by this handle, then by another */
    reflects(c, "/gone", "thread/H", 5, NULL);
    paths_are(c, other, 1);
    OK(c, commit(c, token, less, 1, NOTHING)); /* the events before it, once more */
    reflects(c, "/gone", "thread/H", 5, NULL);
    paths_are(c, other, 1);
    assert_int_equal(fault_count(c, "documents", "{'_id': '/gone'}"), 1);
    fault_open(c, "", HASTY);
  }
  OK(c, commit(c, token, more, 1, NOTHING));
  reflects(c, "/gone", "thread/H", 6, &six);
  paths_are(c, both, 2);
}

static void test_a_document_of_two_handlers_has_a_mark_of_each(void **state) {
  contract *c = *state;
  const int64_t token = begin_apart(c, LONG);
  const tide_bytes one = contract_body(c, 1), two = contract_body(c, 2);
  const tide_document first[] = {{"/d", one.data, one.size, "thread/H", 5},
                                 {"/d", one.data, one.size, "thread/G", 3}};
  const tide_document torn[] = {{"/d", two.data, two.size, "thread/H", 9},
                                {"/d", two.data, two.size, "thread/G", 2}};
  const tide_document second[] = {{"/d", two.data, two.size, "thread/G", 4}};
  dies(c, token, first, 2, CURSORS);
  reflects(c, "/d", "thread/H", 5, &one);
  reflects(c, "/d", "thread/G", 3, &one);
  OK(c, commit(c, token, first, 2, NOTHING));
  reflects(c, "/d", "thread/H", 5, &one);
  /* a body that has what is new and what is there already cannot be right */
  REFUSED(c, TIDE_CONCURRENCY, "document", commit(c, token, torn, 2, NOTHING));
  reflects(c, "/d", "thread/H", 5, &one);
  reflects(c, "/d", "thread/G", 3, &one);
  OK(c, commit(c, token, second, 1, NOTHING));
  reflects(c, "/d", "thread/H", 5, &two);
  reflects(c, "/d", "thread/G", 4, &two);
}

/* The lease, as soon as the one before has expired. */
static int64_t lease_after(contract *c, const char *owner) {
  for (;;) {
    tide_lease lease;
    OK(c, tide__store_lease(c->store, T, "thread", owner, LONG, &lease, &c->error));
    tide__bytes_free(&lease.cursors);
    if (lease.held) return lease.token;
    contract_sleep(20);
  }
}

/* A reader whose writes of documents are on their way when it loses its lease; the one behind
** it writes more, and then they arrive. */
static void a_zombie_writes_late(contract *c, bool there) {
  const int64_t token = begin_apart(c, 2000);
  const tide_bytes old = contract_body(c, 2), five = contract_body(c, 5),
                   nine = contract_body(c, 9);
  const tide_document before = {"/d", old.data, old.size, "thread/H", 2},
                      late[] = {{"/d", five.data, five.size, "thread/H", 5}},
                      newer[] = {{"/d", nine.data, nine.size, "thread/H", 9}};
  if (there) OK(c, commit(c, token, &before, 1, NOTHING));
  const int64_t rule = fault_rule(
      "'command': 'update', 'collection': 'documents', 'times': 0, "
      "'action': 'hold', 'cut': true");
  FAILS(c, true,
        tide__store_commit_cursors(c->store, T, "thread", "owner", token, &old, late, 1, false,
                                   &c->error));
  memset(&c->error, 0, sizeof c->error);
  assert_true(fault_fired(rule) > 0);
  bson_destroy(fault_proxy("{'do': 'remove', 'id': %lld}", (long long)rule));
  reflects(c, "/d", "thread/H", there ? 2 : 0, there ? &old : NULL);
  const int64_t next = lease_after(c, "successor");
  assert_int_equal(next, token + 1);
  OK(c, tide__store_commit_cursors(c->store, T, "thread", "successor", next, &nine, newer, 1, false,
                                   &c->error));
  reflects(c, "/d", "thread/H", 9, &nine);
  bson_t *released = fault_proxy("{'do': 'release'}");
  assert_true(fault_number(released, "replies.0.ok") >= 0); /* they arrived */
  bson_destroy(released);
  reflects(c, "/d", "thread/H", 9, &nine);
  /* and awake, it is told */
  REFUSED(c, TIDE_CONCURRENCY, "lease", commit(c, token, late, 1, NOTHING));
  reflects(c, "/d", "thread/H", 9, &nine);
  cursors_are(c, &nine);
}

static void test_a_zombie_cannot_write_a_document_backwards(void **state) {
  a_zombie_writes_late(*state, true);
}

static void test_a_zombie_cannot_make_a_document_that_its_successor_has_made(void **state) {
  a_zombie_writes_late(*state, false);
}

static void test_a_late_write_that_comes_before_its_successor_s_is_counted(void **state) {
  contract *c = *state;
  const int64_t token = begin_apart(c, 2000);
  const tide_bytes three = contract_body(c, 3), five = contract_body(c, 5),
                   nine = contract_body(c, 9);
  const tide_document late[] = {{"/d", five.data, five.size, "thread/H", 5}},
                      less[] = {{"/d", three.data, three.size, "thread/H", 3}},
                      newer[] = {{"/d", nine.data, nine.size, "thread/H", 9}};
  fault_rule(
      "'command': 'update', 'collection': 'documents', 'times': 0, 'action': 'hold', "
      "'cut': true");
  FAILS(c, true,
        tide__store_commit_cursors(c->store, T, "thread", "owner", token, &five, late, 1, false,
                                   &c->error));
  memset(&c->error, 0, sizeof c->error);
  const int64_t next = lease_after(c, "successor");
  bson_destroy(fault_proxy("{'do': 'release'}"));
  reflects(c, "/d", "thread/H", 5, &five);
  bson_destroy(fault_proxy("{'do': 'reset'}"));
  /* the successor, which looked before, has less: that is in it already */
  OK(c, tide__store_commit_cursors(c->store, T, "thread", "successor", next, &three, less, 1, false,
                                   &c->error));
  reflects(c, "/d", "thread/H", 5, &five);
  OK(c, tide__store_commit_cursors(c->store, T, "thread", "successor", next, &nine, newer, 1, false,
                                   &c->error));
  reflects(c, "/d", "thread/H", 9, &nine);
}

static void test_a_document_that_is_set_without_a_lease_keeps_its_marks(void **state) {
  contract *c = *state;
  const int64_t token = begin_apart(c, LONG);
  const tide_bytes five = contract_body(c, 5), hand = contract_body(c, 0),
                   nine = contract_body(c, 9);
  const tide_document first[] = {{"/d", five.data, five.size, "thread/H", 5}},
                      by_hand[] = {{"/d", hand.data, hand.size, NULL, 0}},
                      more[] = {{"/d", nine.data, nine.size, "thread/H", 9}};
  dies(c, token, first, 1, CURSORS);
  OK(c, tide__store_put_documents(c->store, T, by_hand, 1, &c->error));
  reflects(c, "/d", "thread/H", 5, &hand);
  OK(c, commit(c, token, first, 1, NOTHING));
  reflects(c, "/d", "thread/H", 5, &hand);
  OK(c, commit(c, token, more, 1, NOTHING));
  reflects(c, "/d", "thread/H", 9, &nine);
}

int main(void) {
  static const struct CMUnitTest cases[] = {
      PROXY_CASE(test_documents_ahead_of_their_cursors_say_so_and_go_only_forward),
      PROXY_CASE(test_each_document_goes_on_from_where_it_is),
      PROXY_CASE(test_a_deleted_document_stays_deleted_and_known),
      PROXY_CASE(test_a_document_of_two_handlers_has_a_mark_of_each),
      PROXY_CASE(test_a_zombie_cannot_write_a_document_backwards),
      PROXY_CASE(test_a_zombie_cannot_make_a_document_that_its_successor_has_made),
      PROXY_CASE(test_a_late_write_that_comes_before_its_successor_s_is_counted),
      PROXY_CASE(test_a_document_that_is_set_without_a_lease_keeps_its_marks),
  };
  return RUN("forward", cases);
}
