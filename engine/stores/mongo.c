/* mongo.c - the store on MongoDB: its pool of connections, its tenants, what its database can. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/id.h"
#include "stores/mongo_store.h"

#define MARK '~' /* behind the prefix of a tenant whose name MongoDB keeps for itself */

/* ---- Tenants -------------------------------------------------------------------- */

static bool is_reserved(const char *name) {
  return strcmp(name, "admin") == 0 || strcmp(name, "local") == 0 || strcmp(name, "config") == 0;
}

static void name_database(const tide__mongo *store, const char *tenant, char *database) {
  bool marked = store->uri.prefix[0] == '\0' && is_reserved(tenant);
  (void)snprintf(database, TIDE__DATABASE_MAX + 1, "%s%s%s", store->uri.prefix,
                 marked ? (const char[]){MARK, '\0'} : "", tenant);
}

/* The tenant whose database this would be, or NULL. */
static const char *tenant_of(const tide__mongo *store, const char *database) {
  size_t size = strlen(store->uri.prefix);
  if (strncmp(database, store->uri.prefix, size) != 0) return NULL;
  const char *name = database + size;
  if (size == 0 && is_reserved(name)) return NULL;
  if (size == 0 && name[0] == MARK && is_reserved(name + 1)) return name + 1;
  return tide__check_tenant(name, strlen(name), NULL) == TIDE_OK ? name : NULL;
}

static void free_link(tide__link *link) {
  free(link);
}

static void free_tenant(tide__mongo_tenant *tenant) {
  tide__map_free(&tenant->known_next, free_link);
  (void)pthread_mutex_destroy(&tenant->appending); /* nobody holds them */
  (void)pthread_mutex_destroy(&tenant->lock);
  free(tenant);
}

static tide__mongo_tenant *new_tenant(const tide__mongo *store, const char *name) {
  tide__mongo_tenant *made = calloc(1, sizeof *made);
  if (made == NULL) return NULL;
  if (pthread_mutex_init(&made->appending, NULL) != 0) {
    free(made);
    return NULL;
  }
  if (pthread_mutex_init(&made->lock, NULL) != 0) {
    (void)pthread_mutex_destroy(&made->appending);
    free(made);
    return NULL;
  }
  bson_strncpy(made->name, name, sizeof made->name);
  name_database(store, name, made->database);
  made->last = -1;
  return made;
}

/* Forgets the tenant that was used least lately, where there are too many; not this one. */
static void forget_one(tide__mongo *store, const tide__mongo_tenant *kept) {
  tide__mongo_tenant **oldest = NULL;
  if (store->open <= store->max_open) return;
  for (tide__mongo_tenant **at = &store->tenants; *at != NULL; at = &(*at)->next)
    if (*at != kept && (*at)->users == 0 && (oldest == NULL || (*at)->used < (*oldest)->used))
      oldest = at;
  if (oldest == NULL) return;
  tide__mongo_tenant *out = *oldest;
  *oldest = out->next;
  store->open--;
  free_tenant(out);
}

int tide__mongo_take(tide__mongo *store, const char *name, tide__mongo_tenant **tenant,
                     tide_error *error) {
  *tenant = NULL;
  int code = tide__mongo_own(store, error);
  if (code != TIDE_OK) return code;
  (void)pthread_mutex_lock(&store->lock);
  tide__mongo_tenant *found = store->tenants;
  while (found != NULL && strcmp(found->name, name) != 0)
    found = found->next;
  if (found == NULL && (found = new_tenant(store, name)) != NULL) {
    found->next = store->tenants;
    store->tenants = found;
    store->open++;
    found->users++;
    forget_one(store, found);
  } else if (found != NULL) {
    found->users++;
  }
  if (found != NULL) found->used = ++store->uses;
  (void)pthread_mutex_unlock(&store->lock);
  if (found == NULL) return tide__fail_memory(error);
  *tenant = found;
  return TIDE_OK;
}

