/* mongo_threads.c - leases of threads in MongoDB, and their cursors, which are committed with
** the documents that they reflect.
**
** A thread is one document, changed by one findAndModify whose pipeline compares with the
** server's own clock; `admitted` says what came of it. `last` is the name of the last commit
** of cursors, so that one whose answer was lost is known when it is sent again. */
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "stores/mongo_store.h"

#define LIST_PAGE 1000
#define CLAIM     TIDE__COMMIT_ID /* bytes of a request's own name */
#define SESSION   16              /* bytes of the name of a session of MongoDB's */
#define BLOCKED   1000            /* ms that a lease waits for a transaction */

#define MAX_TIME_EXPIRED 50

/* A thread's document as it was answered; the pointers are the reply's. */
typedef struct answered {
  bool there;
  bool holds, admitted, again, apart, expired;
  const char *owner;
  int64_t token, until;
  const uint8_t *cursors;
  size_t size;
  uint8_t last[CLAIM]; /* the last commit's name, all 0 where there was none */
  bool has_session;    /* of a transaction that a reader before may have left open */
  uint8_t session[SESSION];
} answered;

static bool read_name(const bson_iter_t *field, uint8_t to[CLAIM]) {
  const uint8_t *data;
  uint32_t size;
  bson_subtype_t subtype;
  if (!BSON_ITER_HOLDS_BINARY(field)) return false;
  bson_iter_binary(field, &subtype, &size, &data);
  if (size == CLAIM) memcpy(to, data, CLAIM);
  return size == CLAIM;
}

static void read_fields(bson_iter_t *fields, answered *to) {
  to->there = true;
  while (bson_iter_next(fields)) {
    const char *key = bson_iter_key(fields);
    if (strcmp(key, "owner") == 0 && BSON_ITER_HOLDS_UTF8(fields))
      to->owner = bson_iter_utf8(fields, NULL);
    if (strcmp(key, "token") == 0) to->token = bson_iter_as_int64(fields);
    if (strcmp(key, "until") == 0) to->until = bson_iter_as_int64(fields);
    if (strcmp(key, "last") == 0) (void)read_name(fields, to->last);
    if (strcmp(key, "holds") == 0) to->holds = bson_iter_as_bool(fields);
    if (strcmp(key, "admitted") == 0) to->admitted = bson_iter_as_bool(fields);
    if (strcmp(key, "again") == 0) to->again = bson_iter_as_bool(fields);
    if (strcmp(key, "apart") == 0) to->apart = bson_iter_as_bool(fields);
    if (strcmp(key, "expired") == 0) to->expired = bson_iter_as_bool(fields);
    if (strcmp(key, "cursors") == 0 && !tide__body_of(fields, &to->cursors, &to->size))
      to->cursors = NULL;
    if (strcmp(key, "left") == 0) to->has_session = read_name(fields, to->session);
  }
}

/* What findAndModify gave. */
static answered read_value(const tide__reply *reply) {
  answered found = {.owner = ""};
  bson_iter_t value, fields;
  if (bson_iter_init_find(&value, &reply->bson, "value") && BSON_ITER_HOLDS_DOCUMENT(&value) &&
      bson_iter_recurse(&value, &fields))
    read_fields(&fields, &found);
  return found;
}

static int copy_cursors(const answered *from, tide_bytes *to, tide_error *error) {
  static const uint8_t empty[] = {5, 0, 0, 0, 0}; /* {} */
  const uint8_t *data = from->cursors == NULL ? empty : from->cursors;
  size_t size = from->cursors == NULL ? sizeof empty : from->size;
  to->data = malloc(size);
  if (to->data == NULL) return tide__fail_memory(error);
  memcpy(to->data, data, size);
  to->size = size;
  return TIDE_OK;
}

/* ---- Pipelines ------------------------------------------------------------------ */

/* { $literal: BSON }: what users name is never taken for an expression. */
static bson_t *literal(const uint8_t *data, size_t size) {
  bson_t *made = bson_new();
  tide__append_body(made, "$literal", data, size);
  return made;
}

