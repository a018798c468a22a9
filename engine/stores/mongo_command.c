/* mongo_command.c - one command to MongoDB: sending it, what its answer means, and how long
** it is sent again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/bson_check.h"
#include "core/clock.h"
#include "core/id.h"
#include "stores/mongo_store.h"

#define LONGEST_PAUSE 200   /* ms */
#define WRITE_TIMEOUT 10000 /* ms that the server waits for a majority */

/* ---- What an answer means ------------------------------------------------------- */

/* The server's codes after which the same command may succeed, and before which it may have
** been done in part. Those of failovers, shutdowns, interruptions and time-outs, of a snapshot, a
** route or a concern that is not there yet, of a conflict inside the database, of a busy service.
*/
static bool is_passing(int code) {
  static const int codes[] = {
      6,   7,    24,    46,    50,    63,    64,    79,    89,    91,    100,   112,   117,
      133, 134,  150,   175,   189,   202,   211,   215,   239,   246,   249,   250,   251,
      262, 272,  276,   279,   290,   317,   319,   355,   358,   363,   365,   384,   402,
      407, 9001, 10058, 10107, 11600, 11601, 11602, 12586, 12587, 13388, 13435, 13436, 16500};
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i] == code) return true;
  return false;
}

static bool has_label(const bson_t *reply, const char *label) {
  bson_iter_t labels, i;
  if (!bson_iter_init_find(&labels, reply, "errorLabels") || !BSON_ITER_HOLDS_ARRAY(&labels) ||
      !bson_iter_recurse(&labels, &i))
    return false;
  while (bson_iter_next(&i))
    if (BSON_ITER_HOLDS_UTF8(&i) && strcmp(bson_iter_utf8(&i, NULL), label) == 0) return true;
  return false;
}

/* Which key refused a document: by its pattern, or, for servers without, by the name of the
** index in the text. The first such name is the server's: values that users gave come later. */
static void read_key(tide__reply *reply, bson_iter_t *pattern, const char *text) {
  static const struct {
    const char *index, *key;
  } names[] = {{"_id_", "_id"}, {"aggregate", "type"}, {"command", "type"}};
  if (pattern != NULL) {
    for (bool first = true; bson_iter_next(pattern); first = false) {
      if (first) bson_strncpy(reply->key, bson_iter_key(pattern), sizeof reply->key);
      if (strcmp(bson_iter_key(pattern), "commandId") == 0) reply->on_command = true;
    }
  }
  const char *name = text == NULL ? NULL : strstr(text, "index: ");
  for (size_t i = 0; name != NULL && i < sizeof names / sizeof *names; i++) {
    if (reply->key[0] != '\0') return;
    if (strncmp(name + strlen("index: "), names[i].index, strlen(names[i].index)) != 0) continue;
    bson_strncpy(reply->key, names[i].key, sizeof reply->key);
    reply->on_command = i == 2;
  }
}

/* A write error, or the reply of a command that failed. */
static void read_problem(tide__reply *reply, const bson_iter_t *fields) {
  bson_iter_t i = *fields, pattern;
  bool found = false;
  const char *text = NULL;
  while (bson_iter_next(&i)) {
    const char *key = bson_iter_key(&i);
    if (strcmp(key, "code") == 0) reply->code = (int)bson_iter_as_int64(&i);
    if (strcmp(key, "index") == 0) reply->index = bson_iter_as_int64(&i);
    if (strcmp(key, "errmsg") == 0 && BSON_ITER_HOLDS_UTF8(&i)) text = bson_iter_utf8(&i, NULL);
    if (strcmp(key, "keyPattern") == 0 && BSON_ITER_HOLDS_DOCUMENT(&i))
      found = bson_iter_recurse(&i, &pattern);
  }
  if (text != NULL) bson_strncpy(reply->error.message, text, sizeof reply->error.message);
  if (reply->code == 11000 || reply->code == 11001) read_key(reply, found ? &pattern : NULL, text);
}