void tide__mongo_give(tide__mongo *store, tide__mongo_tenant *tenant) {
  if (tenant == NULL) return;
  (void)pthread_mutex_lock(&store->lock);
  tenant->users--;
  forget_one(store, NULL);
  (void)pthread_mutex_unlock(&store->lock);
}

int tide__mongo_own(const tide__mongo *store, tide_error *error) {
  if (store->owner == getpid()) return TIDE_OK;
  return tide__fail_store(error, 0, "the store was opened before a fork(): open another one");
}

/* ---- The names of the tenants --------------------------------------------------- */

/* Is it a database of ours? Others may have names like a tenant's. */
static int has_mark(tide__mongo *store, tide__connection *connection, const char *tenant, bool *has,
                    tide_error *error) {
  tide__mongo_tenant *taken;
  int code = tide__mongo_take(store, tenant, &taken, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_know(store, connection, taken, error);
  *has = code == TIDE_OK && tide__mongo_is_known(taken);
  tide__mongo_give(store, taken);
  return code;
}

static int compare_names(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Adds the tenants of the reply of listDatabases to the list. */
static int keep_names(tide__mongo *store, tide__connection *connection, const tide__reply *reply,
                      char ***list, size_t *used, tide_error *error) {
  bson_iter_t top, databases, field;
  size_t room = 0;
  if (!bson_iter_init_find(&top, &reply->bson, "databases") || !bson_iter_recurse(&top, &databases))
    return tide__fail_store(error, 0, "MongoDB at %s gave no list of databases", store->uri.place);
  while (bson_iter_next(&databases)) {
    bool has = false;
    if (!bson_iter_recurse(&databases, &field) || !bson_iter_find(&field, "name") ||
        !BSON_ITER_HOLDS_UTF8(&field))
      continue;
    const char *tenant = tenant_of(store, bson_iter_utf8(&field, NULL));
    if (tenant == NULL) continue;
    int code = has_mark(store, connection, tenant, &has, error);
    if (code != TIDE_OK) return code;
    if (!has) continue;
    if (*used == room) {
      room = room == 0 ? 64 : room * 2;
      char **grown = realloc(*list, room * sizeof *grown);
      if (grown == NULL) return tide__fail_memory(error);
      *list = grown;
    }
    (*list)[*used] = strdup(tenant);
    if ((*list)[*used] == NULL) return tide__fail_memory(error);
    ++*used;
  }
  return TIDE_OK;
}

static int join_names(char **list, size_t used, tide_bytes *names, tide_error *error) {
  size_t size = 0;
  if (used == 0) return TIDE_OK;
  for (size_t i = 0; i < used; i++)
    size += strlen(list[i]) + 1;
  names->data = malloc(size);
  if (names->data == NULL) return tide__fail_memory(error);
  qsort(list, used, sizeof *list, compare_names);
  for (size_t i = 0; i < used; i++) {
    size_t length = strlen(list[i]) + 1;
    memcpy(names->data + names->size, list[i], length);
    names->size += length;
  }
  return TIDE_OK;
}

static int mongo_tenants(tide_store *base, tide_bytes *names, size_t *count, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__connection *connection;
  tide__reply reply;
  char **list = NULL;
  size_t used = 0;
  int code = tide__mongo_own(store, error);
  if (code == TIDE_OK) code = tide__mongo_pop(store, &connection, error);
  if (code != TIDE_OK) return code;
  bson_t *command = BCON_NEW("listDatabases", BCON_INT32(1), "nameOnly", BCON_BOOL(true),
                             "authorizedDatabases", BCON_BOOL(true));
  tide__patience patience = tide__patience_begin(store);
  for (;;) {
    tide__mongo_command(connection, "admin", command, &reply);
    if (reply.answer != TIDE__UNRESOLVED || !tide__patience_again(&patience)) break;
    tide__reply_free(&reply);
  }
  code = reply.answer == TIDE__DONE ? keep_names(store, connection, &reply, &list, &used, error)
                                    : tide__mongo_fail(store, "listing databases", &reply, error);
  if (code == TIDE_OK) code = join_names(list, used, names, error);
  if (code == TIDE_OK) *count = used;
  for (size_t i = 0; i < used; i++)
    free(list[i]);
  free(list);
  tide__reply_free(&reply);
  bson_destroy(command);
  tide__mongo_push(store, connection);
  return code;
}

/* ---- What the database can ------------------------------------------------------ */

/* A read inside a transaction: what there is of them shows there. */
static void try_transaction(tide__connection *connection, const char *database,
                            tide__reply *reply) {
  memset(reply, 0, sizeof *reply);
  bson_init(&reply->bson);
  mongoc_client_session_t *session =
      mongoc_client_start_session(tide__mongo_client(connection), NULL, &reply->error);
  bool done =
      session != NULL && mongoc_client_session_start_transaction(session, NULL, &reply->error);
  if (done) {
    bson_t options = BSON_INITIALIZER;
    bson_t *command =
        BCON_NEW("find", BCON_UTF8("threads"), "filter", "{", "}", "limit", BCON_INT32(1),
                 "batchSize", BCON_INT32(1), "singleBatch", BCON_BOOL(true));
    bson_destroy(&reply->bson);
    done = mongoc_client_session_append(session, &options, NULL);
    done = mongoc_client_read_command_with_opts(connection->client, database, command, NULL,
                                                &options, &reply->bson, &reply->error) &&
           done;
    bson_destroy(command);
    bson_destroy(&options);
    (void)mongoc_client_session_abort_transaction(session, NULL); /* it wrote nothing */
  }
  if (session != NULL) mongoc_client_session_destroy(session);
  tide__reply_read(reply, done);
}

int tide__mongo_transactions(tide__mongo *store, tide__connection *connection, const char *database,
                             bool *able, tide_error *error) {
  int known = atomic_load(&store->transactions);
  *able = known == TIDE__ABLE;
  if (known != TIDE__UNKNOWN) return TIDE_OK;
  tide__patience patience = tide__patience_begin(store);
  for (;;) {
    tide__reply reply;
    try_transaction(connection, database, &reply);
    if (reply.answer != TIDE__UNRESOLVED) {
      *able = reply.answer == TIDE__DONE;
      int code = TIDE_OK;
      if (reply.code == 13 || reply.code == 18 ||
          reply.code == 8000) /* that says nothing of transactions */
        code = tide__mongo_fail(store, "reading", &reply, error);
      else
        atomic_store(&store->transactions, *able ? TIDE__ABLE : TIDE__UNABLE);
      tide__reply_free(&reply);
      return code;
    }
    if (!tide__patience_again(&patience)) {
      int code = tide__mongo_fail(store, "reading", &reply, error);
      tide__reply_free(&reply);
      return code;
    }
    tide__reply_free(&reply);
  }
}

/* A copy that free() frees. */
static int copy_out(const bson_t *from, tide_bytes *to, tide_error *error) {
  to->data = malloc(from->len);
  if (to->data == NULL) return tide__fail_memory(error);
  memcpy(to->data, bson_get_data(from), from->len);
  to->size = from->len;
  return TIDE_OK;
}

/* What is said of the store in general is tried in a database that need not be. */
#define ANY_DATABASE "tidelog"

/* The mode, where it may be tried: who may use some tenants only is told with one of them. */
static void describe_mode(tide__mongo *store, tide__connection *connection, const char *database,
                          bson_t *said) {
  bool able;
  if (tide__mongo_transactions(store, connection, database, &able, NULL) == TIDE_OK)
    BSON_APPEND_UTF8(said, "documents", able ? "with cursors" : "forward only");
  able = tide__mongo_change_streams(store, connection, database);
  BSON_APPEND_UTF8(said, "news", able ? "change stream" : "polling");
}

static int mongo_describe(tide_store *base, const char *name, tide_bytes *bson, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant = NULL;
  tide__connection *connection = NULL;
  char place[512];
  const char *prefix = store->uri.prefix;
  int code = tide__mongo_own(store, error);
  if (code == TIDE_OK)
    code = name == NULL ? tide__mongo_pop(store, &connection, error)
                        : tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  (void)snprintf(place, sizeof place, "%.400s%s%s", store->uri.place,
                 prefix[0] == '\0' ? "" : "/?tidelogPrefix=", prefix);
  bson_t *said =
      BCON_NEW("store", BCON_UTF8(store->base.ops->scheme), "place", BCON_UTF8(place), "server",
               BCON_UTF8(store->server), "proposals", BCON_INT64(atomic_load(&store->proposals)),
               "reproposals", BCON_INT64(atomic_load(&store->reproposals)));
  if (tenant != NULL) BSON_APPEND_UTF8(said, "database", tenant->database);
  describe_mode(store, connection, tenant == NULL ? ANY_DATABASE : tenant->database, said);
  code = copy_out(said, bson, error);
  bson_destroy(said);
  tide__mongo_leave(base, tenant, connection);
  return code;
}

/* ---- Opening and closing -------------------------------------------------------- */

static void mongo_close(tide_store *base) {
  tide__mongo *store = (tide__mongo *)base;
  if (store->owner == getpid()) {
    for (tide__mongo_tenant *tenant = store->tenants, *next; tenant != NULL; tenant = next) {
      next = tenant->next;
      free_tenant(tenant);
    }
    tide__mongo_close_pool(store);
    (void)pthread_cond_destroy(&store->returned); /* nobody waits */
    (void)pthread_mutex_destroy(&store->lock);
    tide__mongo_uri_free(&store->uri);
  } /* else: the connections are the parent's: to end them would say good-bye for it */
  free(store);
}

static const tide_store_ops mongo_ops = {
    .scheme = "mongodb",
    .close = mongo_close,
    .append = tide__mongo_append,
    .scan = tide__mongo_scan,
    .scan_next = tide__mongo_scan_next,
    .scan_close = tide__mongo_scan_close,
    .head = tide__mongo_head,
    .find_command = tide__mongo_find_command,
    .get_snapshot = tide__mongo_get_snapshot,
    .put_snapshot = tide__mongo_put_snapshot,
    .lease = tide__mongo_lease,
    .commit_cursors = tide__mongo_commit_cursors,
    .put_documents = tide__mongo_put_documents,
    .get_document = tide__mongo_get_document,
    .list_documents = tide__mongo_list_documents,
    .tenants = mongo_tenants,
    .check = tide__mongo_check,
    .wait = tide__mongo_wait,
    .import = tide__mongo_import,
    .list_threads = tide__mongo_list_threads,
    .get_thread = tide__mongo_get_thread,
    .put_thread = tide__mongo_put_thread,
    .describe = mongo_describe,
    .setup = tide__mongo_setup,
    .close_hole = tide__mongo_close_hole,
};

int tide__mongo_open(const char *uri, const tide_store_options *options, tide_store **store,
                     tide_error *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  uint64_t seed;
  *store = NULL;
  tide__mongo *opened = calloc(1, sizeof *opened);
  if (opened == NULL || pthread_once(&once, tide__mongo_start) != 0 ||
      pthread_mutex_init(&opened->lock, NULL) != 0) {
    free(opened);
    return tide__fail_memory(error);
  }
  if (pthread_cond_init(&opened->returned, NULL) != 0) {
    (void)pthread_mutex_destroy(&opened->lock);
    free(opened);
    return tide__fail_memory(error);
  }
  opened->base.ops = &mongo_ops;
  opened->owner = getpid();
  opened->patience = options != NULL && options->busy_timeout > 0 ? options->busy_timeout : 10000;
  opened->max_open = options != NULL && options->max_open > 0 ? (size_t)options->max_open : 64;
  int code = tide__random(&seed, error);
  if (code == TIDE_OK) code = tide__mongo_uri_read(uri, &opened->uri, error);
  if (code == TIDE_OK) {
    atomic_store(&opened->jitter, seed);
    code = tide__mongo_meet(opened, error);
  }
  if (code != TIDE_OK) {
    mongo_close(&opened->base);
    return code;
  }
  *store = &opened->base;
  return TIDE_OK;
}