/* The server's time in ms since 1970, as `until` is: not every server compares a time that is
** stored with "$$NOW" rightly. */
#define NOW "{", "$toLong", BCON_UTF8("$$NOW"), "}"

/* Nobody's lease: without owner, at its end, or made by a clock that was wrong. */
#define NOBODYS                                                                                    \
  "{", "$eq", "[", "{", "$ifNull", "[", BCON_UTF8("$owner"), BCON_UTF8(""), "]", "}",              \
      BCON_UTF8(""), "]", "}", "{", "$lte", "[", BCON_UTF8("$until"), NOW, "]", "}", "{", "$gt",   \
      "[", BCON_UTF8("$until"), "{", "$add", "[", NOW, BCON_INT64(TIDE_LEASE_MAX), "]", "}", "]",  \
      "}"

static bson_t *modify_command(const char *thread, bson_t *pipeline, bool upsert) {
  bson_t *command =
      BCON_NEW("findAndModify", BCON_UTF8("threads"), "query", "{", "_id", BCON_UTF8(thread), "}",
               "new", BCON_BOOL(true), "upsert", BCON_BOOL(upsert));
  BSON_APPEND_ARRAY(command, "update", pipeline);
  bson_destroy(pipeline);
  return command;
}

/* ---- Leases --------------------------------------------------------------------- */

/* `claim` is the request's own name: one that comes again, however late, changes nothing, and
** gets the same answer. `left` is the session of an owner that did not give its lease up. */
static bson_t *lease_command(const char *thread, const char *owner, int64_t duration, bool apart,
                             const uint8_t claim[CLAIM]) {
#define CHANGED                                                                                    \
  "{", "$and", "[", BCON_UTF8("$admitted"), "{", "$not", "[", BCON_UTF8("$again"), "]", "}", "]",  \
      "}"
  return modify_command(
      thread,
      BCON_NEW("0", "{", "$set", "{", "again", "{", "$eq", "[", BCON_UTF8("$claim"),
               BCON_BIN(BSON_SUBTYPE_BINARY, claim, CLAIM), "]", "}", "admitted", "{", "$or", "[",
               "{", "$eq", "[", BCON_UTF8("$claim"), BCON_BIN(BSON_SUBTYPE_BINARY, claim, CLAIM),
               "]", "}", "{", "$eq", "[", BCON_UTF8("$owner"), "{", "$literal", BCON_UTF8(owner),
               "}", "]", "}", NOBODYS, "]", "}", "apart", "{", "$or", "[", "{", "$ifNull", "[",
               BCON_UTF8("$apart"), BCON_BOOL(false), "]", "}", BCON_BOOL(apart), "]", "}", "}",
               "}", "1", "{", "$set", "{", "owner", "{", "$cond", "[", CHANGED, "{", "$literal",
               BCON_UTF8(owner), "}", BCON_UTF8("$owner"), "]", "}", "token", "{", "$cond", "[",
               CHANGED, "{", "$add", "[", "{", "$ifNull", "[", BCON_UTF8("$token"), BCON_INT64(0),
               "]", "}", BCON_INT64(1), "]", "}", BCON_UTF8("$token"), "]", "}", "until", "{",
               "$cond", "[", CHANGED, "{", "$add", "[", NOW, BCON_INT64(duration), "]", "}",
               BCON_UTF8("$until"), "]", "}", "left", "{", "$cond", "[", CHANGED, "{", "$cond", "[",
               "{", "$eq", "[", "{", "$ifNull", "[", BCON_UTF8("$owner"), BCON_UTF8(""), "]", "}",
               BCON_UTF8(""), "]", "}", BCON_UTF8(""), "{", "$ifNull", "[", BCON_UTF8("$session"),
               BCON_UTF8(""), "]", "}", "]", "}", BCON_UTF8("$left"), "]", "}", "claim", "{",
               "$cond", "[", CHANGED, BCON_BIN(BSON_SUBTYPE_BINARY, claim, CLAIM),
               BCON_UTF8("$claim"), "]", "}", "cursors", "{", "$ifNull", "[", BCON_UTF8("$cursors"),
               "{", "$literal", "{", "}", "}", "]", "}", "}", "}"),
      true);
#undef CHANGED
}