/* The first element of a list of errors, or the one error. */
static bool first_problem(const bson_t *reply, const char *list, bson_iter_t *fields) {
  bson_iter_t i, element;
  if (!bson_iter_init_find(&i, reply, list)) return false;
  if (BSON_ITER_HOLDS_DOCUMENT(&i)) return bson_iter_recurse(&i, fields);
  return BSON_ITER_HOLDS_ARRAY(&i) && bson_iter_recurse(&i, &element) && bson_iter_next(&element) &&
         BSON_ITER_HOLDS_DOCUMENT(&element) && bson_iter_recurse(&element, fields);
}

static tide__answer answer_of_code(int code) {
  if (code == 11000 || code == 11001) return TIDE__DUPLICATE;
  return is_passing(code) ? TIDE__UNRESOLVED : TIDE__REFUSED;
}

/* What failed before the server answered. */
static tide__answer answer_of_client(const bson_error_t *error) {
  switch (error->domain) {
  case MONGOC_ERROR_PROTOCOL: /* a server that is too old stays so */
    return error->code == MONGOC_ERROR_PROTOCOL_BAD_WIRE_VERSION ? TIDE__REFUSED : TIDE__UNRESOLVED;
  case MONGOC_ERROR_STREAM:
  case MONGOC_ERROR_SERVER_SELECTION:
  case MONGOC_ERROR_WRITE_CONCERN:
    return TIDE__UNRESOLVED;
  default:
    return TIDE__REFUSED;
  }
}

void tide__reply_read(tide__reply *reply, bool succeeded) {
  bson_iter_t fields;
  reply->transaction = has_label(&reply->bson, "TransientTransactionError");
  reply->commit = has_label(&reply->bson, "UnknownTransactionCommitResult");
  if (first_problem(&reply->bson, "writeErrors", &fields)) {
    read_problem(reply, &fields);
    reply->answer = answer_of_code(reply->code);
  } else if (first_problem(&reply->bson, "writeConcernErrors", &fields) ||
             first_problem(&reply->bson, "writeConcernError", &fields)) {
    read_problem(reply, &fields);
    reply->answer = TIDE__UNRESOLVED;
  } else if (succeeded) {
    reply->answer = TIDE__DONE;
  } else if (reply->error.domain == MONGOC_ERROR_SERVER) {
    if (bson_iter_init(&fields, &reply->bson)) read_problem(reply, &fields);
    if (reply->code == 0) reply->code = (int)reply->error.code;
    reply->answer = answer_of_code(reply->code);
  } else {
    reply->answer = answer_of_client(&reply->error);
  }
  if (reply->answer == TIDE__REFUSED &&
      (reply->transaction || reply->commit || has_label(&reply->bson, "RetryableWriteError")))
    reply->answer = TIDE__UNRESOLVED;
}

void tide__reply_free(tide__reply *reply) {
  bson_destroy(&reply->bson);
}

/* ---- Sending -------------------------------------------------------------------- */

static bool append_write_concern(bson_t *options) {
  mongoc_write_concern_t *concern = mongoc_write_concern_new();
  mongoc_write_concern_set_w(concern, MONGOC_WRITE_CONCERN_W_MAJORITY);
  mongoc_write_concern_set_journal(concern, true);
  mongoc_write_concern_set_wtimeout_int64(concern, WRITE_TIMEOUT);
  bool done = mongoc_write_concern_append(concern, options);
  mongoc_write_concern_destroy(concern);
  return done;
}

static void begin(tide__reply *reply) {
  memset(reply, 0, sizeof *reply);
  bson_init(&reply->bson);
}

/* libmongoc initialises the reply on every path. */
static bson_t *fresh(tide__reply *reply) {
  bson_destroy(&reply->bson);
  return &reply->bson;
}

/* A connection that has failed is not used again: libmongoc would wait five seconds before it
** looks for the server once more. */
static void finish(tide__connection *connection, tide__reply *reply, bool done) {
  tide__reply_read(reply, done);
  if (!done && (reply->error.domain == MONGOC_ERROR_STREAM ||
                reply->error.domain == MONGOC_ERROR_SERVER_SELECTION ||
                reply->error.domain == MONGOC_ERROR_PROTOCOL))
    connection->broken = true;
}

