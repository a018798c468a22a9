/* sqlite_tenant.h - private to stores/sqlite*.c: a tenant's database file, its
** connection, and the statements on it.
**
**   sqlite.c        the store: its folder, and which tenants are open
**   sqlite_db.c     one connection: opening, migrating, statements, errors
**   sqlite_log.c    commits: append, scan, head
**   sqlite_state.c  snapshots, leases, cursors, documents
*/
#ifndef TIDE_STORES_SQLITE_TENANT_H
#define TIDE_STORES_SQLITE_TENANT_H

#include <sqlite3.h>
#include <stdbool.h>
#include <sys/types.h>

#include "core/error.h"
#include "stores/store.h"

#define TIDE__SQLITE_APPLICATION 0x54494445 /* "TIDE" */

/* ---- The schema ------------------------------------------------------------- */

/* The steps that make a store of schema version `count`: the SQL in steps[i] leads
** from version i to i + 1. A step that has been released is never changed. */
typedef struct tide__schema {
  const char *const *steps;
  int count;
} tide__schema;

extern const tide__schema tide__sqlite_schema;

/* As tide__sqlite_open, with another schema: for tests of migration. */
int tide__sqlite_open_schema(const char *folder, const tide_store_options *options,
                             const tide__schema *schema, tide_store **store, tide_error *error);

/* ---- A connection: one thread at a time ------------------------------------- */

typedef enum tide__sql {
  TIDE__BEGIN,
  TIDE__COMMIT,
  TIDE__ROLLBACK,
  TIDE__HEAD,
  TIDE__FIND_STREAM,
  TIDE__ADD_STREAM,
  TIDE__FIND_COMMAND,
  TIDE__LAST_OF_STREAM,
  TIDE__ADD_COMMIT,
  TIDE__BEFORE,
  TIDE__BEFORE_OF_STREAM,
  TIDE__SCAN,
  TIDE__SCAN_BACK,
  TIDE__SCAN_STREAM,
  TIDE__SCAN_STREAM_BACK,
  TIDE__GET_SNAPSHOT,
  TIDE__PUT_SNAPSHOT,
  TIDE__GET_THREAD,
  TIDE__PUT_THREAD,
  TIDE__LIST_THREADS,
  TIDE__GET_DOCUMENT,
  TIDE__PUT_DOCUMENT,
  TIDE__DELETE_DOCUMENT,
  TIDE__LIST_FROM,
  TIDE__LIST_AFTER,
  TIDE__SQL_COUNT
} tide__sql;

typedef struct tide__db {
  sqlite3 *sqlite;
  sqlite3_stmt *statements[TIDE__SQL_COUNT]; /* prepared when first used */
  dev_t device;                              /* which file is open, and which log beside it: */
  ino_t file, wal;                           /* the names may come to mean others            */
  bool broken;                               /* to be closed, not used again */
  int busy_timeout;                          /* ms */
  int64_t busy_since, busy_for;              /* ms, of the last wait for another connection */
  uint64_t jitter;
  char *wal_path; /* behind path */
  char path[];    /* absolute */
} tide__db;

/* Opens or creates the file. `create` false: *db is NULL where there is none (or an
** empty one) and nothing is made. */
int tide__db_open(const char *path, const tide__schema *schema, int busy_timeout, bool create,
                  tide__db **db, tide_error *error);
void tide__db_close(tide__db *db); /* NULL is harmless */
/* In a forked child: as close, but touches neither the files nor the parent's locks. */
void tide__db_abandon(tide__db *db);

/* TIDE_STORE if the path no longer means the file that is open; `writing`: looks at
** the write-ahead log too. Marks the connection broken. */
int tide__db_in_place(tide__db *db, bool writing, tide_error *error);

/* BEGIN IMMEDIATE: only one connection of all processes is behind it at a time. */
int tide__db_begin(tide__db *db, tide_error *error);
/* Durable when it returns TIDE_OK, else rolled back, or, if an input or output failed,
** unknown: then the message says so with `what` ("the commits were"). */
int tide__db_commit(tide__db *db, const char *what, tide_error *error);
void tide__db_rollback(tide__db *db);
/* Outside a transaction: does each commit wait for the disk (as at first) or not? */
int tide__db_flush_commits(tide__db *db, bool flush, tide_error *error);

/* A value to bind. */
typedef struct tide__value {
  enum { TIDE__NULL, TIDE__INTEGER, TIDE__TEXT, TIDE__BLOB } kind;
  int64_t integer;
  const void *data;
  size_t size;
} tide__value;

tide__value tide__integer(int64_t integer);
tide__value tide__text(const char *text); /* NULL binds NULL */
tide__value tide__blob(const void *data, size_t size);

/* Prepares and binds; the values must live until tide__db_end. */
int tide__db_start(tide__db *db, tide__sql sql, const tide__value *values, int count,
                   sqlite3_stmt **statement, tide_error *error);
int tide__db_step(tide__db *db, sqlite3_stmt *statement, bool *row, tide_error *error);
void tide__db_end(sqlite3_stmt *statement); /* NULL is harmless */
/* The three for a statement that gives no row. */
int tide__db_run(tide__db *db, tide__sql sql, const tide__value *values, int count,
                 tide_error *error);

