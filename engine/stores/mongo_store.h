/* mongo_store.h - private to stores/mongo*.c: a store on MongoDB, its tenants, and one
** command to the server.
**
**   mongo_uri.c        connection strings: what may stand in them, what never shows
**   mongo.c            the store: its tenants, what its database can
**   mongo_pool.c       connections, shared by the threads
**   mongo_command.c    one command: sending it, and what its answer means
**   mongo_setup.c      a tenant's database: its mark, its indexes, holes in its order
**   mongo_tail.c       the head of a tenant's log, and how it is followed
**   mongo_append.c     proposing a group of commits
**   mongo_scan.c       pulled reads of the log
**   mongo_documents.c  documents, snapshots
**   mongo_threads.c    leases, and cursors with documents
**   mongo_news.c       waiting for commits
**
** docs/mongodb.md has the protocol, and why it is right. */
#ifndef TIDE_STORES_MONGO_STORE_H
#define TIDE_STORES_MONGO_STORE_H

#include <mongoc/mongoc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "core/error.h"
#include "core/hash_map.h"
#include "core/names.h"
#include "stores/store.h"

/* Database names: a prefix, and a tenant with one mark for the names that MongoDB keeps
** for itself. MongoDB takes 63 bytes. */
#define TIDE__PREFIX_MAX   24 /* bytes */
#define TIDE__DATABASE_MAX (TIDE__PREFIX_MAX + 1 + TIDE_TENANT_MAX)
#define TIDE__COMMIT_ID    16 /* bytes: a commit's own name, the same in each proposal */

/* ---- Connection strings ------------------------------------------------------ */

typedef struct tide__mongo_uri {
  mongoc_uri_t *uri;
  char prefix[TIDE__PREFIX_MAX + 1];
  char *place;   /* the hosts, for messages */
  char *secret;  /* what must not show: the password, "" where there is none */
  char *written; /* the same as it is written in the string, %-escaped */
} tide__mongo_uri;

/* Reads "mongodb://…" or "mongodb+srv://…". TIDE_INVALID_ARGUMENT "uri" with a message
** that never shows what is between // and @. */
int tide__mongo_uri_read(const char *text, tide__mongo_uri *to, tide_error *error);
void tide__mongo_uri_free(tide__mongo_uri *uri); /* of all zero is harmless */

/* ---- The store ------------------------------------------------------------------ */

/* What a database can do; asked once, by doing it. */
typedef enum tide__ability { TIDE__UNKNOWN, TIDE__ABLE, TIDE__UNABLE } tide__ability;

typedef struct tide__mongo_tenant tide__mongo_tenant;

/* A client of libmongoc, for one thread at a time. */
typedef struct tide__connection {
  struct tide__mongo *store;
  mongoc_client_t *client;
  bool broken; /* to be replaced before it is used again */
  bool pinned; /* not now: something of its own is open */
} tide__connection;

typedef struct tide__mongo {
  tide_store base; /* first member */
  pid_t owner;
  tide__mongo_uri uri;
  bool versioned; /* the server knows versions of the API */
  int patience;   /* ms until an unresolved command is given up */
  size_t max_open;
  char server[96];                          /* "MongoDB 7.0.5, replica set rs0" */
  _Atomic int transactions, change_streams; /* tide__ability */
  _Atomic int64_t proposals, reproposals;   /* groups sent, and sent again behind another's */
  _Atomic uint64_t jitter;
  pthread_mutex_t lock; /* all that follows */
  tide__mongo_tenant *tenants;
  size_t open;
  int64_t uses;
  pthread_cond_t returned; /* a connection */
  tide__connection **idle;
  size_t idle_count, idle_room;
  int clients; /* idle and in use */
} tide__mongo;

/* A commit that is being proposed. */
typedef struct tide__proposal {
  tide_commit *commit;
  uint8_t id[TIDE__COMMIT_ID];
  /* Under the tenant's lock: who reads the tail may find it. */
  tide_outcome outcome; /* 0: not decided */
  int64_t position;     /* what it was decided by: itself, or the first with its command */
  int64_t time;
  uint8_t hash[TIDE_HASH_SIZE];
  /* Its writer's alone: */
  int64_t next;         /* the aggregate's next version as of some moment, -1 */
  bool sent;            /* in the group that was sent last                    */
  bool tried;           /* in one that was sent                               */
  bool mismatch;        /* its version is not the next one that is known      */
  bool overtaken;       /* it was tried, and the next one is a later one      */
  bool look_at_version; /* a key refused it: ask the database                 */
  bool look_at_command;
} tide__proposal;