void tide__mongo_command(tide__connection *connection, const char *database, const bson_t *command,
                         tide__reply *reply) {
  begin(reply);
  bool done = mongoc_client_command_simple(tide__mongo_client(connection), database, command, NULL,
                                           fresh(reply), &reply->error);
  finish(connection, reply, done);
}

void tide__mongo_read(tide__connection *connection, const char *database, const bson_t *command,
                      const char *level, tide__reply *reply) {
  bson_t options = BSON_INITIALIZER;
  mongoc_read_concern_t *concern = mongoc_read_concern_new();
  begin(reply);
  mongoc_read_concern_set_level(concern,
                                level == NULL ? MONGOC_READ_CONCERN_LEVEL_MAJORITY : level);
  bool done =
      mongoc_read_concern_append(concern, &options) &&
      mongoc_client_read_command_with_opts(tide__mongo_client(connection), database, command, NULL,
                                           &options, fresh(reply), &reply->error);
  mongoc_read_concern_destroy(concern);
  bson_destroy(&options);
  finish(connection, reply, done);
}

void tide__mongo_write(tide__connection *connection, const char *database, const bson_t *command,
                       mongoc_client_session_t *session, tide__reply *reply) {
  bson_t options = BSON_INITIALIZER;
  begin(reply);
  /* a session is its client's */
  mongoc_client_t *client = session != NULL ? connection->client : tide__mongo_client(connection);
  bool done = session != NULL ? mongoc_client_session_append(session, &options, &reply->error)
                              : append_write_concern(&options);
  done = done && mongoc_client_write_command_with_opts(client, database, command, &options,
                                                       fresh(reply), &reply->error);
  bson_destroy(&options);
  finish(connection, reply, done);
}

void tide__mongo_insert(tide__connection *connection, const char *database, const char *collection,
                        bson_t *const *documents, size_t count, tide__reply *reply) {
  bson_t options = BSON_INITIALIZER;
  mongoc_collection_t *target =
      mongoc_client_get_collection(tide__mongo_client(connection), database, collection);
  begin(reply);
  bool done = append_write_concern(&options) && BSON_APPEND_BOOL(&options, "ordered", true) &&
              BSON_APPEND_BOOL(&options, "validate", false) && /* it is ours, and sound */
              mongoc_collection_insert_many(target, (const bson_t **)(uintptr_t)documents, count,
                                            &options, fresh(reply), &reply->error);
  mongoc_collection_destroy(target);
  bson_destroy(&options);
  finish(connection, reply, done);
}

/* ---- Patience ------------------------------------------------------------------- */

void tide__mongo_sleep(int64_t ms) {
  struct timespec left = {ms / 1000, (long)(ms % 1000) * 1000000};
  while (nanosleep(&left, &left) != 0)
    continue;
}

int tide__mongo_new_name(uint8_t name[TIDE__COMMIT_ID], tide_error *error) {
  uint64_t bits[2];
  int code = tide__random(&bits[0], error);
  if (code == TIDE_OK) code = tide__random(&bits[1], error);
  if (code == TIDE_OK) memcpy(name, bits, sizeof bits);
  return code;
}

/* splitmix64, by Sebastiano Vigna: each step is a new number for every caller. */
uint64_t tide__mongo_dice(tide__mongo *store, uint64_t limit) {
  uint64_t x = atomic_fetch_add(&store->jitter, UINT64_C(0x9E3779B97F4A7C15));
  x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
  return (x ^ (x >> 31)) % limit;
}

tide__patience tide__patience_begin(tide__mongo *store) {
  return (tide__patience){.store = store, .end = tide__monotonic() + store->patience};
}

bool tide__patience_again(tide__patience *patience) {
  if (tide__monotonic() >= patience->end) return false;
  uint64_t limit = patience->attempt < 8 ? UINT64_C(1) << patience->attempt : LONGEST_PAUSE;
  patience->attempt++;
  tide__mongo_sleep((int64_t)tide__mongo_dice(patience->store, limit + 1));
  return true;
}