/* A thread as it stands, by the server's clock. */
static bson_t *thread_command(const char *thread) {
  return BCON_NEW("aggregate", BCON_UTF8("threads"), "pipeline", "[", "{", "$match", "{", "_id",
                  BCON_UTF8(thread), "}", "}", "{", "$addFields", "{", "expired", "{", "$or", "[",
                  NOBODYS, "]", "}", "left", BCON_UTF8("$session"), "}", "}", "]", "cursor", "{",
                  "}");
}

/* Ends the transaction that a reader has left open when it died: until the server does, after
** a minute, it would hold the thread and its documents. Who may not, or has nothing to end,
** waits for the server. */
static void end_session(tide__connection *connection, const answered *left) {
  tide__reply reply;
  if (!left->has_session) return;
  bson_t *command = BCON_NEW("killSessions", "[", "{", "id",
                             BCON_BIN(BSON_SUBTYPE_UUID, left->session, SESSION), "}", "]");
  tide__mongo_command(connection, "admin", command, &reply);
  tide__reply_free(&reply);
  bson_destroy(command);
}

/* A transaction holds the thread: if its lease has expired, nobody waits for it any more. */
static int end_blocker(tide__mongo *store, tide__connection *connection, const char *database,
                       const char *thread, tide_error *error) {
  tide__reply reply;
  bson_iter_t documents, fields;
  answered has = {.owner = ""};
  bson_t *command = thread_command(thread);
  int code = tide__mongo_ask(store, connection, database, command, &reply, error);
  if (code == TIDE_OK && tide__batch(&reply, &documents) && bson_iter_next(&documents) &&
      bson_iter_recurse(&documents, &fields))
    read_fields(&fields, &has);
  if (code == TIDE_OK && has.expired) end_session(connection, &has);
  tide__reply_free(&reply);
  bson_destroy(command);
  return code;
}

/* Until the lease is taken, or another's. */
static int take_lease(tide__mongo *store, tide__connection *connection, const char *database,
                      const char *thread, const bson_t *command, tide__reply *reply,
                      tide_error *error) {
  tide__patience patience = tide__patience_begin(store);
  for (;;) {
    tide__mongo_write(connection, database, command, NULL, reply);
    if (reply->answer == TIDE__DONE) return TIDE_OK;
    /* refused by a key: two have made the thread at once, and the other one did */
    if (reply->answer == TIDE__REFUSED || !tide__patience_again(&patience))
      return tide__mongo_fail(store, "writing", reply, error);
    if (reply->code == MAX_TIME_EXPIRED) {
      int code = end_blocker(store, connection, database, thread, error);
      if (code != TIDE_OK) return code;
    }
    tide__reply_free(reply);
  }
}

int tide__mongo_lease(tide_store *base, const char *name, const char *thread, const char *owner,
                      int64_t duration, tide_lease *lease, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  tide_lease given = {0};
  bool able = false;
  uint8_t claim[CLAIM];
  int code = tide__mongo_new_name(claim, error);
  if (code == TIDE_OK) code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_make(store, connection, tenant, error);
  if (code == TIDE_OK)
    code = tide__mongo_transactions(store, connection, tenant->database, &able, error);
  if (code == TIDE_OK) {
    tide__reply reply;
    bson_t *command = lease_command(thread, owner, duration, !able, claim);
    BSON_APPEND_INT32(command, "maxTimeMS", BLOCKED);
    code = take_lease(store, connection, tenant->database, thread, command, &reply, error);
    if (code == TIDE_OK) {
      answered has = read_value(&reply);
      given = (tide_lease){.token = has.token, .until = has.until, .held = has.admitted};
      given.apart = given.held && has.apart;
      if (given.held) end_session(connection, &has);
      if (given.held) code = copy_cursors(&has, &given.cursors, error);
    }
    tide__reply_free(&reply);
    bson_destroy(command);
  }
  tide__mongo_leave(base, tenant, connection);
  if (code == TIDE_OK) *lease = given;
  return code;
}

