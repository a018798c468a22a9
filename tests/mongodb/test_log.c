/* test_log.c - what may be found in a tenant's log that no engine puts there, and what the log
** refuses: keys that are taken, sizes, foreign documents, holes, a database that was dropped. */
#include "mongodb/fault.h"

#define LONG  60000 /* ms: a lease that does not expire in a test */
#define SHORT 30    /* ms: one that does */
#define STALE 300   /* ms after which an engine looks whether its log is still there */

/* The next commit of a scan must fail for good, with this in the message. */
static void next_fails(contract *c, tide_scan *scan, const char *message) {
  const tide_commit *commit = NULL;
  FAILS(c, false, tide__scan_next(scan, &commit, &c->error));
  if (strstr(c->error.message, message) == NULL)
    fail_msg("'%s' is not in '%s'", message, c->error.message);
  memset(&c->error, 0, sizeof c->error);
}

static void check_fails(contract *c, const char *message) {
  int64_t commits, events;
  FAILS(c, false, tide__store_check(c->store, T, &commits, &events, &c->error));
  if (strstr(c->error.message, message) == NULL)
    fail_msg("'%s' is not in '%s'", message, c->error.message);
  memset(&c->error, 0, sizeof c->error);
}

static void append_fails(contract *c, bool transient, const char *id, int64_t version,
                         const char *message) {
  tide_commit commit = contract_commit(c, "Adder", id, version, 1, NULL);
  tide_outcome outcome;
  FAILS(c, transient, tide__store_append(c->store, T, &commit, 1, &outcome, &c->error));
  if (strstr(c->error.message, message) == NULL)
    fail_msg("'%s' is not in '%s'", message, c->error.message);
  memset(&c->error, 0, sizeof c->error);
}

static void delete_event(const contract *c, int64_t id) {
  bson_t *reply = fault_command(
      c, "{'delete': 'events', 'deletes': [{'q': {'_id': {'$numberLong': '%lld'}}, 'limit': 1}]}",
      (long long)id);
  assert_int_equal(fault_number(reply, "n"), 1);
  bson_destroy(reply);
}

/* ---- Keys ---------------------------------------------------------------------------- */

static void test_a_taken_version_in_the_middle_of_a_group_refuses_that_commit_alone(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "taken", 0, 1);
  contract_reopen(c); /* and forgets what it knew of the aggregate */
  tide_commit group[] = {contract_commit(c, "Adder", "x", 0, 1, NULL),
                         contract_commit(c, "Adder", "taken", 0, 1, NULL),
                         contract_commit(c, "Adder", "taken", 1, 1, NULL),
                         contract_commit(c, "Adder", "x", 1, 1, NULL)};
  tide_outcome outcomes[4];
  OK(c, tide__store_append(c->store, T, group, 4, outcomes, &c->error));
  assert_int_equal(outcomes[0], TIDE_APPENDED);
  assert_int_equal(outcomes[1], TIDE_CONFLICT);
  assert_int_equal(outcomes[2], TIDE_APPENDED); /* it is the next one of what is there */
  assert_int_equal(outcomes[3], TIDE_APPENDED);
  fault_log_is(c, 4, 4);
}

static void test_a_known_command_in_the_middle_of_a_group_is_a_duplicate_alone(void **state) {
  contract *c = *state;
  tide_commit first = contract_commit(c, "Adder", "a", 0, 1, "command");
  assert_int_equal(contract_append(c, T, &first), TIDE_APPENDED);
  contract_reopen(c);
  tide_commit group[] = {contract_commit(c, "Adder", "x", 0, 1, NULL),
                         contract_commit(c, "Adder", "a", 1, 1, "command"),
                         contract_commit(c, "Adder", "a", 1, 2, "other"),
                         contract_commit(c, "Adder", "x", 1, 1, NULL)};
  tide_outcome outcomes[4];
  OK(c, tide__store_append(c->store, T, group, 4, outcomes, &c->error));
  assert_int_equal(outcomes[0], TIDE_APPENDED);
  assert_int_equal(outcomes[1], TIDE_DUPLICATE);
  assert_int_equal(group[1].position, 0);
  assert_int_equal(outcomes[2], TIDE_APPENDED);
  assert_int_equal(outcomes[3], TIDE_APPENDED);
  fault_log_is(c, 5, 4);
}

static void test_a_position_that_another_took_is_no_conflict(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  tide_store *mine = c->store, *other = contract_open_second(c);
  for (int64_t i = 0; i < 5; i++) {
    c->store = other;
    contract_put(c, T, "Adder", "b", 2 * i, 2);
    c->store = mine; /* whose head lies behind now */
    fault_append_some(c, "a", 1 + 3 * i, 3);
  }
  tide__store_close(other);
  fault_log_is(c, 26, 21);
}