int tide__mongo_ask(tide__mongo *store, tide__connection *connection, const char *database,
                    const bson_t *command, tide__reply *reply, tide_error *error) {
  tide__patience patience = tide__patience_begin(store);
  for (;;) {
    tide__mongo_read(connection, database, command, NULL, reply);
    if (reply->answer == TIDE__DONE) return TIDE_OK;
    if (reply->answer != TIDE__UNRESOLVED || !tide__patience_again(&patience))
      return tide__mongo_fail(store, "reading", reply, error);
    tide__reply_free(reply);
  }
}

int tide__mongo_do(tide__mongo *store, tide__connection *connection, const char *database,
                   const bson_t *command, tide__reply *reply, tide_error *error) {
  tide__patience patience = tide__patience_begin(store);
  for (;;) {
    tide__mongo_write(connection, database, command, NULL, reply);
    if (reply->answer == TIDE__DONE || reply->answer == TIDE__DUPLICATE) return TIDE_OK;
    if (reply->answer != TIDE__UNRESOLVED || !tide__patience_again(&patience))
      return tide__mongo_fail(store, "writing", reply, error);
    tide__reply_free(reply);
  }
}

/* ---- Failing -------------------------------------------------------------------- */

/* Masks a secret wherever it stands: whatever a server or a library puts into its text. */
static void mask(char *text, const char *secret) {
  size_t size = strlen(secret);
  if (size < 3) return; /* such a one would be found in any text */
  for (char *at = text; (at = strstr(at, secret)) != NULL; at += size)
    memset(at, '*', size);
}

int tide__mongo_fail(tide__mongo *store, const char *doing, const tide__reply *reply,
                     tide_error *error) {
  char text[sizeof reply->error.message];
  const char *hint = "";
  bson_strncpy(text, reply->error.message, sizeof text);
  for (char *c = text; *c != '\0'; c++)
    if ((unsigned char)*c < ' ') *c = ' ';
  mask(text, store->uri.secret);
  mask(text, store->uri.written);
  if (reply->code == 13 || reply->code == 8000)
    hint = " (tidelog mongodb setup --print shows the role that is needed)";
  if (reply->code == 14031) hint = " (the disk of the database is full)";
  int transient = reply->answer == TIDE__UNRESOLVED;
  if (transient && strcmp(doing, "writing") == 0) hint = " (it is unknown whether it was written)";
  return tide__fail_store(error, transient, "MongoDB at %.100s, %s: %.300s%s", store->uri.place,
                          doing, text[0] == '\0' ? "no reason given" : text, hint);
}

/* ---- BSON that is read ---------------------------------------------------------- */

bool tide__batch(const tide__reply *reply, bson_iter_t *documents) {
  bson_iter_t top, batch;
  return bson_iter_init(&top, &reply->bson) &&
         bson_iter_find_descendant(&top, "cursor.firstBatch", &batch) &&
         BSON_ITER_HOLDS_ARRAY(&batch) && bson_iter_recurse(&batch, documents);
}

bool tide__body_of(const bson_iter_t *field, const uint8_t **data, size_t *size) {
  uint32_t length;
  bson_subtype_t subtype;
  if (BSON_ITER_HOLDS_DOCUMENT(field)) {
    bson_iter_document(field, &length, data);
  } else if (BSON_ITER_HOLDS_BINARY(field)) {
    bson_iter_binary(field, &subtype, &length, data);
  } else {
    return false;
  }
  *size = length;
  return *data != NULL && length >= 5;
}

/* An iterator is aligned to more than its size. */
typedef struct level {
  bson_iter_t at;
} level;

/* Walks as deep as values may be nested; what is deeper is not plain. */
bool tide__is_plain(const uint8_t *data, size_t size) {
  level levels[TIDE_BODY_DEPTH_MAX];
  int depth = 0;
  if (!bson_iter_init_from_data(&levels[0].at, data, size)) return false;
  while (depth >= 0) {
    bson_iter_t *i = &levels[depth].at;
    if (!bson_iter_next(i)) {
      if (i->err_off != 0) return false;
      depth--;
      continue;
    }
    const char *key = bson_iter_key(i);
    if (key[0] == '\0' || key[0] == '$' || strchr(key, '.') != NULL) return false;
    if (!BSON_ITER_HOLDS_DOCUMENT(i) && !BSON_ITER_HOLDS_ARRAY(i)) continue;
    if (depth + 1 == TIDE_BODY_DEPTH_MAX || !bson_iter_recurse(i, &levels[depth + 1].at))
      return false;
    depth++;
  }
  return true;
}

