/* mongo_documents.c - documents and snapshots of a tenant in MongoDB.
**
** Where there are transactions, documents are written with the cursors that they reflect.
** Where there are none they are written before them, each with the position that it reflects
** for each of its writers, and only forward; one that was deleted stays, as a mark. */
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "stores/mongo_store.h"

#define LIST_PAGE 1000

static int copy_bytes(tide_bytes *to, const uint8_t *data, size_t size, tide_error *error) {
  to->data = malloc(size);
  if (to->data == NULL) return tide__fail_memory(error);
  memcpy(to->data, data, size);
  to->size = size;
  return TIDE_OK;
}

/* ---- One document --------------------------------------------------------------- */

/* A document as it is stored. The pointers are the reply's. */
typedef struct stored {
  bool there;
  const uint8_t *body; /* NULL: it was deleted */
  size_t size;
  int64_t revision; /* how often it was written without a transaction */
  bson_iter_t marks;
  bool has_marks;
} stored;

static bool read_stored(const tide__reply *reply, stored *to) {
  bson_iter_t documents, fields;
  memset(to, 0, sizeof *to);
  if (!tide__batch(reply, &documents) || !bson_iter_next(&documents)) return true;
  to->there = true;
  if (!bson_iter_recurse(&documents, &fields)) return false;
  while (bson_iter_next(&fields)) {
    const char *key = bson_iter_key(&fields);
    if (strcmp(key, "body") == 0 && !tide__body_of(&fields, &to->body, &to->size)) return false;
    if (strcmp(key, "revision") == 0) to->revision = bson_iter_as_int64(&fields);
    if (strcmp(key, "marks") == 0)
      to->has_marks = BSON_ITER_HOLDS_ARRAY(&fields) && bson_iter_recurse(&fields, &to->marks);
  }
  return fields.err_off == 0;
}

/* A mark is { writer, position }: names of writers may hold what keys must not. */
static bool read_mark(const bson_iter_t *mark, const char **writer, int64_t *position) {
  bson_iter_t field;
  *writer = NULL;
  *position = 0;
  if (!bson_iter_recurse(mark, &field)) return false;
  while (bson_iter_next(&field)) {
    if (strcmp(bson_iter_key(&field), "writer") == 0 && BSON_ITER_HOLDS_UTF8(&field))
      *writer = bson_iter_utf8(&field, NULL);
    if (strcmp(bson_iter_key(&field), "position") == 0) *position = bson_iter_as_int64(&field);
  }
  return *writer != NULL;
}

static int64_t mark_of(const stored *document, const char *writer) {
  bson_iter_t marks = document->marks;
  const char *name;
  int64_t position;
  if (!document->has_marks || writer == NULL) return 0;
  while (bson_iter_next(&marks))
    if (read_mark(&marks, &name, &position) && strcmp(name, writer) == 0) return position;
  return 0;
}

static int damaged(const char *path, tide_error *error) {
  return tide__fail_store(error, 0, "the document %.200s is damaged, or none of Tidelog's", path);
}

static bson_t *find_document(const char *path) {
  return BCON_NEW("find", BCON_UTF8("documents"), "filter", "{", "_id", BCON_UTF8(path), "}",
                  "limit", BCON_INT64(1), "singleBatch", BCON_BOOL(true));
}

int tide__mongo_get_document(tide_store *base, const char *name, const char *path,
                             const char *writer, tide_bytes *body, int64_t *reflects,
                             tide_error *error) {
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  tide__reply reply;
  stored document;
  *reflects = 0;
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code == TIDE_OK) code = tide__mongo_know((tide__mongo *)base, connection, tenant, error);
  if (code == TIDE_OK && tide__mongo_is_known(tenant)) {
    bson_t *command = find_document(path);
    code =
        tide__mongo_ask((tide__mongo *)base, connection, tenant->database, command, &reply, error);
    if (code == TIDE_OK && !read_stored(&reply, &document)) code = damaged(path, error);
    if (code == TIDE_OK && document.body != NULL)
      code = copy_bytes(body, document.body, document.size, error);
    if (code == TIDE_OK) *reflects = mark_of(&document, writer);
    tide__reply_free(&reply);
    bson_destroy(command);
  }
  tide__mongo_leave(base, tenant, connection);
  return code;
}

