/* mongo_setup.c - a tenant's database: the mark that it is ours, its collections and indexes,
** and the repair of a hole in its order.
**
** The mark is written last, so that a database which has it has its indexes, too. */
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "stores/mongo_store.h"

#define FORMAT 1 /* of the documents; docs/format.md */

#define NAMESPACE_EXISTS   48
#define UNAUTHORIZED       13
#define UNAUTHORIZED_ATLAS 8000

/* ---- The mark ------------------------------------------------------------------- */

bool tide__mongo_is_known(tide__mongo_tenant *tenant) {
  (void)pthread_mutex_lock(&tenant->lock);
  bool known = tenant->known;
  (void)pthread_mutex_unlock(&tenant->lock);
  return known;
}

static int read_mark(const tide__mongo_tenant *tenant, const tide__reply *reply, bool *found,
                     tide_error *error) {
  bson_iter_t documents, mark, field;
  *found = false;
  if (!tide__batch(reply, &documents) || !bson_iter_next(&documents)) return TIDE_OK;
  if (!bson_iter_recurse(&documents, &mark) || !bson_iter_find(&mark, "format") ||
      !BSON_ITER_HOLDS_INT(&mark))
    return tide__fail_store(error, 0, "the database %s has a collection tidelog that is not ours",
                            tenant->database);
  field = mark;
  if (bson_iter_as_int64(&field) != FORMAT)
    return tide__fail_store(error, 0,
                            "the database %s has format %lld, and this Tidelog knows only %d",
                            tenant->database, (long long)bson_iter_as_int64(&field), FORMAT);
  *found = true;
  return TIDE_OK;
}

int tide__mongo_know(tide__mongo *store, tide__connection *connection, tide__mongo_tenant *tenant,
                     tide_error *error) {
  bool found = false;
  tide__reply reply;
  if (tide__mongo_is_known(tenant)) return TIDE_OK;
  bson_t *command = BCON_NEW("find", BCON_UTF8("tidelog"), "filter", "{", "_id", BCON_UTF8("store"),
                             "}", "limit", BCON_INT32(1), "singleBatch", BCON_BOOL(true));
  int code = tide__mongo_ask(store, connection, tenant->database, command, &reply, error);
  if (code == TIDE_OK) code = read_mark(tenant, &reply, &found, error);
  tide__reply_free(&reply);
  bson_destroy(command);
  if (code != TIDE_OK || !found) return code;
  (void)pthread_mutex_lock(&tenant->lock);
  tenant->known = true;
  (void)pthread_mutex_unlock(&tenant->lock);
  return TIDE_OK;
}

/* ---- Collections and indexes ---------------------------------------------------- */

static int create_collection(tide__mongo *store, tide__connection *connection, const char *database,
                             const char *name, tide_error *error) {
  tide__patience patience = tide__patience_begin(store);
  bson_t *command = BCON_NEW("create", BCON_UTF8(name));
  for (;;) {
    tide__reply reply;
    int code = TIDE_OK;
    tide__mongo_write(connection, database, command, NULL, &reply);
    bool again = reply.answer == TIDE__UNRESOLVED && tide__patience_again(&patience);
    /* Where it may not be made by us, somebody has made it, or the next step says so. */
    if (reply.answer != TIDE__DONE && reply.code != NAMESPACE_EXISTS &&
        reply.code != UNAUTHORIZED && reply.code != UNAUTHORIZED_ATLAS && !again)
      code = tide__mongo_fail(store, "creating a collection", &reply, error);
    tide__reply_free(&reply);
    if (again) continue;
    bson_destroy(command);
    return code;
  }
}

static bson_t *indexes_command(void) {
  return BCON_NEW("createIndexes", BCON_UTF8("events"), "indexes", "[", "{", "key", "{", "type",
                  BCON_INT32(1), "id", BCON_INT32(1), "version", BCON_INT32(1), "}", "name",
                  BCON_UTF8("aggregate"), "unique", BCON_BOOL(true), "}", "{", "key", "{", "type",
                  BCON_INT32(1), "id", BCON_INT32(1), "commandId", BCON_INT32(1), "}", "name",
                  BCON_UTF8("command"), "unique", BCON_BOOL(true), "partialFilterExpression", "{",
                  "commandId", "{", "$exists", BCON_BOOL(true), "}", "}", "}", "]");
}