static void test_a_version_beyond_the_next_one_is_a_conflict_however_little_is_known(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 2);
  static const int64_t versions[] = {0, 1, 3, 100, INT64_MAX - INT32_MAX};
  for (int known = 0; known < 2; known++) {
    for (size_t i = 0; i < COUNT(versions); i++) {
      if (known == 0) contract_reopen(c);
      tide_commit commit = contract_commit(c, "Adder", "a", versions[i], 1, NULL);
      assert_int_equal(contract_append(c, T, &commit), TIDE_CONFLICT);
    }
  }
  fault_log_is(c, 2, 1);
}

/* ---- Sizes ------------------------------------------------------------------------------- */

static void test_a_commit_of_16_mb_fits_and_a_larger_one_is_not_sent(void **state) {
  contract *c = *state;
  const tide_bytes most = contract_body_of_size(c, TIDE_BODY_MAX),
                   more = contract_body_of_size(c, TIDE_BODY_MAX + 1);
  char name[TIDE_NAME_MAX + 1];
  memset(name, 'n', TIDE_NAME_MAX);
  name[TIDE_NAME_MAX] = '\0';
  tide_commit large = contract_commit(c, name, name, 0, 1, name);
  large.body = most.data;
  large.body_size = most.size;
  assert_int_equal(contract_append(c, T, &large), TIDE_APPENDED);
  tide_commit larger = contract_commit(c, "Adder", "a", 0, 1, NULL);
  larger.body = more.data;
  larger.body_size = more.size;
  tide_outcome outcome;
  REFUSED(c, TIDE_LIMIT, "body", tide__store_append(c->store, T, &larger, 1, &outcome, &c->error));
  const tide_commit *log[] = {&large};
  contract_scan_gives(c, T, &(tide_query){0}, log, 1);
  fault_log_is(c, 1, 1);
}

static void test_a_full_disk_is_said_and_leaves_the_log_as_it_was(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  fault_failpoint("{'times': 3}", "'failCommands': ['insert', 'update'], 'errorCode': 14031");
  append_fails(c, false, "a", 1, "disk");
  const tide_bytes body = contract_body(c, 1);
  const tide_document document = {"/d", body.data, body.size, NULL, 0};
  FAILS(c, false, tide__store_put_documents(c->store, T, &document, 1, &c->error));
  memset(&c->error, 0, sizeof c->error);
  fault_failpoint_off();
  contract_document_is(c, T, "/d", NULL);
  contract_put(c, T, "Adder", "a", 1, 1);
  fault_log_is(c, 2, 2);
}

/* ---- What others do in the database --------------------------------------------------------- */

static void test_a_dropped_database_is_noticed_and_begun_anew(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 2);
  contract_put(c, T, "Adder", "a", 2, 1);
  bson_destroy(fault_command(c, "{'dropDatabase': 1}"));
  contract_sleep(STALE);
  append_fails(c, true, "a", 3, "dropped or put back");
  tide_commit stale = contract_commit(c, "Adder", "a", 3, 1, NULL);
  assert_int_equal(contract_append(c, T, &stale), TIDE_CONFLICT); /* there is no version 2 */
  contract_put(c, T, "Adder", "a", 0, 1);
  fault_log_is(c, 1, 1);
  bson_destroy(fault_command(c, "{'dropDatabase': 1}"));
  contract_sleep(STALE);
  tide_head head;
  FAILS(c, true, tide__store_head(c->store, T, &head, &c->error));
  memset(&c->error, 0, sizeof c->error);
  OK(c, tide__store_head(c->store, T, &head, &c->error));
  assert_int_equal(head.position, 0);
}

static void test_a_log_that_was_put_back_to_an_older_state_is_noticed(void **state) {
  contract *c = *state;
  fault_append_some(c, "a", 0, 5);
  for (int64_t i = 4; i >= 3; i--)
    delete_event(c, i);
  contract_sleep(STALE);
  append_fails(c, true, "a", 5, "dropped or put back");
  contract_put(c, T, "Adder", "a", 3, 1);
  fault_log_is(c, 4, 4);
}

static void test_a_database_of_somebody_else_is_refused_and_unchanged(void **state) {
  contract *c = *state;
  fault_plant(c, "events", "{'_id': 'party', 'when': 'friday'}");
  append_fails(c, false, "a", 0, "no mark of Tidelog");
  assert_int_equal(fault_count(c, "events", "{}"), 1);
  bson_t *reply = fault_command(c, "{'listIndexes': 'events', 'cursor': {}}");
  bson_iter_t top, at;
  assert_true(bson_iter_init(&top, reply));
  assert_false(bson_iter_find_descendant(&top, "cursor.firstBatch.1", &at));
  bson_destroy(reply);
}