static void append_mark(bson_t *marks, uint32_t *count, const char *writer, int64_t position) {
  char digits[16];
  const char *key;
  bson_t mark;
  bson_uint32_to_string((*count)++, &key, digits, sizeof digits);
  BSON_APPEND_DOCUMENT_BEGIN(marks, key, &mark);
  BSON_APPEND_UTF8(&mark, "writer", writer);
  BSON_APPEND_INT64(&mark, "position", position);
  bson_append_document_end(marks, &mark);
}

/* ---- Writing with the cursors, or alone ----------------------------------------- */

/* Marks that the document is to have as they are given; none where nobody wrote it. */
static void set_marks(bson_t *to, const tide_document *documents, size_t count, const char *path) {
  bson_t marks;
  uint32_t written = 0;
  for (size_t i = 0; i < count; i++) {
    if (documents[i].writer == NULL || strcmp(documents[i].path, path) != 0) continue;
    if (written == 0) BSON_APPEND_ARRAY_BEGIN(to, "marks", &marks);
    append_mark(&marks, &written, documents[i].writer, documents[i].position);
  }
  if (written > 0) bson_append_array_end(to, &marks);
}

static void append_update(bson_t *updates, uint32_t index, const tide_document *documents,
                          size_t count, size_t which, bool marked) {
  const tide_document *document = &documents[which];
  char digits[16];
  const char *key;
  bson_t update, filter, to, set;
  bson_uint32_to_string(index, &key, digits, sizeof digits);
  BSON_APPEND_DOCUMENT_BEGIN(updates, key, &update);
  BSON_APPEND_DOCUMENT_BEGIN(&update, "q", &filter);
  BSON_APPEND_UTF8(&filter, "_id", document->path);
  bson_append_document_end(&update, &filter);
  if (document->body == NULL) {
    BSON_APPEND_INT32(&update, "limit", 1);
  } else {
    /* not as a whole: where a document has marks they stay */
    BSON_APPEND_DOCUMENT_BEGIN(&update, "u", &to);
    BSON_APPEND_DOCUMENT_BEGIN(&to, "$set", &set);
    tide__append_body(&set, "body", document->body, document->size);
    if (marked) set_marks(&set, documents, count, document->path);
    bson_append_document_end(&to, &set);
    BSON_APPEND_DOCUMENT_BEGIN(&to, "$unset", &set);
    BSON_APPEND_BOOL(&set, "deleted", true);
    bson_append_document_end(&to, &set);
    bson_append_document_end(&update, &to);
    BSON_APPEND_BOOL(&update, "upsert", true);
  }
  bson_append_document_end(updates, &update);
}

/* Is it the last of its path? The others are as if they had never been. */
static bool is_last(const tide_document *documents, size_t count, size_t index) {
  for (size_t i = index + 1; i < count; i++)
    if (strcmp(documents[i].path, documents[index].path) == 0) return false;
  return true;
}

/* As many as fit one command, from *at on: those to write or those to delete. */
static bson_t *write_command(const tide_document *documents, size_t count, size_t *at,
                             bool deleting, bool marked) {
  bson_t *command = bson_new(), updates;
  uint32_t taken = 0;
  size_t bytes = 0;
  BSON_APPEND_UTF8(command, deleting ? "delete" : "update", "documents");
  BSON_APPEND_ARRAY_BEGIN(command, deleting ? "deletes" : "updates", &updates);
  for (; *at < count && taken < 1000; ++*at) {
    const tide_document *d = &documents[*at];
    if ((d->body == NULL) != deleting || !is_last(documents, count, *at)) continue;
    if (taken > 0 && bytes + d->size > ((size_t)8 << 20)) break;
    append_update(&updates, taken++, documents, count, *at, marked);
    bytes += d->size + strlen(d->path);
  }
  bson_append_array_end(command, &updates);
  if (taken > 0) return command;
  bson_destroy(command);
  return NULL;
}

