/* store.h - what every database does for the engine: one small vtable, and one
** contract suite (tests/contract) that every store passes.
**
** Rules for all functions
**   - They return TIDE_OK or a tide_code and fill `error` (which may be NULL).
**     A function that fails has changed nothing, unless its comment says so.
**   - Any thread may call them; a store locks what it must. A tide_scan or
**     tide_result belongs to one thread at a time.
**   - Tenants are checked by the caller (tide__store_* in store.c does it), so a
**     store may take `tenant` as valid.
**   - A tenant comes into being with its first write. Reading one that does not
**     exist finds nothing and creates nothing.
**   - Reads are pulled: no callback, so that a Lua error never crosses a
**     database call. Nothing stays locked in the database between two calls.
**   - After fork() a child must open its own store; the parent's handle answers
**     TIDE_STORE there. Do not fork while another thread is inside a store's function.
*/
#ifndef TIDE_STORES_STORE_H
#define TIDE_STORES_STORE_H

#include <stdbool.h>

#include "core/commit.h"
#include "core/names.h"

#define TIDE_CODE_SIZE 16                /* bytes of a hash of domain code */
#define TIDE_LEASE_MAX INT64_C(86400000) /* ms: a day                      */
#define TIDE_WAIT_MAX  INT64_C(86400000) /* ms: a day                      */
#define TIDE_TOKEN_MAX (INT64_MAX / 2)   /* of a thread that is put: leaves room to count on */

typedef struct tide_store tide_store;
typedef struct tide_scan tide_scan;

/* Bytes that a store hands out: free with tide__bytes_free. */
typedef struct tide_bytes {
  uint8_t *data; /* NULL: nothing there */
  size_t size;
} tide_bytes;

void tide__bytes_free(tide_bytes *bytes); /* twice is harmless */

typedef struct tide_store_options {
  int busy_timeout; /* ms to wait for another writer; 0: the default, 10,000 */
  int max_open;     /* tenants kept open at once; 0: the default, 64         */
} tide_store_options;

/* What became of one commit of a group. */
typedef enum tide_outcome {
  TIDE_APPENDED = 1, /* durable; position, time and hash are set              */
  TIDE_CONFLICT = 2, /* its version is not the aggregate's next one: nothing
                        of this commit was written                            */
  TIDE_DUPLICATE = 3 /* its command_id is already in that aggregate's history:
                        `position` is the first one's, nothing was written    */
} tide_outcome;

/* Which commits to read. Zero means: the whole tenant, forwards. */
typedef struct tide_query {
  const char *type; /* both NULL: all commits of the tenant, else those of    */
  const char *id;   /* one aggregate                                          */
  int64_t from;     /* forwards: the first version (of an aggregate) or position
                       (of a tenant) that is wanted; backwards: the last one.
                       A commit that holds it is included whole.              */
  bool backwards;
  int64_t limit; /* commits at most; 0: no limit                           */
} tide_query;

typedef struct tide_snapshot {
  int64_t version;              /* of the last event in it                    */
  uint8_t code[TIDE_CODE_SIZE]; /* of the domain code that made it            */
  tide_bytes state;             /* BSON                                       */
} tide_snapshot;

/* A thread's lease. The token grows by one at each acquisition, for ever. */
typedef struct tide_lease {
  int64_t token;
  int64_t until;      /* ms since 1970 by the store's clock                   */
  bool held;          /* false: another owner has it, until `until`           */
  bool apart;         /* documents and cursors are not committed together (the
                         database has no transactions): a document may reflect
                         more than the cursors say; get_document tells how much */
  tide_bytes cursors; /* BSON document of the thread's cursors, empty at first
                         ({}), as last committed; only when held              */
} tide_lease;

/* A thread as it stands. */
typedef struct tide_thread {
  int64_t token;                 /* of the last lease; 0: it never had one    */
  int64_t until;                 /* ms since 1970; 0: nobody holds the lease  */
  char owner[TIDE_NAME_MAX + 1]; /* "": nobody                                */
  tide_bytes cursors;            /* BSON, as last committed                   */
} tide_thread;

/* A document to write (body) or to delete (body NULL). A group may hold a path several
** times, each with another writer: the last body stays, all marks count. */
typedef struct tide_document {
  const char *path;
  const uint8_t *body; /* BSON */
  size_t size;
  const char *writer; /* NULL, or who writes it under a lease: "THREAD/HANDLER", at most
                         TIDE_WRITER_MAX bytes */
  int64_t position;   /* with a writer: behind the last event of the writer's that the
                         document reflects */
} tide_document;

