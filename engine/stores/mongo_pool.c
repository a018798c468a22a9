/* mongo_pool.c - connections to MongoDB, shared by the threads: who takes one has it alone.
**
** They are libmongoc's clients for one thread each, and not its pool: that has threads of its
** own, which half a second is waited for at the end, and which no fork() takes along. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stores/mongo_store.h"

#define CONNECTIONS 100 /* at once, where the URI does not say; as MongoDB's drivers have */

/* libmongoc writes to standard error where nobody has told it otherwise; a library does not. */
static void hear_nothing(mongoc_log_level_t level, const char *domain, const char *message,
                         void *data) {
  (void)level, (void)domain, (void)message, (void)data;
}

void tide__mongo_start(void) {
  mongoc_log_set_handler(hear_nothing, NULL); /* before it starts: that may speak, too */
  mongoc_init();
}

/* ---- One connection ------------------------------------------------------------- */

/* libmongoc does not always say that it was in TLS where it failed. */
static const char *connecting(const tide__mongo *store) {
  return mongoc_uri_get_tls(store->uri.uri) ? "connecting by TLS" : "connecting";
}

static int fail_client(tide__mongo *store, const bson_error_t *why, tide_error *error) {
  tide__reply reply = {.error = *why, .answer = TIDE__REFUSED};
  if (why->domain == MONGOC_ERROR_STREAM) reply.answer = TIDE__UNRESOLVED;
  return tide__mongo_fail(store, connecting(store), &reply, error);
}

static int new_client(tide__mongo *store, const mongoc_uri_t *uri, mongoc_client_t **client,
                      tide_error *error) {
  bson_error_t why = {0};
  *client = mongoc_client_new_from_uri_with_error(uri, &why);
  if (*client == NULL) return fail_client(store, &why, error);
  bool done = mongoc_client_set_error_api(*client, MONGOC_ERROR_API_VERSION_2);
  if (done && store->versioned) {
    mongoc_server_api_t *api = mongoc_server_api_new(MONGOC_SERVER_API_V1);
    done = mongoc_client_set_server_api(*client, api, &why);
    mongoc_server_api_destroy(api);
  }
  if (done) return TIDE_OK;
  mongoc_client_destroy(*client);
  *client = NULL;
  return fail_client(store, &why, error);
}

mongoc_client_t *tide__mongo_client(tide__connection *connection) {
  mongoc_client_t *fresh;
  if (!connection->broken || connection->pinned) return connection->client;
  connection->broken = false;
  /* where none can be had the old one says why */
  if (new_client(connection->store, connection->store->uri.uri, &fresh, NULL) != TIDE_OK)
    return connection->client;
  mongoc_client_destroy(connection->client);
  connection->client = fresh;
  return fresh;
}

static void free_connection(tide__connection *connection) {
  if (connection->client != NULL) mongoc_client_destroy(connection->client);
  free(connection);
}

static int new_connection(tide__mongo *store, const mongoc_uri_t *uri, tide__connection **made,
                          tide_error *error) {
  *made = calloc(1, sizeof **made);
  if (*made == NULL) return tide__fail_memory(error);
  (*made)->store = store;
  int code = new_client(store, uri, &(*made)->client, error);
  if (code == TIDE_OK) return code;
  free(*made);
  *made = NULL;
  return code;
}

/* ---- Who is there --------------------------------------------------------------- */

static bool ask(tide__connection *connection, const char *command, const char *version,
                tide__reply *reply) {
  bson_t asked = BSON_INITIALIZER;
  BSON_APPEND_INT32(&asked, command, 1);
  if (version != NULL) BSON_APPEND_UTF8(&asked, "apiVersion", version);
  tide__mongo_command(connection, "admin", &asked, reply);
  bson_destroy(&asked);
  return reply->answer == TIDE__DONE;
}

static const char *text_field(const bson_t *bson, const char *key) {
  bson_iter_t i;
  return bson_iter_init_find(&i, bson, key) && BSON_ITER_HOLDS_UTF8(&i) ? bson_iter_utf8(&i, NULL)
                                                                        : NULL;
}

static void name_server(tide__mongo *store, tide__connection *connection, const bson_t *hello) {
  tide__reply build;
  bool known = ask(connection, "buildInfo", NULL, &build);
  const char *version = known ? text_field(&build.bson, "version") : NULL;
  const char *set = text_field(hello, "setName"), *router = text_field(hello, "msg");
  bool balanced = mongoc_uri_get_option_as_bool(store->uri.uri, MONGOC_URI_LOADBALANCED, false);
  const char *kind = set != NULL                                         ? "replica set "
                     : balanced                                          ? "behind a load balancer"
                     : router != NULL && strcmp(router, "isdbgrid") == 0 ? "sharded cluster"
                                                                         : "standalone";
  (void)snprintf(store->server, sizeof store->server, "MongoDB %.30s, %s%.40s",
                 version == NULL ? "of an unknown version" : version, kind, set != NULL ? set : "");
  tide__reply_free(&build);
}