/* Without a session each command is by itself, and sent again until it is resolved: to write
** or delete the same once more changes nothing. Only there are marks needed. */
static int write_all(tide__mongo *store, tide__connection *connection, const char *database,
                     mongoc_client_session_t *session, const tide_document *documents, size_t count,
                     tide__reply *reply, tide_error *error) {
  int code = TIDE_OK;
  memset(reply, 0, sizeof *reply);
  bson_init(&reply->bson);
  for (int deleting = 0; deleting < 2; deleting++) {
    for (size_t at = 0; at < count && code == TIDE_OK && reply->answer == TIDE__DONE;) {
      bson_t *command = write_command(documents, count, &at, deleting != 0, session == NULL);
      if (command == NULL) break;
      tide__reply_free(reply);
      if (session != NULL)
        tide__mongo_write(connection, database, command, session, reply);
      else
        code = tide__mongo_do(store, connection, database, command, reply, error);
      bson_destroy(command);
    }
  }
  return code;
}

/* ---- Writing forward only ------------------------------------------------------- */

/* The new mark of a writer, -1 where it does not write this path. */
static int64_t new_mark(const tide_document *documents, size_t count, const char *path,
                        const char *writer) {
  int64_t position = -1;
  for (size_t i = 0; i < count; i++)
    if (documents[i].writer != NULL && strcmp(documents[i].path, path) == 0 &&
        strcmp(documents[i].writer, writer) == 0 && documents[i].position > position)
      position = documents[i].position;
  return position;
}

/* All marks of the document: those that are there, moved forward, and the new ones. */
static void append_marks(bson_t *to, const stored *before, const tide_document *documents,
                         size_t count, const char *path) {
  bson_t marks;
  uint32_t written = 0;
  bson_iter_t old = before->marks;
  const char *writer;
  int64_t position;
  BSON_APPEND_ARRAY_BEGIN(to, "marks", &marks);
  while (before->has_marks && bson_iter_next(&old)) {
    if (!read_mark(&old, &writer, &position)) continue;
    int64_t moved = new_mark(documents, count, path, writer);
    append_mark(&marks, &written, writer, moved > position ? moved : position);
  }
  for (size_t i = 0; i < count; i++) {
    const tide_document *d = &documents[i];
    if (d->writer == NULL || strcmp(d->path, path) != 0 || mark_of(before, d->writer) > 0) continue;
    bool again = false;
    for (size_t k = 0; k < i && !again; k++)
      again = documents[k].writer != NULL && strcmp(documents[k].path, path) == 0 &&
              strcmp(documents[k].writer, d->writer) == 0;
    if (!again)
      append_mark(&marks, &written, d->writer, new_mark(documents, count, path, d->writer));
  }
  bson_append_array_end(to, &marks);
}

/* What a document's writers bring: is it new, or is it reflected already? */
typedef enum progress { AHEAD, REFLECTED, TORN } progress;

static progress compare_marks(const stored *before, const tide_document *documents, size_t count,
                              const char *path) {
  bool ahead = false, reflected = false;
  for (size_t i = 0; i < count; i++) {
    const tide_document *d = &documents[i];
    if (strcmp(d->path, path) != 0) continue;
    if (d->writer == NULL || d->position > mark_of(before, d->writer))
      ahead = true;
    else
      reflected = true;
  }
  return ahead && reflected ? TORN : ahead ? AHEAD : REFLECTED;
}

/* The document behind `before`; where nobody has changed it meanwhile. */
static bson_t *forward_command(const stored *before, const tide_document *last,
                               const tide_document *documents, size_t count) {
  bson_t *command = bson_new(), updates, update, filter, to;
  BSON_APPEND_UTF8(command, "update", "documents");
  BSON_APPEND_ARRAY_BEGIN(command, "updates", &updates);
  BSON_APPEND_DOCUMENT_BEGIN(&updates, "0", &update);
  BSON_APPEND_DOCUMENT_BEGIN(&update, "q", &filter);
  BSON_APPEND_UTF8(&filter, "_id", last->path);
  if (before->revision > 0)
    BSON_APPEND_INT64(&filter, "revision", before->revision);
  else
    BSON_APPEND_NULL(&filter, "revision"); /* it has none */
  bson_append_document_end(&update, &filter);
  BSON_APPEND_DOCUMENT_BEGIN(&update, "u", &to);
  BSON_APPEND_UTF8(&to, "_id", last->path);
  if (last->body != NULL)
    tide__append_body(&to, "body", last->body, last->size);
  else
    BSON_APPEND_BOOL(&to, "deleted", true);
  BSON_APPEND_INT64(&to, "revision", before->revision + 1);
  append_marks(&to, before, documents, count, last->path);
  bson_append_document_end(&update, &to);
  BSON_APPEND_BOOL(&update, "upsert", !before->there);
  bson_append_document_end(&updates, &update);
  bson_append_array_end(command, &updates);
  return command;
}