/* Fills the error for a result code of SQLite; `doing` is "read" or "written". */
int tide__db_fail(tide__db *db, int result, const char *doing, tide_error *error);
int tide__db_damaged(tide__db *db, tide_error *error, const char *format, ...) TIDE__PRINTF(3, 4);

/* ---- Checksums: a row that is read is what was written ---------------------- */

/* The CRC-32 of values, in their order, as a value to bind. It finds what a disk or a
** cable does; what a person does, the chain of hashes finds. */
tide__value tide__sum(const tide__value *values, int count);

/* Is column `count` the sum of the columns before it? */
int tide__row_sum(sqlite3_stmt *statement, int count, bool *good, tide_error *error);
/* The same, TIDE_STORE "is damaged" where it is not; `what`: "commit", "document". */
int tide__row_check(tide__db *db, sqlite3_stmt *statement, int count, const char *what,
                    tide_error *error);

/* ---- Columns of a row, which a damaged file may fill with anything ---------- */

/* TIDE_STORE "is damaged" if it is no integer from `least` to `most`. */
int tide__column_integer(tide__db *db, sqlite3_stmt *statement, int column, int64_t least,
                         int64_t most, int64_t *value, tide_error *error);
/* A text without a NUL of 1 to `most` bytes, or (`optional`) NULL; valid until the
** next step. */
int tide__column_text(tide__db *db, sqlite3_stmt *statement, int column, size_t most, bool optional,
                      const char **text, tide_error *error);
/* A blob of `least` to `most` bytes; valid until the next step. */
int tide__column_blob(tide__db *db, sqlite3_stmt *statement, int column, size_t least, size_t most,
                      const void **data, size_t *size, tide_error *error);
/* A copy of a blob that has the size of a BSON document. */
int tide__column_bson(tide__db *db, sqlite3_stmt *statement, int column, tide_bytes *bytes,
                      tide_error *error);

/* ---- The tenants of a store ------------------------------------------------- */

/* The tenant's connection, for this thread alone until tide__tenant_give. NULL where
** the tenant does not exist and `create` is false. */
typedef struct tide__tenant tide__tenant;
int tide__tenant_take(tide_store *store, const char *name, bool create, tide__tenant **tenant,
                      tide__db **db, tide_error *error);
void tide__tenant_give(tide_store *store, tide__tenant *tenant); /* NULL is harmless */

/* TIDE_STORE in a forked child. */
int tide__sqlite_own(const tide_store *store, tide_error *error);

/* The aggregate's key, -1 where it is unknown, and its next version. */
int tide__sqlite_aggregate(tide__db *db, const char *type, const char *id, int64_t *stream,
                           int64_t *next, tide_error *error);

/* ---- What the vtable consists of -------------------------------------------- */

int tide__sqlite_append(tide_store *store, const char *tenant, tide_commit *commits, size_t count,
                        tide_outcome *outcomes, tide_error *error);
int tide__sqlite_scan(tide_store *store, const char *tenant, const tide_query *query,
                      tide_scan **scan, tide_error *error);
int tide__sqlite_scan_next(tide_scan *scan, const tide_commit **commit, tide_error *error);
void tide__sqlite_scan_close(tide_scan *scan);
int tide__sqlite_import(tide_store *store, const char *tenant, const tide_commit *commits,
                        size_t count, tide_error *error);
int tide__sqlite_head(tide_store *store, const char *tenant, tide_head *head, tide_error *error);
int tide__sqlite_find_command(tide_store *store, const char *tenant, const char *type,
                              const char *id, const char *command_id, int64_t *position,
                              int64_t *version, tide_error *error);
int tide__sqlite_get_snapshot(tide_store *store, const char *tenant, const char *type,
                              const char *id, tide_snapshot *snapshot, tide_error *error);
int tide__sqlite_put_snapshot(tide_store *store, const char *tenant, const char *type,
                              const char *id, const tide_snapshot *snapshot, tide_error *error);
int tide__sqlite_lease(tide_store *store, const char *tenant, const char *thread, const char *owner,
                       int64_t duration, tide_lease *lease, tide_error *error);
int tide__sqlite_commit_cursors(tide_store *store, const char *tenant, const char *thread,
                                const char *owner, int64_t token, const tide_bytes *cursors,
                                const tide_document *documents, size_t count, bool release,
                                tide_error *error);
int tide__sqlite_list_threads(tide_store *store, const char *tenant, const char *after,
                              size_t limit, tide_bytes *names, size_t *count, tide_error *error);
int tide__sqlite_get_thread(tide_store *store, const char *tenant, const char *name,
                            tide_thread *thread, tide_error *error);
int tide__sqlite_put_thread(tide_store *store, const char *tenant, const char *name, int64_t token,
                            const tide_bytes *cursors, tide_error *error);
int tide__sqlite_put_documents(tide_store *store, const char *tenant,
                               const tide_document *documents, size_t count, tide_error *error);
int tide__sqlite_get_document(tide_store *store, const char *tenant, const char *path,
                              const char *writer, tide_bytes *body, int64_t *reflects,
                              tide_error *error);
int tide__sqlite_list_documents(tide_store *store, const char *tenant, const char *prefix,
                                const char *after, size_t limit, tide_bytes *paths, size_t *count,
                                tide_error *error);

#endif