/* ---- Committing cursors --------------------------------------------------------- */

typedef struct cursor_commit {
  const char *thread, *owner;
  int64_t token;
  const tide_bytes *cursors; /* NULL: they stay */
  bool release;
  uint8_t id[CLAIM]; /* its own name */
  bool ordered;      /* it must follow the commit `behind` */
  uint8_t behind[CLAIM];
} cursor_commit;

/* Is the thread's last commit the one that this one must follow? */
static bson_t *follows(const cursor_commit *c) {
  static const uint8_t none[CLAIM];
  if (!c->ordered) return BCON_NEW("$literal", BCON_BOOL(true));
  return BCON_NEW("$eq", "[", "{", "$ifNull", "[", BCON_UTF8("$last"),
                  BCON_BIN(BSON_SUBTYPE_BINARY, none, CLAIM), "]", "}",
                  BCON_BIN(BSON_SUBTYPE_BINARY, c->behind, CLAIM), "]");
}

/* Every commit changes the document, so that in a transaction two of them never pass each
** other by. */
static bson_t *cursor_command(const cursor_commit *c) {
  static const char id_key[] = "$literal";
  bson_t *cursors =
      c->cursors == NULL ? BCON_NEW(id_key, "{", "}") : literal(c->cursors->data, c->cursors->size);
  bson_t *now = c->cursors == NULL ? NULL : cursors;
  bson_t *set = BCON_NEW("owner", "{", "$cond", "[", "{", "$and", "[", BCON_UTF8("$admitted"),
                         BCON_BOOL(c->release), "]", "}", BCON_UTF8(""), BCON_UTF8("$owner"), "]",
                         "}", "until", "{", "$cond", "[", "{", "$and", "[", BCON_UTF8("$admitted"),
                         BCON_BOOL(c->release), "]", "}", BCON_INT64(0), BCON_UTF8("$until"), "]",
                         "}", "last", "{", "$cond", "[", BCON_UTF8("$admitted"),
                         BCON_BIN(BSON_SUBTYPE_BINARY, c->id, sizeof c->id), BCON_UTF8("$last"),
                         "]", "}", "commits", "{", "$add", "[", "{", "$ifNull", "[",
                         BCON_UTF8("$commits"), BCON_INT64(0), "]", "}", BCON_INT64(1), "]", "}");
  if (now != NULL) {
    bson_t *chosen = BCON_NEW("$cond", "[", BCON_UTF8("$admitted"), BCON_DOCUMENT(now),
                              BCON_UTF8("$cursors"), "]");
    BSON_APPEND_DOCUMENT(set, "cursors", chosen);
    bson_destroy(chosen);
  }
  bson_t *behind = follows(c);
  bson_t *command = modify_command(
      c->thread,
      BCON_NEW("0", "{", "$set", "{", "again", "{", "$eq", "[", BCON_UTF8("$last"),
               BCON_BIN(BSON_SUBTYPE_BINARY, c->id, sizeof c->id), "]", "}", "holds", "{", "$and",
               "[", "{", "$eq", "[", BCON_UTF8("$owner"), "{", "$literal", BCON_UTF8(c->owner), "}",
               "]", "}", "{", "$eq", "[", BCON_UTF8("$token"), BCON_INT64(c->token), "]", "}", "{",
               "$gt", "[", BCON_UTF8("$until"), NOW, "]", "}", "]", "}", "}", "}", "1", "{", "$set",
               "{", "admitted", "{", "$and", "[", BCON_UTF8("$holds"), BCON_DOCUMENT(behind), "]",
               "}", "}", "}", "2", "{", "$set", BCON_DOCUMENT(set), "}"),
      false);
  bson_destroy(behind);
  bson_destroy(set);
  bson_destroy(cursors);
  return command;
}