/* What this process knows of a tenant. The head is always that of a prefix of the log
** that a majority has: it may lie behind, and is never wrong. */
struct tide__mongo_tenant {
  tide__mongo_tenant *next;
  int users;    /* under the store's lock */
  int64_t used; /* when last, in uses */
  char name[TIDE_TENANT_MAX + 1];
  char database[TIDE__DATABASE_MAX + 1];
  pthread_mutex_t appending; /* one group in flight; taken before `lock` */
  pthread_mutex_t lock;      /* all that follows; never held during a command */
  bool known;                /* its database has our mark */
  bool ready;                /* and its indexes */
  bool warm;                 /* the head was read once */
  int64_t forgotten;         /* how often all that was known was forgotten */
  tide_head head;
  int64_t last;              /* position of the last commit before the head, -1 */
  bool torn;                 /* and that is a tombstone */
  int64_t looked;            /* when the last commit was last seen to be there, ms */
  int64_t others;            /* when a commit of another process was last read, ms */
  int64_t turn;              /* when they were last let go first: until then, ms */
  tide__map known_next;      /* versions that come next, as of the head or later */
  tide__proposal *proposals; /* those in flight */
  size_t proposal_count;
};

int tide__mongo_own(const tide__mongo *store, tide_error *error); /* TIDE_STORE after fork() */

/* The tenant, counted as in use until it is given back. */
int tide__mongo_take(tide__mongo *store, const char *name, tide__mongo_tenant **tenant,
                     tide_error *error);
void tide__mongo_give(tide__mongo *store, tide__mongo_tenant *tenant); /* NULL is harmless */

/* Both, and a connection for this thread alone. */
int tide__mongo_enter(tide_store *store, const char *name, tide__mongo_tenant **tenant,
                      tide__connection **connection, tide_error *error);
void tide__mongo_leave(tide_store *store, tide__mongo_tenant *tenant, tide__connection *connection);

/* ---- Connections ---------------------------------------------------------------- */

void tide__mongo_start(void); /* once in a process */
/* Who is there: fills store->server and store->versioned. */
int tide__mongo_meet(tide__mongo *store, tide_error *error);
int tide__mongo_pop(tide__mongo *store, tide__connection **connection, tide_error *error);
/* What commands are sent by: a new client where the last one broke off. */
mongoc_client_t *tide__mongo_client(tide__connection *connection);
void tide__mongo_push(tide__mongo *store, tide__connection *connection); /* NULL is harmless */
void tide__mongo_close_pool(tide__mongo *store);                         /* all were pushed */

/* A random name, for a commit or for a request that may be sent again. */
int tide__mongo_new_name(uint8_t name[TIDE__COMMIT_ID], tide_error *error);

/* A number below `limit`; each caller gets another one. */
uint64_t tide__mongo_dice(tide__mongo *store, uint64_t limit);
void tide__mongo_sleep(int64_t ms);

/* Can the database write several documents at once? Tries it in the tenant's database. */
int tide__mongo_transactions(tide__mongo *store, tide__connection *connection, const char *database,
                             bool *able, tide_error *error);

/* Has it change streams, as far as is known after trying? */
bool tide__mongo_change_streams(tide__mongo *store, tide__connection *connection,
                                const char *database);

/* ---- One command ---------------------------------------------------------------- */

/* What an answer means. */
typedef enum tide__answer {
  TIDE__DONE,       /* done, and acknowledged by a majority                     */
  TIDE__DUPLICATE,  /* a unique key refused it                                  */
  TIDE__UNRESOLVED, /* it may have been done, or may yet be: ask, or send it again */
  TIDE__REFUSED     /* it was not done, and will not be                         */
} tide__answer;

typedef struct tide__reply {
  bson_t bson; /* always initialised after a command; tide__reply_free */
  bson_error_t error;
  tide__answer answer;
  int code;         /* the server's, or 0 */
  int64_t index;    /* of the document in its group that a key refused */
  char key[32];     /* the first field of that key: "_id", "type", … */
  bool on_command;  /* it was the key with the command id */
  bool transaction; /* the whole transaction may be tried again */
  bool commit;      /* the commit of the transaction may be tried again */
} tide__reply;

void tide__reply_free(tide__reply *reply);

/* A command as it is, without concerns. */
void tide__mongo_command(tide__connection *connection, const char *database, const bson_t *command,
                         tide__reply *reply);
/* Reads with majority concern from the primary. `level` NULL: majority. */
void tide__mongo_read(tide__connection *connection, const char *database, const bson_t *command,
                      const char *level, tide__reply *reply);
/* Writes with majority concern and journal; within `session` where it is not NULL. */
void tide__mongo_write(tide__connection *connection, const char *database, const bson_t *command,
                       mongoc_client_session_t *session, tide__reply *reply);