static int64_t matched(const tide__reply *reply) {
  bson_iter_t n;
  return bson_iter_init_find(&n, &reply->bson, "n") ? bson_iter_as_int64(&n) : 0;
}

/* Reads the document, and writes it if nobody changes it in between; until it is done. */
static int write_forward(tide__mongo *store, tide__connection *connection, const char *database,
                         const tide_document *documents, size_t count, size_t index,
                         tide_error *error) {
  tide__patience patience = tide__patience_begin(store);
  const tide_document *last = &documents[index];
  for (;;) {
    tide__reply found, written;
    stored before;
    bson_t *command = find_document(last->path);
    int code = tide__mongo_ask(store, connection, database, command, &found, error);
    bson_destroy(command);
    if (code == TIDE_OK && !read_stored(&found, &before)) code = damaged(last->path, error);
    progress is = code == TIDE_OK ? compare_marks(&before, documents, count, last->path) : TORN;
    if (code == TIDE_OK && is == TORN)
      code = tide__fail(error, TIDE_CONCURRENCY, "document",
                        "the document %.200s was written by another reader meanwhile", last->path);
    if (code != TIDE_OK || is == REFLECTED) {
      tide__reply_free(&found);
      return code;
    }
    command = forward_command(&before, last, documents, count);
    tide__mongo_write(connection, database, command, NULL, &written);
    bson_destroy(command);
    bool done = written.answer == TIDE__DONE && matched(&written) > 0;
    if (written.answer == TIDE__REFUSED)
      code = tide__mongo_fail(store, "writing a document", &written, error);
    else if (!done && !tide__patience_again(&patience))
      code = tide__mongo_fail(store, "writing", &written, error);
    tide__reply_free(&written);
    tide__reply_free(&found);
    if (done || code != TIDE_OK) return code;
  }
}

int tide__mongo_write_documents(tide__mongo *store, tide__connection *connection,
                                const char *database, mongoc_client_session_t *session,
                                const tide_document *documents, size_t count, tide__reply *reply,
                                tide_error *error) {
  if (session != NULL)
    return write_all(store, connection, database, session, documents, count, reply, error);
  memset(reply, 0, sizeof *reply);
  bson_init(&reply->bson);
  int code = TIDE_OK;
  for (size_t i = 0; i < count && code == TIDE_OK; i++)
    if (is_last(documents, count, i))
      code = write_forward(store, connection, database, documents, count, i, error);
  return code;
}

/* One transaction, tried until it is resolved: the same documents once more change nothing. */
static int put_together(tide__mongo *store, tide__connection *connection, const char *database,
                        const tide_document *documents, size_t count, tide_error *error) {
  tide__patience patience = tide__patience_begin(store);
  for (;;) {
    tide__reply reply;
    int code = TIDE_OK;
    mongoc_client_session_t *session = tide__mongo_begin(connection, &reply);
    if (session != NULL) {
      tide__reply_free(&reply);
      code = write_all(store, connection, database, session, documents, count, &reply, error);
    }
    if (session != NULL && reply.answer == TIDE__DONE) {
      tide__reply_free(&reply);
      tide__mongo_commit(connection, session, &patience, &reply);
    }
    mongoc_client_session_destroy(session); /* aborts what is not committed */
    bool done = reply.answer == TIDE__DONE;
    if (!done && (reply.answer == TIDE__REFUSED || !tide__patience_again(&patience)))
      code = tide__mongo_fail(store, "writing", &reply, error);
    tide__reply_free(&reply);
    if (done || code != TIDE_OK) return code;
  }
}

int tide__mongo_put_documents(tide_store *base, const char *name, const tide_document *documents,
                              size_t count, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  bool any = false, marked = false, able = false; /* deleting makes no tenant */
  for (size_t i = 0; i < count; i++) {
    any = any || documents[i].body != NULL;
    marked = marked || documents[i].writer != NULL;
  }
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code == TIDE_OK)
    code = any ? tide__mongo_make(store, connection, tenant, error)
               : tide__mongo_know(store, connection, tenant, error);
  if (code == TIDE_OK && tide__mongo_is_known(tenant)) {
    if (count > 1 || marked)
      code = tide__mongo_transactions(store, connection, tenant->database, &able, error);
    if (code == TIDE_OK && able) {
      code = put_together(store, connection, tenant->database, documents, count, error);
    } else if (code == TIDE_OK) {
      tide__reply reply;
      code = write_all(store, connection, tenant->database, NULL, documents, count, &reply, error);
      tide__reply_free(&reply);
    }
  }
  tide__mongo_leave(base, tenant, connection);
  return code;
}