/* What became of it, by the answer to cursor_command. */
static int judge(const cursor_commit *c, const answered *has, tide_error *error) {
  if (has->there && (has->admitted || has->again)) return TIDE_OK;
  return tide__fail_lease(c->thread, c->token, has->there ? has->token : 0, error);
}

/* One document: no transaction is needed. */
static int commit_alone(tide__mongo *store, tide__connection *connection, const char *database,
                        const cursor_commit *c, tide_error *error) {
  tide__patience patience = tide__patience_begin(store);
  cursor_commit next = *c;
  for (;;) {
    tide__reply reply;
    answered has = {.owner = ""};
    bson_t *command = cursor_command(&next);
    int code = tide__mongo_do(store, connection, database, command, &reply, error);
    if (code == TIDE_OK) has = read_value(&reply);
    /* another commit was the last one: it says which */
    bool passed = has.there && has.holds && !has.admitted && !has.again;
    if (code == TIDE_OK && !passed) code = judge(c, &has, error);
    tide__reply_free(&reply);
    bson_destroy(command);
    if (code != TIDE_OK || !passed) return code;
    memcpy(next.behind, has.last, CLAIM);
    if (!tide__patience_again(&patience))
      return tide__fail_store(error, 1, "the cursors of %.100s are committed by others, too",
                              c->thread);
  }
}

/* Cursors that come late, from a try that was given up, are not to go back: a commit follows the
** one that was the last when it was made, which the first answer tells. */
static int commit_in_order(tide__mongo *store, tide__connection *connection, const char *database,
                           const cursor_commit *c, tide_error *error) {
  cursor_commit ordered = *c;
  ordered.ordered = c->cursors != NULL;
  return commit_alone(store, connection, database, &ordered, error);
}

/* Says under which session this reader writes, so that whoever takes its lease over can end it. */
static void note_session(tide__connection *connection, const char *database, const cursor_commit *c,
                         mongoc_client_session_t *session) {
  tide__reply reply;
  bson_iter_t id;
  const uint8_t *data;
  bson_subtype_t subtype;
  uint32_t size;
  const bson_t *lsid = mongoc_client_session_get_lsid(session);
  if (!bson_iter_init_find(&id, lsid, "id") || !BSON_ITER_HOLDS_BINARY(&id)) return;
  bson_iter_binary(&id, &subtype, &size, &data);
  bson_t *command =
      BCON_NEW("update", BCON_UTF8("threads"), "updates", "[", "{", "q", "{", "_id",
               BCON_UTF8(c->thread), "owner", BCON_UTF8(c->owner), "token", BCON_INT64(c->token),
               "}", "u", "{", "$set", "{", "session", BCON_BIN(subtype, data, size), "}", "}", "}",
               "]", "maxTimeMS", BCON_INT32(BLOCKED));
  /* where it fails the transaction will say why */
  tide__mongo_write(connection, database, command, NULL, &reply);
  tide__reply_free(&reply);
  bson_destroy(command);
}

/* One try of the transaction; *done: committed, now or by an earlier try. */
static int try_together(tide__mongo *store, tide__connection *connection, const char *database,
                        const cursor_commit *c, const tide_document *documents, size_t count,
                        tide__patience *patience, tide__reply *reply, bool *done,
                        tide_error *error) {
  int code = TIDE_OK;
  *done = false;
  mongoc_client_session_t *session = tide__mongo_begin(connection, reply);
  if (session == NULL) return code;
  bson_t *command = cursor_command(c);
  connection->pinned = true; /* the session is its client's */
  note_session(connection, database, c, session);
  tide__reply_free(reply);
  tide__mongo_write(connection, database, command, session, reply);
  bson_destroy(command);
  if (reply->answer == TIDE__DONE) {
    answered has = read_value(reply);
    code = judge(c, &has, error);
    *done = code == TIDE_OK && has.again;
    if (code == TIDE_OK && !*done) {
      tide__reply_free(reply);
      code = tide__mongo_write_documents(store, connection, database, session, documents, count,
                                         reply, error);
    }
  }
  if (code == TIDE_OK && !*done && reply->answer == TIDE__DONE) {
    tide__reply_free(reply);
    tide__mongo_commit(connection, session, patience, reply);
    *done = reply->answer == TIDE__DONE;
  }
  mongoc_client_session_destroy(session); /* aborts what is not committed */
  connection->pinned = false;
  return code;
}