/* Both unique indexes, by their keys: who made them may have named them otherwise. */
static int check_indexes(tide__mongo *store, tide__connection *connection, const char *database,
                         tide_error *error) {
  static const char *const keys[] = {"version", "commandId"};
  bool has[2] = {false, false};
  bson_iter_t indexes, index, field;
  tide__reply reply;
  bson_t *command = BCON_NEW("listIndexes", BCON_UTF8("events"), "cursor", "{", "}");
  tide__mongo_command(connection, database, command, &reply);
  bson_destroy(command);
  if (reply.answer == TIDE__DONE && tide__batch(&reply, &indexes)) {
    while (bson_iter_next(&indexes)) {
      bool unique = false;
      int which = -1;
      if (!bson_iter_recurse(&indexes, &index)) continue;
      while (bson_iter_next(&index)) {
        if (strcmp(bson_iter_key(&index), "unique") == 0) unique = bson_iter_as_bool(&index);
        if (strcmp(bson_iter_key(&index), "key") != 0 || !bson_iter_recurse(&index, &field))
          continue;
        int n = 0;
        static const char *const first[] = {"type", "id"};
        while (bson_iter_next(&field)) {
          const char *key = bson_iter_key(&field);
          if (n < 2 && strcmp(key, first[n]) != 0) break;
          if (n == 2) which = strcmp(key, keys[0]) == 0 ? 0 : strcmp(key, keys[1]) == 0 ? 1 : -1;
          n++;
        }
        if (n != 3) which = -1;
      }
      if (unique && which >= 0) has[which] = true;
    }
  }
  int code = TIDE_OK;
  if (reply.answer != TIDE__DONE)
    code = tide__mongo_fail(store, "listing indexes", &reply, error);
  else if (!has[0] || !has[1])
    code = tide__fail_store(error, 0,
                            "the database %s lacks the unique index on type, id, %s of events: "
                            "tidelog mongodb setup makes it",
                            database, keys[has[0] ? 1 : 0]);
  tide__reply_free(&reply);
  return code;
}

static int create_indexes(tide__mongo *store, tide__connection *connection, const char *database,
                          tide_error *error) {
  tide__reply reply;
  bson_t *command = indexes_command();
  int code = tide__mongo_do(store, connection, database, command, &reply, error);
  bool denied = reply.code == UNAUTHORIZED || reply.code == UNAUTHORIZED_ATLAS;
  if (code == TIDE_OK && reply.answer == TIDE__DUPLICATE)
    code = tide__mongo_fail(store, "creating indexes over what is there", &reply, error);
  tide__reply_free(&reply);
  bson_destroy(command);
  /* Whose role may not make them can use those that others made. */
  return denied ? check_indexes(store, connection, database, error) : code;
}

/* A database without our mark that has events already is somebody else's. */
static int check_foreign(tide__mongo *store, tide__connection *connection,
                         tide__mongo_tenant *tenant, tide_error *error) {
  tide__reply reply;
  bson_iter_t documents;
  bson_t *command = BCON_NEW("find", BCON_UTF8("events"), "filter", "{", "}", "limit",
                             BCON_INT32(1), "singleBatch", BCON_BOOL(true));
  int code = tide__mongo_ask(store, connection, tenant->database, command, &reply, error);
  bool any = code == TIDE_OK && tide__batch(&reply, &documents) && bson_iter_next(&documents);
  tide__reply_free(&reply);
  bson_destroy(command);
  if (code != TIDE_OK || !any) return code;
  /* Another process may have made the tenant, and written to it, since we looked. */
  code = tide__mongo_know(store, connection, tenant, error);
  if (code != TIDE_OK || tide__mongo_is_known(tenant)) return code;
  return tide__fail_store(error, 0,
                          "the database %s has a collection events, but no mark of Tidelog: it is "
                          "somebody else's, or was dropped while an engine wrote to it",
                          tenant->database);
}

static int write_mark(tide__mongo *store, tide__connection *connection, const char *database,
                      tide_error *error) {
  tide__reply reply;
  bson_t *command =
      BCON_NEW("insert", BCON_UTF8("tidelog"), "documents", "[", "{", "_id", BCON_UTF8("store"),
               "application", BCON_UTF8("tidelog"), "format", BCON_INT32(FORMAT), "}", "]");
  int code = tide__mongo_do(store, connection, database, command, &reply, error);
  tide__reply_free(&reply);
  bson_destroy(command);
  return code;
}

int tide__mongo_make(tide__mongo *store, tide__connection *connection, tide__mongo_tenant *tenant,
                     tide_error *error) {
  static const char *const collections[] = {"threads", "documents", "snapshots"};
  (void)pthread_mutex_lock(&tenant->lock);
  bool ready = tenant->ready;
  (void)pthread_mutex_unlock(&tenant->lock);
  if (ready) return TIDE_OK;
  int code = tide__mongo_know(store, connection, tenant, error);
  bool known = tide__mongo_is_known(tenant);
  if (code == TIDE_OK && !known) code = check_foreign(store, connection, tenant, error);
  if (code == TIDE_OK) code = create_indexes(store, connection, tenant->database, error);
  for (size_t i = 0; i < 3 && code == TIDE_OK && !known; i++)
    code = create_collection(store, connection, tenant->database, collections[i], error);
  if (code == TIDE_OK && !known) code = write_mark(store, connection, tenant->database, error);
  if (code != TIDE_OK) return code;
  (void)pthread_mutex_lock(&tenant->lock);
  tenant->known = tenant->ready = true;
  (void)pthread_mutex_unlock(&tenant->lock);
  return TIDE_OK;
}