static void test_a_newer_format_is_refused(void **state) {
  contract *c = *state;
  const tide_query all = {0};
  tide_scan *scan;
  fault_plant(c, "tidelog", "{'_id': 'store', 'application': 'tidelog', 'format': 2}");
  append_fails(c, false, "a", 0, "format 2");
  OK(c, tide__store_scan(c->store, T, &all, &scan, &c->error));
  next_fails(c, scan, "format 2");
  tide__scan_close(scan);
  assert_int_equal(fault_count(c, "events", "{}"), 0);
}

static void
test_a_foreign_document_at_the_heads_place_stops_writers_until_it_is_gone(void **state) {
  contract *c = *state;
  static const char *const documents[] = {
      "{'_id': {'$numberLong': '2'}}",
      "{'_id': {'$numberLong': '2'}, 'type': 'Adder', 'id': 'z', 'version': 'none'}", "{'_id': 2}",
      "{'_id': 2.0, 'x': 1}"};
  const tide_query all = {0};
  const tide_commit first = contract_put(c, T, "Adder", "a", 0, 2);
  for (size_t i = 0; i < COUNT(documents); i++) {
    tide_scan *scan;
    fault_plant(c, "events", documents[i]);
    fault_open(c, "", HASTY);
    append_fails(c, false, "a", 2, "no commit of Tidelog");
    OK(c, tide__store_scan(c->store, T, &all, &scan, &c->error));
    contract_next_is(c, scan, &first); /* what is good before it is given */
    next_fails(c, scan, "no commit of Tidelog");
    tide__scan_close(scan);
    check_fails(c, "no commit");
    bson_destroy(
        fault_command(c, "{'delete': 'events', 'deletes': [{'q': {'_id': 2}, 'limit': 1}]}"));
  }
  contract_put(c, T, "Adder", "a", 2, 1);
  fault_log_is(c, 3, 2);
}

static void test_a_foreign_document_beside_the_order_is_found_by_the_check(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  fault_plant(c, "events", "{'_id': 'a note', 'type': 'x', 'id': 'y', 'version': 1}");
  contract_put(c, T, "Adder", "a", 1, 1); /* it disturbs nobody */
  contract_put(c, T, "Adder", "b", 0, 1);
  check_fails(c, "no commit");
  bson_destroy(
      fault_command(c, "{'delete': 'events', 'deletes': [{'q': {'_id': 'a note'}, 'limit': 1}]}"));
  fault_log_is(c, 3, 3);
}

static void test_a_missing_index_is_found_by_the_check_and_made_by_setup(void **state) {
  contract *c = *state;
  contract_put(c, T, "Adder", "a", 0, 1);
  bson_destroy(fault_command(c, "{'dropIndexes': 'events', 'index': 'aggregate'}"));
  check_fails(c, "unique index on type, id, version");
  OK(c, tide__store_setup(c->store, T, &c->error));
  fault_log_is(c, 1, 1);
}

/* ---- A hole --------------------------------------------------------------------------------- */