/* ---- Listing -------------------------------------------------------------------- */

static bson_t *list_command(const char *relation, const char *from, int64_t limit) {
  return BCON_NEW("find", BCON_UTF8("documents"), "filter", "{", "_id", "{", relation,
                  BCON_UTF8(from), "}", "deleted", "{", "$ne", BCON_BOOL(true), "}", "}", "sort",
                  "{", "_id", BCON_INT32(1), "}", "projection", "{", "_id", BCON_INT32(1), "}",
                  "limit", BCON_INT64(limit), "batchSize", BCON_INT64(limit), "singleBatch",
                  BCON_BOOL(true));
}

int tide__mongo_list_documents(tide_store *base, const char *name, const char *prefix,
                               const char *after, size_t limit, tide_bytes *paths, size_t *count,
                               tide_error *error) {
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  tide__names list = {.limit = limit, .prefix = prefix};
  bool behind = after != NULL && strcmp(after, prefix) >= 0;
  bson_strncpy(list.last, behind ? after : prefix, sizeof list.last);
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code == TIDE_OK) code = tide__mongo_know((tide__mongo *)base, connection, tenant, error);
  while (code == TIDE_OK && tide__mongo_is_known(tenant) && !list.ended && list.count < limit) {
    tide__reply reply;
    size_t left = limit - list.count, page = left < LIST_PAGE ? left : LIST_PAGE;
    bson_t *command = list_command(behind ? "$gt" : "$gte", list.last, (int64_t)page);
    code =
        tide__mongo_ask((tide__mongo *)base, connection, tenant->database, command, &reply, error);
    if (code == TIDE_OK) code = tide__names_keep(&list, &reply, page, error);
    tide__reply_free(&reply);
    bson_destroy(command);
    behind = true;
  }
  tide__mongo_leave(base, tenant, connection);
  if (code != TIDE_OK) {
    tide__bytes_free(&list.names);
    return code;
  }
  *paths = list.names;
  *count = list.count;
  return TIDE_OK;
}

/* ---- Snapshots ------------------------------------------------------------------ */

static bool is_binary_of(const bson_iter_t *field, uint32_t size, const uint8_t **data) {
  bson_subtype_t subtype;
  uint32_t length;
  if (!BSON_ITER_HOLDS_BINARY(field)) return false;
  bson_iter_binary(field, &subtype, &length, data);
  return length == size;
}

/* It is only a cache: one that is damaged is none. */
static int read_snapshot(const tide__reply *reply, tide_snapshot *to, tide_error *error) {
  bson_iter_t documents, field;
  const uint8_t *code = NULL, *state = NULL;
  size_t size = 0;
  int64_t version = -1;
  if (!tide__batch(reply, &documents) || !bson_iter_next(&documents) ||
      !bson_iter_recurse(&documents, &field))
    return TIDE_OK;
  while (bson_iter_next(&field)) {
    const char *key = bson_iter_key(&field);
    if (strcmp(key, "version") == 0 && BSON_ITER_HOLDS_INT64(&field))
      version = bson_iter_int64(&field);
    if (strcmp(key, "code") == 0 && !is_binary_of(&field, TIDE_CODE_SIZE, &code)) return TIDE_OK;
    if (strcmp(key, "state") == 0 && !tide__body_of(&field, &state, &size)) return TIDE_OK;
  }
  if (version < 0 || code == NULL || state == NULL) return TIDE_OK;
  int result = copy_bytes(&to->state, state, size, error);
  if (result != TIDE_OK) return result;
  to->version = version;
  memcpy(to->code, code, TIDE_CODE_SIZE);
  return TIDE_OK;
}