int tide__mongo_setup(tide_store *base, const char *name, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  (void)pthread_mutex_lock(&tenant->lock);
  tenant->ready = false; /* whoever asks for it wants it looked at */
  (void)pthread_mutex_unlock(&tenant->lock);
  code = tide__mongo_make(store, connection, tenant, error);
  tide__mongo_leave(base, tenant, connection);
  return code;
}

/* ---- The check on demand -------------------------------------------------------- */

/* No document of events has an _id that is no position: the order would not show it. */
static int check_ids(tide__mongo *store, tide__connection *connection,
                     const tide__mongo_tenant *tenant, tide_error *error) {
  tide__reply reply;
  bson_iter_t documents;
  bson_t *command = BCON_NEW("find", BCON_UTF8("events"), "filter", "{", "_id", "{", "$not", "{",
                             "$type", BCON_UTF8("long"), "}", "}", "}", "limit", BCON_INT32(1),
                             "singleBatch", BCON_BOOL(true));
  int code = tide__mongo_ask(store, connection, tenant->database, command, &reply, error);
  if (code == TIDE_OK && tide__batch(&reply, &documents) && bson_iter_next(&documents))
    code = tide__fail_store(error, 0,
                            "the database %s has a document in events that is no commit: its _id "
                            "is no 64-bit integer",
                            tenant->database);
  tide__reply_free(&reply);
  bson_destroy(command);
  return code;
}

int tide__mongo_check(tide_store *base, const char *name, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_know(store, connection, tenant, error);
  if (code == TIDE_OK && tide__mongo_is_known(tenant)) {
    code = check_indexes(store, connection, tenant->database, error);
    if (code == TIDE_OK) code = check_ids(store, connection, tenant, error);
  }
  tide__mongo_leave(base, tenant, connection);
  return code;
}

/* ---- Closing a hole ------------------------------------------------------------- */

/* The commit at or behind `position` in the order, forwards or backwards; *found false: none. */
static int neighbour(tide__mongo *store, tide__connection *connection,
                     const tide__mongo_tenant *tenant, const char *relation, int sort,
                     int64_t position, const char *level, tide_commit *commit, bool *found,
                     tide_error *error) {
  tide__reply reply;
  bson_iter_t documents;
  bson_t *command =
      BCON_NEW("find", BCON_UTF8("events"), "filter", "{", "_id", "{", relation,
               BCON_INT64(position), "}", "}", "sort", "{", "_id", BCON_INT32(sort), "}", "limit",
               BCON_INT32(1), "singleBatch", BCON_BOOL(true), "projection", "{", "body",
               BCON_INT32(0), "}", "maxTimeMS", BCON_INT32(10000));
  *found = false;
  memset(commit, 0, sizeof *commit);
  tide__mongo_read(connection, tenant->database, command, level, &reply);
  bson_destroy(command);
  int code = TIDE_OK;
  if (reply.answer != TIDE__DONE) {
    code = tide__mongo_fail(store, "reading", &reply, error);
  } else if (tide__batch(&reply, &documents) && bson_iter_next(&documents)) {
    *found = true;
    code = tide__mongo_parse(&documents, false, commit, NULL, error);
  }
  commit->type = commit->id = commit->command_id = NULL; /* they are the reply's */
  tide__reply_free(&reply);
  return code;
}

/* The body of a tombstone: a commit like others, so that every reader can show it. */
static void write_body(bson_t *to, const char *tenant, int64_t count, const char *actor,
                       const char *reason) {
  static const uint8_t no_code[TIDE_CODE_SIZE];
  bson_t payload, events, roles, by;
  char id[64];
  BSON_APPEND_DOCUMENT_BEGIN(to, "payload", &payload);
  BSON_APPEND_UTF8(&payload, "reason", reason);
  bson_append_document_end(to, &payload);
  BSON_APPEND_ARRAY_BEGIN(to, "events", &events);
  for (uint32_t i = 0; i < (uint32_t)count; i++) {
    char digits[16];
    const char *key;
    bson_t event;
    bson_uint32_to_string(i, &key, digits, sizeof digits);
    BSON_APPEND_DOCUMENT_BEGIN(&events, key, &event);
    BSON_APPEND_UTF8(&event, "name", "EventLost");
    BSON_APPEND_INT32(&event, "version", 0);
    bson_append_document_end(&events, &event);
  }
  bson_append_array_end(to, &events);
  BSON_APPEND_UTF8(to, "command", "CloseHole");
  BSON_APPEND_DOCUMENT_BEGIN(to, "actor", &by);
  BSON_APPEND_UTF8(&by, "id", actor);
  BSON_APPEND_ARRAY_BEGIN(&by, "roles", &roles);
  bson_append_array_end(&by, &roles);
  BSON_APPEND_UTF8(&by, "tenant", tenant);
  bson_append_document_end(to, &by);
  (void)snprintf(id, sizeof id, "close-hole-%lld", (long long)tide__now());
  BSON_APPEND_UTF8(to, "commandId", id);
  BSON_APPEND_UTF8(to, "correlationId", id);
  BSON_APPEND_BINARY(to, "code", BSON_SUBTYPE_BINARY, no_code, sizeof no_code);
}

