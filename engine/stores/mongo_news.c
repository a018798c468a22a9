/* mongo_news.c - waiting for commits in MongoDB: by a change stream where the server has
** them, else by asking. Both only wake: what is there is what a read of the tail finds. */
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "stores/mongo_store.h"

#define SLICE 1000 /* ms that a stream is waited on before the tail is read all the same */

/* Codes of servers that have no change streams, or none for us: not found, not supported, not
** on a standalone, not authorized, an unknown stage. */
static bool is_unsupported(int code) {
  static const int codes[] = {13, 59, 72, 115, 238, 303, 8000, 40324, 40573};
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i] == code) return true;
  return false;
}

/* Why a stream failed: *fatal where the server has none for us. */
static bool has_failed(mongoc_change_stream_t *stream, bool *fatal) {
  const bson_t *document;
  tide__reply reply;
  memset(&reply, 0, sizeof reply);
  *fatal = false;
  if (!mongoc_change_stream_error_document(stream, &reply.error, &document)) return false;
  bson_copy_to(document, &reply.bson);
  tide__reply_read(&reply, false);
  *fatal = is_unsupported(reply.code);
  tide__reply_free(&reply);
  return true;
}

bool tide__mongo_change_streams(tide__mongo *store, tide__connection *connection,
                                const char *database) {
  bool fatal;
  if (atomic_load(&store->change_streams) != TIDE__UNKNOWN)
    return atomic_load(&store->change_streams) == TIDE__ABLE;
  bson_t all = BSON_INITIALIZER;
  bson_t *options = BCON_NEW("maxAwaitTimeMS", BCON_INT64(1));
  mongoc_collection_t *events =
      mongoc_client_get_collection(tide__mongo_client(connection), database, "events");
  mongoc_change_stream_t *stream = mongoc_collection_watch(events, &all, options);
  if (!has_failed(stream, &fatal))
    atomic_store(&store->change_streams, TIDE__ABLE);
  else if (fatal)
    atomic_store(&store->change_streams, TIDE__UNABLE);
  mongoc_change_stream_destroy(stream);
  mongoc_collection_destroy(events);
  bson_destroy(options);
  return atomic_load(&store->change_streams) == TIDE__ABLE;
}

/* Opens the stream of what comes from now on; NULL where it cannot be. None is resumed: what
** its reader has read already would wake it. */
static mongoc_change_stream_t *open_stream(tide__mongo *store, mongoc_collection_t *events,
                                           int64_t wait) {
  bool fatal;
  bson_t *pipeline = BCON_NEW("pipeline", "[", "{", "$match", "{", "operationType",
                              BCON_UTF8("insert"), "}", "}", "{", "$project", "{", "_id",
                              BCON_INT32(1), "documentKey", BCON_INT32(1), "}", "}", "]");
  bson_t *options = BCON_NEW("maxAwaitTimeMS", BCON_INT64(wait), "batchSize", BCON_INT32(1));
  mongoc_change_stream_t *stream = mongoc_collection_watch(events, pipeline, options);
  bson_destroy(options);
  bson_destroy(pipeline);
  if (!has_failed(stream, &fatal)) {
    atomic_store(&store->change_streams, TIDE__ABLE);
    return stream;
  }
  if (fatal) atomic_store(&store->change_streams, TIDE__UNABLE);
  mongoc_change_stream_destroy(stream);
  return NULL;
}

static int look_at_tail(tide__mongo *store, tide__connection *connection,
                        tide__mongo_tenant *tenant, int64_t *head, tide_error *error) {
  int code = tide__mongo_catch_up(store, connection, tenant, NULL, error);
  (void)pthread_mutex_lock(&tenant->lock);
  *head = tenant->head.position;
  (void)pthread_mutex_unlock(&tenant->lock);
  return code;
}

/* One wait on a stream of at most `wait` ms, with a look at the tail once it is open: what came
** before that, the stream may not tell. */
static int wait_on_stream(tide__mongo *store, tide__connection *connection,
                          tide__mongo_tenant *tenant, int64_t position, int64_t wait, int64_t *head,
                          bool *waited, tide_error *error) {
  bool fatal;
  const bson_t *news;
  *waited = false;
  mongoc_collection_t *events =
      mongoc_client_get_collection(tide__mongo_client(connection), tenant->database, "events");
  connection->pinned = true; /* the stream is its client's */
  mongoc_change_stream_t *stream = open_stream(store, events, wait);
  int code = TIDE_OK;
  if (stream != NULL) {
    code = look_at_tail(store, connection, tenant, head, error);
    *waited = code == TIDE_OK && *head <= position;
    if (*waited) (void)mongoc_change_stream_next(stream, &news); /* it wakes, and tells no more */
    *waited = *waited && !has_failed(stream, &fatal);
    mongoc_change_stream_destroy(stream);
  }
  mongoc_collection_destroy(events);
  connection->pinned = false;
  return code;
}

int tide__mongo_wait(tide_store *base, const char *name, int64_t position, int64_t timeout,
                     int64_t *head, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  const int64_t end = tide__monotonic() + timeout;
  int64_t pause = 1;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_look(store, connection, tenant, error);
  for (;;) {
    if (code == TIDE_OK) code = look_at_tail(store, connection, tenant, head, error);
    int64_t left = end - tide__monotonic();
    if (code != TIDE_OK || *head > position || left <= 0) break;
    bool waited = false;
    if (tide__mongo_is_known(tenant) && atomic_load(&store->change_streams) != TIDE__UNABLE)
      code = wait_on_stream(store, connection, tenant, position, left < SLICE ? left : SLICE, head,
                            &waited, error);
    if (waited || *head > position) continue;
    tide__mongo_sleep(pause < left ? pause : left);
    pause = pause < 50 ? pause * 2 : 100;
  }
  tide__mongo_leave(base, tenant, connection);
  return code;
}