int tide__mongo_get_snapshot(tide_store *base, const char *name, const char *type, const char *id,
                             tide_snapshot *snapshot, tide_error *error) {
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  tide__reply reply;
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code == TIDE_OK) code = tide__mongo_know((tide__mongo *)base, connection, tenant, error);
  if (code == TIDE_OK && tide__mongo_is_known(tenant)) {
    bson_t *command = BCON_NEW("find", BCON_UTF8("snapshots"), "filter", "{", "_id", "{", "type",
                               BCON_UTF8(type), "id", BCON_UTF8(id), "}", "}", "limit",
                               BCON_INT64(1), "singleBatch", BCON_BOOL(true));
    code =
        tide__mongo_ask((tide__mongo *)base, connection, tenant->database, command, &reply, error);
    if (code == TIDE_OK) code = read_snapshot(&reply, snapshot, error);
    tide__reply_free(&reply);
    bson_destroy(command);
  }
  tide__mongo_leave(base, tenant, connection);
  return code;
}

/* Replaces an older one, and one by other code; where there is another one, the insert that
** an upsert turns into meets its key, and that one stays. */
static bson_t *snapshot_command(const char *type, const char *id, const tide_snapshot *snapshot) {
  bson_t *command = bson_new(), updates, update, *filter, to;
  filter =
      BCON_NEW("_id", "{", "type", BCON_UTF8(type), "id", BCON_UTF8(id), "}", "$or", "[", "{",
               "version", "{", "$lt", BCON_INT64(snapshot->version), "}", "}", "{", "code", "{",
               "$ne", BCON_BIN(BSON_SUBTYPE_BINARY, snapshot->code, TIDE_CODE_SIZE), "}", "}", "]");
  BSON_APPEND_UTF8(command, "update", "snapshots");
  BSON_APPEND_ARRAY_BEGIN(command, "updates", &updates);
  BSON_APPEND_DOCUMENT_BEGIN(&updates, "0", &update);
  BSON_APPEND_DOCUMENT(&update, "q", filter);
  BSON_APPEND_DOCUMENT_BEGIN(&update, "u", &to);
  bson_t key;
  BSON_APPEND_DOCUMENT_BEGIN(&to, "_id", &key);
  BSON_APPEND_UTF8(&key, "type", type);
  BSON_APPEND_UTF8(&key, "id", id);
  bson_append_document_end(&to, &key);
  BSON_APPEND_INT64(&to, "version", snapshot->version);
  BSON_APPEND_BINARY(&to, "code", BSON_SUBTYPE_BINARY, snapshot->code, TIDE_CODE_SIZE);
  BSON_APPEND_BINARY(&to, "state", BSON_SUBTYPE_BINARY, snapshot->state.data,
                     (uint32_t)snapshot->state.size);
  bson_append_document_end(&update, &to);
  BSON_APPEND_BOOL(&update, "upsert", true);
  bson_append_document_end(&updates, &update);
  bson_append_array_end(command, &updates);
  bson_destroy(filter);
  return command;
}

/* How many events the aggregate has; what is known may lie behind, and is then asked for. */
static int count_events(tide__mongo *store, tide__connection *connection,
                        tide__mongo_tenant *tenant, const char *type, const char *id,
                        int64_t at_least, int64_t *events, tide_error *error) {
  *events = 0;
  int code = tide__mongo_know(store, connection, tenant, error);
  if (code != TIDE_OK || !tide__mongo_is_known(tenant)) return code;
  (void)pthread_mutex_lock(&tenant->lock);
  *events = tide__mongo_known_next(tenant, type, id);
  (void)pthread_mutex_unlock(&tenant->lock);
  if (*events > at_least) return TIDE_OK;
  return tide__mongo_find_next(store, connection, tenant, type, id, events, error);
}

int tide__mongo_put_snapshot(tide_store *base, const char *name, const char *type, const char *id,
                             const tide_snapshot *snapshot, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  tide__reply reply;
  int64_t events = 0;
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code == TIDE_OK)
    code = count_events(store, connection, tenant, type, id, snapshot->version, &events, error);
  if (code == TIDE_OK && snapshot->version >= events)
    code = tide__fail(error, TIDE_INVALID_ARGUMENT, "version",
                      "a snapshot of version %lld, but the aggregate has %lld events",
                      (long long)snapshot->version, (long long)events);
  if (code == TIDE_OK) {
    bson_t *command = snapshot_command(type, id, snapshot);
    code = tide__mongo_do(store, connection, tenant->database, command, &reply, error);
    tide__reply_free(&reply);
    bson_destroy(command);
  }
  tide__mongo_leave(base, tenant, connection);
  return code;
}