typedef struct tide_store_ops {
  const char *scheme; /* "sqlite", "memory" */

  void (*close)(tide_store *store); /* frees the store; no scan may be open */

  /* Appends a group of commits, in order, in one durable write. On TIDE_OK each
  ** outcomes[i] is set, and what is TIDE_APPENDED is durable; a commit that is a
  ** conflict or a duplicate does not stop the others. Two commits of a group may
  ** follow each other on one aggregate. `version` must be the aggregate's next
  ** version exactly: a lower and a higher one are both TIDE_CONFLICT. A command id
  ** is looked up before the version. On any other code nothing of the group was
  ** acknowledged; error->transient tells whether to try again. */
  int (*append)(tide_store *store, const char *tenant, tide_commit *commits, size_t count,
                tide_outcome *outcomes, tide_error *error);

  /* Opens a pulled read. The query's strings are copied. */
  int (*scan)(tide_store *store, const char *tenant, const tide_query *query, tide_scan **scan,
              tide_error *error);
  /* The next commit, valid until the next call on this scan; NULL at the end. A
  ** forward scan that has reached the end may be asked again: it then goes on with
  ** what was appended since. A backward one that has ended, and one that has given
  ** its limit, stay ended. */
  int (*scan_next)(tide_scan *scan, const tide_commit **commit, tide_error *error);
  void (*scan_close)(tide_scan *scan); /* NULL is harmless */

  int (*head)(tide_store *store, const char *tenant, tide_head *head, tide_error *error);

  /* Waits until the log has more than `position` events, at most `timeout` ms (0: only
  ** looks). *head: how many it has. News may be late, never lost: who is not woken sees
  ** it at the next look. */
  int (*wait)(tide_store *store, const char *tenant, int64_t position, int64_t timeout,
              int64_t *head, tide_error *error);

  /* Appends commits of another store as they are, with their positions, times and hashes,
  ** in one durable write. The first must follow the head in position and hash (behind a
  ** tombstone in position alone), each aggregate's versions must go on without a gap: else
  ** TIDE_CONCURRENCY (the head is elsewhere: another writer, or another history) or
  ** TIDE_STORE (what was given does not follow itself), and nothing is written. */
  int (*import)(tide_store *store, const char *tenant, const tide_commit *commits, size_t count,
                tide_error *error);

  /* The position and version of the first event of the commit with this command id
  ** on this aggregate; *position = -1 if there is none. Only ids that were given as
  ** commit.command_id are found. */
  int (*find_command)(tide_store *store, const char *tenant, const char *type, const char *id,
                      const char *command_id, int64_t *position, int64_t *version,
                      tide_error *error);

  /* The aggregate's snapshot, or state.data == NULL. */
  int (*get_snapshot)(tide_store *store, const char *tenant, const char *type, const char *id,
                      tide_snapshot *snapshot, tide_error *error);
  /* Keeps it where there is none, an older one, or one by other code. It is only
  ** a cache: need not be durable, and one for an aggregate without events, or for a
  ** version that the aggregate has not reached, is refused (TIDE_INVALID_ARGUMENT,
  ** argument "version"). */
  int (*put_snapshot)(tide_store *store, const char *tenant, const char *type, const char *id,
                      const tide_snapshot *snapshot, tide_error *error);

  /* Takes the thread's lease for `duration` ms (at most TIDE_LEASE_MAX) unless
  ** tide__lease_of_another. Where it is `owner`'s own already it is a new lease with the
  ** next token, too, and the old token is refused. Durable before it returns. */
  int (*lease)(tide_store *store, const char *tenant, const char *thread, const char *owner,
               int64_t duration, tide_lease *lease, tide_error *error);
  /* In one transaction: if `token` is still the thread's current one, its owner is
  ** `owner`, and the lease has not expired: replaces the thread's cursors (NULL: leaves
  ** them), writes the documents and, where `release`, gives the lease up. Otherwise
  ** TIDE_CONCURRENCY, and nothing is changed. */
  int (*commit_cursors)(tide_store *store, const char *tenant, const char *thread,
                        const char *owner, int64_t token, const tide_bytes *cursors,
                        const tide_document *documents, size_t count, bool release,
                        tide_error *error);

  /* As list_documents: names of the tenant's threads that sort after `after`. */
  int (*list_threads)(tide_store *store, const char *tenant, const char *after, size_t limit,
                      tide_bytes *names, size_t *count, tide_error *error);
  /* A thread as it stands; one that is not there has token 0 and cursors {}. A lease that
  ** has expired is nobody's. Free thread->cursors. */
  int (*get_thread)(tide_store *store, const char *tenant, const char *name, tide_thread *thread,
                    tide_error *error);
  /* For copying: replaces the thread's cursors and moves its token up to `token`, never
  ** down. TIDE_CONCURRENCY where somebody holds its lease. */
  int (*put_thread)(tide_store *store, const char *tenant, const char *name, int64_t token,
                    const tide_bytes *cursors, tide_error *error);

  /* Writes documents without a lease, all or none, in order: the last one of a path
  ** stays. */
  int (*put_documents)(tide_store *store, const char *tenant, const tide_document *documents,
                       size_t count, tide_error *error);
  /* *reflects: where documents and cursors are apart, the position behind the last event
  ** of `writer` that the document reflects (also where it was deleted), else 0. writer may
  ** be NULL. */
  int (*get_document)(tide_store *store, const char *tenant, const char *path, const char *writer,
                      tide_bytes *body, int64_t *reflects, tide_error *error);
  /* Up to `limit` paths that begin with `prefix` and sort (bytewise) after `after`
  ** ("" or NULL: from the start), in order, each ended by a NUL, one after the other
  ** in `paths`; *count says how many. */
  int (*list_documents)(tide_store *store, const char *tenant, const char *prefix,
                        const char *after, size_t limit, tide_bytes *paths, size_t *count,
                        tide_error *error);

  /* The names of the tenants, sorted, each ended by a NUL. */
  int (*tenants)(tide_store *store, tide_bytes *names, size_t *count, tide_error *error);

  /* The database's own check of a tenant. TIDE_OK: sound; TIDE_STORE: the message has
  ** the first problem. tide__store_check adds the log's own rules. */
  int (*check)(tide_store *store, const char *tenant, tide_error *error);

  /* What a person wants to know of the store, and (tenant not NULL) of the tenant in it, as
  ** BSON: `store` (scheme), `place` (folder or hosts, never credentials), `server` (name and
  ** version of the database), `documents` ("with cursors": one transaction; "forward only":
  ** apart), `news` ("change stream", "polling"), and whatever else the store has to say. */
  int (*describe)(tide_store *store, const char *tenant, tide_bytes *bson, tide_error *error);

  /* What follows is NULL where there is nothing to do. */

  /* Makes what a tenant needs before its first write (indexes). */
  int (*setup)(tide_store *store, const char *tenant, tide_error *error);
  /* Closes a hole in the order by a tombstone, a commit of the type TIDE_TOMBSTONE that takes
  ** the positions from `position` to the next commit's. *events: how many. */
  int (*close_hole)(tide_store *store, const char *tenant, int64_t position, const char *actor,
                    const char *reason, int64_t *events, tide_error *error);
} tide_store_ops;