/* One ordered insertMany, one message. */
void tide__mongo_insert(tide__connection *connection, const char *database, const char *collection,
                        bson_t *const *documents, size_t count, tide__reply *reply);
/* Reads error labels, write errors and codes out of reply->bson and reply->error. */
void tide__reply_read(tide__reply *reply, bool succeeded);

/* How long an unresolved command is sent again. */
typedef struct tide__patience {
  tide__mongo *store;
  int64_t end;
  unsigned attempt;
} tide__patience;

tide__patience tide__patience_begin(tide__mongo *store);
/* Sleeps a while that grows and is never the same for two writers; false when time is up. */
bool tide__patience_again(tide__patience *patience);

/* tide__mongo_read and tide__mongo_write until resolved, refused, or out of patience; only
** for what may be done twice. TIDE_OK where it was done; else as tide__mongo_fail. */
int tide__mongo_ask(tide__mongo *store, tide__connection *connection, const char *database,
                    const bson_t *command, tide__reply *reply, tide_error *error);
int tide__mongo_do(tide__mongo *store, tide__connection *connection, const char *database,
                   const bson_t *command, tide__reply *reply, tide_error *error);

/* Fills the error for a reply that is not TIDE__DONE; `doing`: "reading the log". */
int tide__mongo_fail(tide__mongo *store, const char *doing, const tide__reply *reply,
                     tide_error *error);

/* ---- BSON that is read --------------------------------------------------------------- */

/* The first batch of a find, as an iterator over its documents. */
bool tide__batch(const tide__reply *reply, bson_iter_t *documents);

/* A document or binary, whose bytes live as long as what is iterated. */
bool tide__body_of(const bson_iter_t *field, const uint8_t **data, size_t *size);

/* May this BSON be embedded, so that people can query it? Else it is kept as a binary: some
** servers refuse or change fields without a name, or with a '$' in front or a '.' within. */
bool tide__is_plain(const uint8_t *data, size_t size);
void tide__append_body(bson_t *to, const char *key, const uint8_t *data, size_t size);

/* Names or paths that are listed, page by page. */
typedef struct tide__names {
  const char *prefix; /* those that begin so, or "" */
  size_t limit;
  size_t count;
  tide_bytes names; /* each ended by a NUL */
  size_t room;
  char last[TIDE_PATH_MAX + 1];
  bool ended;
} tide__names;

/* Adds the _id of each document of a page that has room for `page` of them. */
int tide__names_keep(tide__names *list, const tide__reply *reply, size_t page, tide_error *error);

/* ---- Transactions ------------------------------------------------------------------------ */

/* Begins one in a new session, to be destroyed, which aborts what is not committed. NULL: the
** reply says why. */
mongoc_client_session_t *tide__mongo_begin(tide__connection *connection, tide__reply *reply);
/* Commits, again while the outcome is unknown. reply->answer UNRESOLVED: run it once more. */
void tide__mongo_commit(tide__connection *connection, mongoc_client_session_t *session,
                        tide__patience *patience, tide__reply *reply);

/* ---- A tenant's database ---------------------------------------------------------------- */

/* TIDE_OK and tenant->known where the database has our mark. */
int tide__mongo_know(tide__mongo *store, tide__connection *connection, tide__mongo_tenant *tenant,
                     tide_error *error);
/* Makes the collections and indexes, then the mark; any number of processes at once. */
int tide__mongo_make(tide__mongo *store, tide__connection *connection, tide__mongo_tenant *tenant,
                     tide_error *error);
bool tide__mongo_is_known(tide__mongo_tenant *tenant);

/* ---- The tail of the log ------------------------------------------------------------------ */

/* Moves the head behind what was committed meanwhile, and tells the proposals in flight
** which of them are in. *news: something was there. */
int tide__mongo_catch_up(tide__mongo *store, tide__connection *connection,
                         tide__mongo_tenant *tenant, bool *news, tide_error *error);
int tide__mongo_fail_hole(tide__mongo_tenant *tenant, int64_t expected, int64_t found,
                          tide_error *error);
/* Is the last commit that we know of still there? TIDE_STORE, transient, where it is not:
** the database was dropped or put back to an older state, and all that was known is forgotten. */
int tide__mongo_look(tide__mongo *store, tide__connection *connection, tide__mongo_tenant *tenant,
                     tide_error *error);
int tide__mongo_fail_other_log(const tide__mongo_tenant *tenant, tide_error *error);
/* The aggregate's next version: what is known, -1 where nothing is. Under tenant->lock. */
int64_t tide__mongo_known_next(const tide__mongo_tenant *tenant, const char *type, const char *id);
/* Asks the database for it, and knows it then. */
int tide__mongo_find_next(tide__mongo *store, tide__connection *connection,
                          tide__mongo_tenant *tenant, const char *type, const char *id,
                          int64_t *next, tide_error *error);