static void test_a_hole_stops_readers_is_reported_and_closed_by_a_tombstone(void **state) {
  contract *c = *state;
  const tide_query all = {0};
  int64_t events = 0;
  tide_scan *scan;
  const tide_commit first = contract_put(c, T, "Adder", "a", 0, 1);
  contract_put(c, T, "Adder", "lost", 0, 3);
  const tide_commit behind = contract_put(c, T, "Adder", "a", 1, 1);
  bson_t *reply =
      fault_command(c, "{'find': 'events', 'filter': {'_id': 1}, 'limit': 1, 'singleBatch': true}");
  delete_event(c, 1);
  fault_open(c, "", HASTY);
  OK(c, tide__store_scan(c->store, T, &all, &scan, &c->error));
  contract_next_is(c, scan, &first);
  next_fails(c, scan, "has a hole: position 4 follows where 1 is expected");
  next_fails(c, scan, "has a hole"); /* it stays where it is */
  check_fails(c, "has a hole");
  /* where there is none, none is closed */
  static const int64_t wrong[] = {0, 2, 3, 4, 5, 100};
  for (size_t i = 0; i < COUNT(wrong); i++)
    REFUSED(c, TIDE_INVALID_ARGUMENT, "position",
            tide__store_close_hole(c->store, T, wrong[i], "me", "lost", &events, &c->error));
  OK(c, tide__store_close_hole(c->store, T, 1, "me", "the disk is gone", &events, &c->error));
  assert_int_equal(events, 3);
  REFUSED(c, TIDE_INVALID_ARGUMENT, "position",
          tide__store_close_hole(c->store, T, 1, "me", "again", &events, &c->error));
  /* the reader goes on behind it, from where it stood */
  const tide_commit *commit = NULL;
  OK(c, tide__scan_next(scan, &commit, &c->error));
  assert_string_equal(commit->type, TIDE_TOMBSTONE);
  assert_int_equal(commit->position, 1);
  assert_int_equal(commit->count, 3);
  contract_next_is(c, scan, &behind);
  contract_next_is(c, scan, NULL);
  tide__scan_close(scan);
  /* the late writer meets its key */
  bson_iter_t top, document;
  assert_true(bson_iter_init(&top, reply) &&
              bson_iter_find_descendant(&top, "cursor.firstBatch.0", &document));
  const uint8_t *data;
  uint32_t size;
  bson_t late;
  bson_iter_document(&document, &size, &data);
  assert_true(bson_init_static(&late, data, size));
  mongoc_client_t *client = databases_client();
  char database[64];
  bson_error_t error;
  databases_name(c->uri, T, database, sizeof database);
  mongoc_collection_t *collection = mongoc_client_get_collection(client, database, "events");
  assert_false(mongoc_collection_insert_one(collection, &late, NULL, NULL, &error));
  assert_int_equal(error.code, 11000);
  mongoc_collection_destroy(collection);
  mongoc_client_destroy(client);
  bson_destroy(reply);
  /* and the log goes on */
  contract_put(c, T, "Adder", "a", 2, 1);
  int64_t commits;
  OK(c, tide__store_check(c->store, T, &commits, &events, &c->error));
  assert_int_equal(commits, 4);
  assert_int_equal(events, 6);
}

/* ---- A lease ----------------------------------------------------------------------------------
 */

static void test_a_lease_lost_inside_a_handler_writes_nothing(void **state) {
  contract *c = *state;
  const tide_bytes mine = contract_body(c, 1), others = contract_body(c, 2);
  const tide_document late[] = {{"/d", mine.data, mine.size, "thread/H", 5},
                                {"/e", mine.data, mine.size, "thread/H", 5}},
                      good[] = {{"/d", others.data, others.size, "thread/H", 6}};
  contract_put(c, T, "Adder", "a", 0, 1);
  const int64_t token = contract_lease(c, "thread", "slow", SHORT);
  contract_sleep(SHORT + 5);
  const int64_t next = contract_lease(c, "thread", "quick", LONG);
  OK(c, tide__store_commit_cursors(c->store, T, "thread", "quick", next, &others, good, 1, false,
                                   &c->error));
  REFUSED(c, TIDE_CONCURRENCY, "lease",
          tide__store_commit_cursors(c->store, T, "thread", "slow", token, &mine, late, 2, true,
                                     &c->error));
  contract_document_is(c, T, "/d", &others);
  contract_document_is(c, T, "/e", NULL);
  tide_thread thread = {0};
  OK(c, tide__store_get_thread(c->store, T, "thread", &thread, &c->error));
  assert_string_equal(thread.owner, "quick");
  assert_int_equal(thread.cursors.size, others.size);
  assert_memory_equal(thread.cursors.data, others.data, others.size);
  tide__bytes_free(&thread.cursors);
}

int main(void) {
  static const struct CMUnitTest cases[] = {
      CASE(test_a_taken_version_in_the_middle_of_a_group_refuses_that_commit_alone),
      CASE(test_a_known_command_in_the_middle_of_a_group_is_a_duplicate_alone),
      CASE(test_a_position_that_another_took_is_no_conflict),
      CASE(test_a_version_beyond_the_next_one_is_a_conflict_however_little_is_known),
      CASE(test_a_commit_of_16_mb_fits_and_a_larger_one_is_not_sent),
      CASE(test_a_full_disk_is_said_and_leaves_the_log_as_it_was),
      CASE(test_a_dropped_database_is_noticed_and_begun_anew),
      CASE(test_a_log_that_was_put_back_to_an_older_state_is_noticed),
      CASE(test_a_database_of_somebody_else_is_refused_and_unchanged),
      CASE(test_a_newer_format_is_refused),
      CASE(test_a_foreign_document_at_the_heads_place_stops_writers_until_it_is_gone),
      CASE(test_a_foreign_document_beside_the_order_is_found_by_the_check),
      CASE(test_a_missing_index_is_found_by_the_check_and_made_by_setup),
      CASE(test_a_hole_stops_readers_is_reported_and_closed_by_a_tombstone),
      CASE(test_a_lease_lost_inside_a_handler_writes_nothing),
  };
  return RUN("log", cases);
}