static int commit_together(tide__mongo *store, tide__connection *connection, const char *database,
                           const cursor_commit *c, const tide_document *documents, size_t count,
                           tide_error *error) {
  tide__patience patience = tide__patience_begin(store);
  for (;;) {
    tide__reply reply;
    bool done;
    int code = try_together(store, connection, database, c, documents, count, &patience, &reply,
                            &done, error);
    /* a key refuses a path that somebody has made since the transaction began */
    bool refused = reply.answer == TIDE__REFUSED;
    if (code == TIDE_OK && !done && (refused || !tide__patience_again(&patience)))
      code = tide__mongo_fail(store, "writing", &reply, error);
    tide__reply_free(&reply);
    if (done || code != TIDE_OK) return code;
  }
}

/* Documents first, each forward only, then the cursors. A reader that dies in between has
** documents that reflect more than its cursors, and get_document tells how much. */
static int commit_apart(tide__mongo *store, tide__connection *connection, const char *database,
                        const cursor_commit *c, const tide_document *documents, size_t count,
                        tide_error *error) {
  cursor_commit fence = *c;
  tide__reply reply;
  fence.cursors = NULL;
  fence.release = false;
  int code = tide__mongo_new_name(fence.id, error);
  if (code != TIDE_OK) return code;
  code = commit_alone(store, connection, database, &fence, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_write_documents(store, connection, database, NULL, documents, count, &reply,
                                     error);
  tide__reply_free(&reply);
  if (code != TIDE_OK) return code;
  cursor_commit ordered = *c;
  ordered.ordered = true;
  memcpy(ordered.behind, fence.id, CLAIM);
  return commit_alone(store, connection, database, &ordered, error);
}

int tide__mongo_commit_cursors(tide_store *base, const char *name, const char *thread,
                               const char *owner, int64_t token, const tide_bytes *cursors,
                               const tide_document *documents, size_t count, bool release,
                               tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  bool able = false;
  cursor_commit c = {
      .thread = thread, .owner = owner, .token = token, .cursors = cursors, .release = release};
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_new_name(c.id, error);
  if (code == TIDE_OK) code = tide__mongo_know(store, connection, tenant, error);
  if (code == TIDE_OK && !tide__mongo_is_known(tenant))
    code = tide__fail_lease(thread, token, 0, error);
  if (code == TIDE_OK && count > 0)
    code = tide__mongo_transactions(store, connection, tenant->database, &able, error);
  if (code == TIDE_OK) {
    code = count == 0 ? commit_in_order(store, connection, tenant->database, &c, error)
           : able
               ? commit_together(store, connection, tenant->database, &c, documents, count, error)
               : commit_apart(store, connection, tenant->database, &c, documents, count, error);
  }
  tide__mongo_leave(base, tenant, connection);
  return code;
}

/* ---- Threads as they stand ------------------------------------------------------ */

int tide__mongo_list_threads(tide_store *base, const char *name, const char *after, size_t limit,
                             tide_bytes *names, size_t *count, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  tide__names list = {.limit = limit, .prefix = ""};
  bson_strncpy(list.last, after == NULL ? "" : after, sizeof list.last);
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_know(store, connection, tenant, error);
  while (code == TIDE_OK && tide__mongo_is_known(tenant) && !list.ended && list.count < limit) {
    tide__reply reply;
    size_t left = limit - list.count, page = left < LIST_PAGE ? left : LIST_PAGE;
    bson_t *command =
        BCON_NEW("find", BCON_UTF8("threads"), "filter", "{", "_id", "{", "$gt",
                 BCON_UTF8(list.last), "}", "}", "sort", "{", "_id", BCON_INT32(1), "}",
                 "projection", "{", "_id", BCON_INT32(1), "}", "limit", BCON_INT64((int64_t)page),
                 "batchSize", BCON_INT64((int64_t)page), "singleBatch", BCON_BOOL(true));
    code = tide__mongo_ask(store, connection, tenant->database, command, &reply, error);
    if (code == TIDE_OK) code = tide__names_keep(&list, &reply, page, error);
    tide__reply_free(&reply);
    bson_destroy(command);
  }
  tide__mongo_leave(base, tenant, connection);
  if (code != TIDE_OK) {
    tide__bytes_free(&list.names);
    return code;
  }
  *names = list.names;
  *count = list.count;
  return TIDE_OK;
}

int tide__mongo_get_thread(tide_store *base, const char *name, const char *thread, tide_thread *to,
                           tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  answered has = {.owner = ""};
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_know(store, connection, tenant, error);
  if (code == TIDE_OK && tide__mongo_is_known(tenant)) {
    tide__reply reply;
    bson_iter_t documents, fields;
    bson_t *command = thread_command(thread);
    code = tide__mongo_ask(store, connection, tenant->database, command, &reply, error);
    if (code == TIDE_OK && tide__batch(&reply, &documents) && bson_iter_next(&documents) &&
        bson_iter_recurse(&documents, &fields))
      read_fields(&fields, &has);
    if (code == TIDE_OK) code = copy_cursors(&has, &to->cursors, error);
    if (code == TIDE_OK) {
      to->token = has.token;
      to->until = has.expired ? 0 : has.until;
      bson_strncpy(to->owner, has.expired ? "" : has.owner, sizeof to->owner);
    }
    tide__reply_free(&reply);
    bson_destroy(command);
  } else if (code == TIDE_OK) {
    code = copy_cursors(&has, &to->cursors, error);
  }
  tide__mongo_leave(base, tenant, connection);
  return code;
}

static bson_t *put_command(const char *thread, int64_t token, const tide_bytes *cursors) {
  bson_t *given = literal(cursors->data, cursors->size);
  bson_t *command = modify_command(
      thread,
      BCON_NEW("0", "{", "$set", "{", "admitted", "{", "$or", "[", NOBODYS, "]", "}", "}", "}", "1",
               "{", "$set", "{", "owner", "{", "$cond", "[", BCON_UTF8("$admitted"), BCON_UTF8(""),
               BCON_UTF8("$owner"), "]", "}", "token", "{", "$cond", "[", BCON_UTF8("$admitted"),
               "{", "$max", "[", BCON_UTF8("$token"), BCON_INT64(token), "]", "}",
               BCON_UTF8("$token"), "]", "}", "cursors", "{", "$cond", "[", BCON_UTF8("$admitted"),
               BCON_DOCUMENT(given), BCON_UTF8("$cursors"), "]", "}", "}", "}"),
      true);
  bson_destroy(given);
  return command;
}

int tide__mongo_put_thread(tide_store *base, const char *name, const char *thread, int64_t token,
                           const tide_bytes *cursors, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_make(store, connection, tenant, error);
  if (code == TIDE_OK) {
    tide__reply reply;
    bson_t *command = put_command(thread, token, cursors);
    code = tide__mongo_do(store, connection, tenant->database, command, &reply, error);
    bson_destroy(command);
    if (code == TIDE_OK) {
      answered has = read_value(&reply);
      if (reply.answer == TIDE__DUPLICATE || !has.admitted)
        code = tide__fail_held(thread, has.owner, has.until, error);
    }
    tide__reply_free(&reply);
  }
  tide__mongo_leave(base, tenant, connection);
  return code;
}