void tide__append_body(bson_t *to, const char *key, const uint8_t *data, size_t size) {
  bson_t body;
  if (tide__is_plain(data, size) && bson_init_static(&body, data, size)) {
    BSON_APPEND_DOCUMENT(to, key, &body);
  } else {
    BSON_APPEND_BINARY(to, key, BSON_SUBTYPE_BINARY, data, (uint32_t)size);
  }
}

int tide__names_keep(tide__names *list, const tide__reply *reply, size_t page, tide_error *error) {
  bson_iter_t documents, field;
  size_t seen = 0, prefix = strlen(list->prefix);
  if (!tide__batch(reply, &documents)) return TIDE_OK;
  while (bson_iter_next(&documents)) {
    seen++;
    if (!bson_iter_recurse(&documents, &field) || !bson_iter_find(&field, "_id") ||
        !BSON_ITER_HOLDS_UTF8(&field))
      continue; /* it is somebody else's */
    const char *name = bson_iter_utf8(&field, NULL);
    size_t size = strlen(name) + 1;
    if (size > sizeof list->last) continue;
    if (strncmp(name, list->prefix, prefix) != 0) {
      list->ended = true;
      return TIDE_OK;
    }
    if (size > list->room - list->names.size) {
      size_t room =
          list->room * 2 > list->names.size + size ? list->room * 2 : list->names.size + size;
      uint8_t *grown = realloc(list->names.data, room);
      if (grown == NULL) return tide__fail_memory(error);
      list->names.data = grown;
      list->room = room;
    }
    memcpy(list->names.data + list->names.size, name, size);
    memcpy(list->last, name, size);
    list->names.size += size;
    list->count++;
  }
  list->ended = seen < page;
  return TIDE_OK;
}

/* ---- Transactions --------------------------------------------------------------- */

mongoc_client_session_t *tide__mongo_begin(tide__connection *connection, tide__reply *reply) {
  mongoc_session_opt_t *how = mongoc_session_opts_new();
  mongoc_transaction_opt_t *options = mongoc_transaction_opts_new();
  mongoc_read_concern_t *read = mongoc_read_concern_new();
  mongoc_write_concern_t *write = mongoc_write_concern_new();
  mongoc_session_opts_set_causal_consistency(how, false);
  mongoc_read_concern_set_level(read, MONGOC_READ_CONCERN_LEVEL_MAJORITY);
  mongoc_write_concern_set_w(write, MONGOC_WRITE_CONCERN_W_MAJORITY);
  mongoc_write_concern_set_journal(write, true);
  mongoc_write_concern_set_wtimeout_int64(write, WRITE_TIMEOUT);
  mongoc_transaction_opts_set_read_concern(options, read);
  mongoc_transaction_opts_set_write_concern(options, write);
  begin(reply);
  mongoc_client_session_t *session =
      mongoc_client_start_session(tide__mongo_client(connection), how, &reply->error);
  if (session != NULL &&
      !mongoc_client_session_start_transaction(session, options, &reply->error)) {
    mongoc_client_session_destroy(session);
    session = NULL;
  }
  finish(connection, reply, session != NULL);
  mongoc_write_concern_destroy(write);
  mongoc_read_concern_destroy(read);
  mongoc_transaction_opts_destroy(options);
  mongoc_session_opts_destroy(how);
  return session;
}

void tide__mongo_commit(tide__connection *connection, mongoc_client_session_t *session,
                        tide__patience *patience, tide__reply *reply) {
  for (;;) {
    begin(reply);
    bool done = mongoc_client_session_commit_transaction(session, fresh(reply), &reply->error);
    finish(connection, reply, done);
    /* A write concern that failed says no more of the outcome than a lost answer. */
    bool unknown = reply->answer == TIDE__UNRESOLVED && !reply->transaction;
    if (!unknown || !tide__patience_again(patience)) return;
    tide__reply_free(reply);
  }
}