static int write_tombstone(tide__mongo *store, tide__connection *connection,
                           const tide__mongo_tenant *tenant, const tide_commit *before,
                           int64_t position, int64_t count, const char *actor, const char *reason,
                           tide_error *error) {
  static const uint8_t no_id[TIDE__COMMIT_ID];
  bson_t body = BSON_INITIALIZER, document = BSON_INITIALIZER;
  bson_t *const documents[] = {&document};
  char id[64];
  tide__reply reply;
  tide_head head = {.position = position, .time = before->time};
  memcpy(head.hash, before->hash, TIDE_HASH_SIZE);
  write_body(&body, tenant->name, count, actor, reason);
  (void)snprintf(id, sizeof id, "hole-%lld", (long long)position);
  tide_commit tombstone = {.type = TIDE_TOMBSTONE,
                           .id = id,
                           .count = (int32_t)count,
                           .body = bson_get_data(&body),
                           .body_size = body.len};
  int code = tide__commit_check(&tombstone, error);
  /* its time is that of the commit before: what is behind it may be older than now */
  if (code == TIDE_OK) code = tide__commit_seal(&tombstone, &head, before->time, error);
  if (code == TIDE_OK) {
    tide__mongo_document(&tombstone, no_id, &document);
    tide__mongo_insert(connection, tenant->database, "events", documents, 1, &reply);
    if (reply.answer == TIDE__DUPLICATE)
      code = tide__fail(error, TIDE_CONCURRENCY, "position",
                        "the hole at position %lld has closed by itself: a late commit came",
                        (long long)position);
    else if (reply.answer != TIDE__DONE)
      code = tide__mongo_fail(store, "writing", &reply, error);
    tide__reply_free(&reply);
  }
  bson_destroy(&document);
  bson_destroy(&body);
  return code;
}

static int close_hole(tide__mongo *store, tide__connection *connection,
                      const tide__mongo_tenant *tenant, int64_t position, const char *actor,
                      const char *reason, int64_t *events, tide_error *error) {
  tide_commit before, at, behind;
  bool has_before = false, has_at = false, has_behind = false;
  /* only a linearizable read proves that it is not there */
  int code =
      neighbour(store, connection, tenant, "$eq", 1, position, "linearizable", &at, &has_at, error);
  if (code == TIDE_OK)
    code = neighbour(store, connection, tenant, "$lt", -1, position, NULL, &before, &has_before,
                     error);
  if (code == TIDE_OK)
    code =
        neighbour(store, connection, tenant, "$gt", 1, position, NULL, &behind, &has_behind, error);
  if (code != TIDE_OK) return code;
  int64_t begins = has_before ? before.position + before.count : 0;
  if (has_at || !has_behind || begins != position)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "position",
                      "no hole begins at position %lld: %s", (long long)position,
                      has_at        ? "a commit is there"
                      : !has_behind ? "no commit is behind it"
                                    : "the commit before it does not end there");
  int64_t count = behind.position - position;
  if (count > INT32_MAX)
    return tide__fail(error, TIDE_LIMIT, "position", "a hole of %lld events cannot be closed",
                      (long long)count);
  code = write_tombstone(store, connection, tenant, &before, position, count, actor, reason, error);
  if (code == TIDE_OK) *events = count;
  return code;
}

int tide__mongo_close_hole(tide_store *base, const char *name, int64_t position, const char *actor,
                           const char *reason, int64_t *events, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_know(store, connection, tenant, error);
  if (code == TIDE_OK && !tide__mongo_is_known(tenant))
    code = tide__fail(error, TIDE_INVALID_ARGUMENT, "position", "there is no tenant %s", name);
  if (code == TIDE_OK)
    code = close_hole(store, connection, tenant, position, actor, reason, events, error);
  tide__mongo_leave(base, tenant, connection);
  return code;
}