struct tide_store {
  const tide_store_ops *ops;
};

/* First member of every store's scan. */
struct tide_scan {
  tide_store *store;
};

/* ---- store.c: what callers use ------------------------------------------ */

/* Opens by URI: "memory:", "sqlite:FOLDER" (the folder is made where its parent exists), or
** "mongodb://…" and "mongodb+srv://…" (docs/mongodb.md; the server must be there).
** TIDE_INVALID_ARGUMENT "uri" for any other; TIDE_STORE where the folder or the server
** cannot be used. options may be NULL. */
int tide__store_open(const char *uri, const tide_store_options *options, tide_store **store,
                     tide_error *error);
void tide__store_close(tide_store *store); /* NULL is harmless */

/* They check every argument (NULLs, names, sizes, BSON at the top level), then call
** the store. tide__store_append refuses the types that are the engine's own
** (TIDE_INVALID_ARGUMENT "aggregateType"), which an import may carry. */
int tide__store_append(tide_store *store, const char *tenant, tide_commit *commits, size_t count,
                       tide_outcome *outcomes, tide_error *error);
int tide__store_scan(tide_store *store, const char *tenant, const tide_query *query,
                     tide_scan **scan, tide_error *error);
int tide__scan_next(tide_scan *scan, const tide_commit **commit, tide_error *error);
void tide__scan_close(tide_scan *scan);
int tide__store_head(tide_store *store, const char *tenant, tide_head *head, tide_error *error);
int tide__store_wait(tide_store *store, const char *tenant, int64_t position, int64_t timeout,
                     int64_t *head, tide_error *error);
int tide__store_import(tide_store *store, const char *tenant, const tide_commit *commits,
                       size_t count, tide_error *error);
int tide__store_find_command(tide_store *store, const char *tenant, const char *type,
                             const char *id, const char *command_id, int64_t *position,
                             int64_t *version, tide_error *error);