/* Decides a proposal that is open, by what was found (NULL: nothing). Under tenant->lock. */
void tide__mongo_settle(tide__proposal *proposal, tide_outcome outcome, const tide_commit *found);
/* Moves the head behind a commit that begins at it. Under tenant->lock. */
void tide__mongo_apply(tide__mongo_tenant *tenant, const tide_commit *commit);

/* A commit out of a document of `events`; with `body` false it has none. `id` (may be NULL):
** the commit's own name. TIDE_STORE where it is no commit of ours. */
int tide__mongo_parse(const bson_iter_t *document, bool body, tide_commit *commit,
                      const uint8_t **id, tide_error *error);
/* The document of a commit. */
void tide__mongo_document(const tide_commit *commit, const uint8_t id[TIDE__COMMIT_ID], bson_t *to);
int tide__mongo_commit_of(tide__mongo *store, tide__connection *connection,
                          tide__mongo_tenant *tenant, const char *type, const char *id,
                          const char *command_id, int64_t *position, int64_t *version,
                          tide_error *error);

/* ---- What the vtable consists of ------------------------------------------------------------ */

int tide__mongo_append(tide_store *store, const char *tenant, tide_commit *commits, size_t count,
                       tide_outcome *outcomes, tide_error *error);
int tide__mongo_import(tide_store *store, const char *tenant, const tide_commit *commits,
                       size_t count, tide_error *error);
int tide__mongo_scan(tide_store *store, const char *tenant, const tide_query *query,
                     tide_scan **scan, tide_error *error);
int tide__mongo_scan_next(tide_scan *scan, const tide_commit **commit, tide_error *error);
void tide__mongo_scan_close(tide_scan *scan);
int tide__mongo_head(tide_store *store, const char *tenant, tide_head *head, tide_error *error);
int tide__mongo_find_command(tide_store *store, const char *tenant, const char *type,
                             const char *id, const char *command_id, int64_t *position,
                             int64_t *version, tide_error *error);
int tide__mongo_get_snapshot(tide_store *store, const char *tenant, const char *type,
                             const char *id, tide_snapshot *snapshot, tide_error *error);
int tide__mongo_put_snapshot(tide_store *store, const char *tenant, const char *type,
                             const char *id, const tide_snapshot *snapshot, tide_error *error);
int tide__mongo_lease(tide_store *store, const char *tenant, const char *thread, const char *owner,
                      int64_t duration, tide_lease *lease, tide_error *error);
int tide__mongo_commit_cursors(tide_store *store, const char *tenant, const char *thread,
                               const char *owner, int64_t token, const tide_bytes *cursors,
                               const tide_document *documents, size_t count, bool release,
                               tide_error *error);
int tide__mongo_list_threads(tide_store *store, const char *tenant, const char *after, size_t limit,
                             tide_bytes *names, size_t *count, tide_error *error);
int tide__mongo_get_thread(tide_store *store, const char *tenant, const char *name,
                           tide_thread *thread, tide_error *error);
int tide__mongo_put_thread(tide_store *store, const char *tenant, const char *name, int64_t token,
                           const tide_bytes *cursors, tide_error *error);
int tide__mongo_put_documents(tide_store *store, const char *tenant, const tide_document *documents,
                              size_t count, tide_error *error);
int tide__mongo_get_document(tide_store *store, const char *tenant, const char *path,
                             const char *writer, tide_bytes *body, int64_t *reflects,
                             tide_error *error);
int tide__mongo_list_documents(tide_store *store, const char *tenant, const char *prefix,
                               const char *after, size_t limit, tide_bytes *paths, size_t *count,
                               tide_error *error);
int tide__mongo_wait(tide_store *store, const char *tenant, int64_t position, int64_t timeout,
                     int64_t *head, tide_error *error);
int tide__mongo_setup(tide_store *store, const char *tenant, tide_error *error);
int tide__mongo_close_hole(tide_store *store, const char *tenant, int64_t position,
                           const char *actor, const char *reason, int64_t *events,
                           tide_error *error);
int tide__mongo_check(tide_store *store, const char *tenant, tide_error *error);

/* Documents inside a transaction (session) or, without one, forward only. */
int tide__mongo_write_documents(tide__mongo *store, tide__connection *connection,
                                const char *database, mongoc_client_session_t *session,
                                const tide_document *documents, size_t count, tide__reply *reply,
                                tide_error *error);

#endif