int tide__mongo_meet(tide__mongo *store, tide_error *error) {
  tide__reply hello, ping;
  tide__connection *connection;
  mongoc_uri_t *uri = mongoc_uri_copy(store->uri.uri);
  /* One host that refuses is not waited for; of several, one may be about to be elected. */
  const mongoc_host_list_t *hosts = mongoc_uri_get_hosts(uri);
  bool several = (hosts != NULL && hosts->next != NULL) ||
                 mongoc_uri_get_replica_set(uri) != NULL ||
                 mongoc_uri_get_srv_hostname(uri) != NULL;
  (void)mongoc_uri_set_option_as_bool(uri, MONGOC_URI_SERVERSELECTIONTRYONCE, !several);
  int code = new_connection(store, uri, &connection, error);
  mongoc_uri_destroy(uri);
  if (code != TIDE_OK) return code;
  tide__patience patience = tide__patience_begin(store);
  while (!ask(connection, "hello", NULL, &hello) && several &&
         hello.error.domain == MONGOC_ERROR_STREAM && tide__patience_again(&patience))
    tide__reply_free(&hello); /* it broke off: another one may answer, or the same again */
  if (hello.answer != TIDE__DONE && hello.code != 0) {
    tide__reply_free(&hello);
    (void)ask(connection, "isMaster", NULL, &hello); /* what it was called before */
  }
  if (hello.answer != TIDE__DONE) {
    code = tide__mongo_fail(store, connecting(store), &hello, error);
  } else {
    name_server(store, connection, &hello.bson);
    store->versioned = ask(connection, "ping", "1", &ping);
    tide__reply_free(&ping);
  }
  tide__reply_free(&hello);
  free_connection(connection);
  return code;
}

/* ---- The pool ------------------------------------------------------------------- */

int tide__mongo_pop(tide__mongo *store, tide__connection **connection, tide_error *error) {
  struct timespec until;
  int waited = 0, code = TIDE_OK;
  int most = mongoc_uri_get_option_as_int32(store->uri.uri, MONGOC_URI_MAXPOOLSIZE, CONNECTIONS);
  *connection = NULL;
  (void)clock_gettime(CLOCK_REALTIME, &until); /* this clock is always there */
  until.tv_sec += store->patience / 1000 + 1;
  (void)pthread_mutex_lock(&store->lock);
  while (store->idle_count == 0 && store->clients >= most && waited == 0)
    waited = pthread_cond_timedwait(&store->returned, &store->lock, &until);
  if (store->idle_count > 0) {
    *connection = store->idle[--store->idle_count];
  } else if (store->clients >= most) {
    code = tide__fail_store(error, 1, "all of %d connections to MongoDB at %.100s are in use", most,
                            store->uri.place);
  } else {
    store->clients++;
  }
  (void)pthread_mutex_unlock(&store->lock);
  if (*connection != NULL || code != TIDE_OK) return code;
  code = new_connection(store, store->uri.uri, connection, error);
  if (code == TIDE_OK) return code;
  (void)pthread_mutex_lock(&store->lock);
  store->clients--;
  (void)pthread_cond_signal(&store->returned);
  (void)pthread_mutex_unlock(&store->lock);
  return code;
}

void tide__mongo_push(tide__mongo *store, tide__connection *connection) {
  if (connection == NULL) return;
  (void)pthread_mutex_lock(&store->lock);
  if (store->idle_count == store->idle_room) {
    size_t room = store->idle_room == 0 ? 8 : store->idle_room * 2;
    tide__connection **grown = realloc(store->idle, room * sizeof(tide__connection *));
    if (grown != NULL) {
      store->idle = grown;
      store->idle_room = room;
    }
  }
  bool kept = store->idle_count < store->idle_room;
  if (kept)
    store->idle[store->idle_count++] = connection;
  else
    store->clients--;
  (void)pthread_cond_signal(&store->returned);
  (void)pthread_mutex_unlock(&store->lock);
  if (!kept) free_connection(connection);
}

void tide__mongo_close_pool(tide__mongo *store) {
  for (size_t i = 0; i < store->idle_count; i++)
    free_connection(store->idle[i]);
  free(store->idle);
}

int tide__mongo_enter(tide_store *base, const char *name, tide__mongo_tenant **tenant,
                      tide__connection **connection, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  *connection = NULL;
  int code = tide__mongo_take(store, name, tenant, error);
  if (code == TIDE_OK) code = tide__mongo_pop(store, connection, error);
  if (code != TIDE_OK) {
    tide__mongo_give(store, *tenant);
    *tenant = NULL;
  }
  return code;
}

void tide__mongo_leave(tide_store *base, tide__mongo_tenant *tenant, tide__connection *connection) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_push(store, connection);
  tide__mongo_give(store, tenant);
}