int tide__store_get_snapshot(tide_store *store, const char *tenant, const char *type,
                             const char *id, tide_snapshot *snapshot, tide_error *error);
int tide__store_put_snapshot(tide_store *store, const char *tenant, const char *type,
                             const char *id, const tide_snapshot *snapshot, tide_error *error);
int tide__store_lease(tide_store *store, const char *tenant, const char *thread, const char *owner,
                      int64_t duration, tide_lease *lease, tide_error *error);
int tide__store_commit_cursors(tide_store *store, const char *tenant, const char *thread,
                               const char *owner, int64_t token, const tide_bytes *cursors,
                               const tide_document *documents, size_t count, bool release,
                               tide_error *error);
int tide__store_list_threads(tide_store *store, const char *tenant, const char *after, size_t limit,
                             tide_bytes *names, size_t *count, tide_error *error);
int tide__store_get_thread(tide_store *store, const char *tenant, const char *name,
                           tide_thread *thread, tide_error *error);
int tide__store_put_thread(tide_store *store, const char *tenant, const char *name, int64_t token,
                           const tide_bytes *cursors, tide_error *error);
int tide__store_put_documents(tide_store *store, const char *tenant, const tide_document *documents,
                              size_t count, tide_error *error);
/* `reflects` may be NULL. */
int tide__store_get_document(tide_store *store, const char *tenant, const char *path,
                             const char *writer, tide_bytes *body, int64_t *reflects,
                             tide_error *error);
int tide__store_list_documents(tide_store *store, const char *tenant, const char *prefix,
                               const char *after, size_t limit, tide_bytes *paths, size_t *count,
                               tide_error *error);
int tide__store_tenants(tide_store *store, tide_bytes *names, size_t *count, tide_error *error);
int tide__store_describe(tide_store *store, const char *tenant, tide_bytes *bson,
                         tide_error *error);
/* TIDE_NOT_IMPLEMENTED ("setup", "closeHole") where the store has no need of them. */
int tide__store_setup(tide_store *store, const char *tenant, tide_error *error);
int tide__store_close_hole(tide_store *store, const char *tenant, int64_t position,
                           const char *actor, const char *reason, int64_t *events,
                           tide_error *error);

/* The database's own check, then the log's rules over every commit: positions and
** each aggregate's versions without a gap, times in order, bodies that are valid BSON,
** the chain of hashes, which begins anew behind a tombstone. *commits and *events count what was
*read. TIDE_STORE with the
** first problem. */
int tide__store_check(tide_store *store, const char *tenant, int64_t *commits, int64_t *events,
                      tide_error *error);

/* For the stores: has somebody else than `owner` the lease that ends at `until`? One that
** ends later than any lease can was made by a clock that was wrong, and has ended. `holder`
** is NULL or "" where nobody has it. */
bool tide__lease_of_another(const char *holder, int64_t until, const char *owner, int64_t now);

/* For the stores: TIDE_CONCURRENCY unless the first commit of an import follows the head.
** `torn`: the log's last commit is a tombstone. That the others follow each other, the
** caller of `import` has checked. */
int tide__import_follows(const tide_commit *first, const tide_head *head, bool torn,
                         tide_error *error);
/* For the stores: TIDE_STORE for an imported commit that is not its aggregate's next one. */
int tide__fail_import(const tide_commit *commit, int64_t next, tide_error *error);

/* For the stores that are not told of news: `wait` by asking for the head, after 1 ms at
** first and every 50 ms later. */
int tide__wait_by_polling(tide_store *store, const char *tenant, int64_t position, int64_t timeout,
                          int64_t *head, tide_error *error);

/* For the stores: the BSON of `describe` from `count` pairs of key and text. */
int tide__describe(const char *const pairs[][2], size_t count, tide_bytes *bson, tide_error *error);

/* For the stores: TIDE_CONCURRENCY for a thread that cannot be put since its lease is held. */
int tide__fail_held(const char *thread, const char *owner, int64_t until, tide_error *error);

/* For the stores: TIDE_CONCURRENCY for a lease that is not held; `current` is the token
** that the thread is at, 0 if it never had one. */
int tide__fail_lease(const char *thread, int64_t token, int64_t current, tide_error *error);

/* ---- the stores ---------------------------------------------------------- */

int tide__memory_open(const tide_store_options *options, tide_store **store, tide_error *error);
int tide__sqlite_open(const char *folder, const tide_store_options *options, tide_store **store,
                      tide_error *error);
int tide__mongo_open(const char *uri, const tide_store_options *options, tide_store **store,
                     tide_error *error);

#endif
