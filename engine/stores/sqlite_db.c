/* sqlite_db.c - one connection to a tenant's file: opening and migrating it, its
** statements and transactions, and what SQLite's errors mean to the caller. */
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "core/clock.h"
#include "stores/sqlite_tenant.h"

#define HEADER_SIZE 100 /* bytes; https://sqlite.org/fileformat2.html#the_database_header */

/* Step 1. Streams have small integer keys, so that a commit touches few pages; a body
** comes last in its row, so that the other columns are read without its pages. */
static const char *const steps[] = {
    "CREATE TABLE streams("
    "  id INTEGER PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL, UNIQUE(type, name)) STRICT;"
    "CREATE TABLE commits("
    "  position INTEGER PRIMARY KEY, stream INTEGER NOT NULL, version INTEGER NOT NULL,"
    "  count INTEGER NOT NULL, time INTEGER NOT NULL, hash BLOB NOT NULL, command_id TEXT,"
    "  sum INTEGER NOT NULL, body BLOB NOT NULL) STRICT;"
    "CREATE UNIQUE INDEX commits_by_stream ON commits(stream, version);"
    "CREATE UNIQUE INDEX commits_by_command ON commits(stream, command_id)"
    "  WHERE command_id IS NOT NULL;"
    "CREATE TABLE snapshots("
    "  stream INTEGER PRIMARY KEY, version INTEGER NOT NULL, code BLOB NOT NULL,"
    "  sum INTEGER NOT NULL, state BLOB NOT NULL) STRICT;"
    "CREATE TABLE threads("
    "  name TEXT PRIMARY KEY, owner TEXT, token INTEGER NOT NULL, until INTEGER NOT NULL,"
    "  sum INTEGER NOT NULL, cursors BLOB NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE documents("
    "  path TEXT NOT NULL PRIMARY KEY, sum INTEGER NOT NULL, body BLOB NOT NULL) STRICT;",
};

const tide__schema tide__sqlite_schema = {steps, sizeof steps / sizeof steps[0]};

/* What a commit's checksum covers, then the checksum: the tables' own columns, and the
** aggregate, by the join or as what was asked for. */
#define TENANT_COLUMNS                                                                             \
  "SELECT c.position, c.version, c.count, c.time, c.hash, c.command_id, c.body, s.type, s.name, "  \
  "c.sum FROM commits c LEFT JOIN streams s ON s.id = c.stream "
#define STREAM_COLUMNS(type, name)                                                                 \
  "SELECT position, version, count, time, hash, command_id, body, " type ", " name                 \
  ", sum "                                                                                         \
  "FROM commits "
#define OF_STREAM                                                                                  \
  STREAM_COLUMNS("?3", "?4")                                                                       \
  "WHERE stream = (SELECT id FROM streams WHERE type = ?3 AND name = ?4) "

static const char *const texts[TIDE__SQL_COUNT] = {
    [TIDE__BEGIN] = "BEGIN IMMEDIATE",
    [TIDE__COMMIT] = "COMMIT",
    [TIDE__ROLLBACK] = "ROLLBACK",
    [TIDE__HEAD] = TENANT_COLUMNS "ORDER BY c.position DESC LIMIT 1",
    [TIDE__FIND_STREAM] = "SELECT id FROM streams WHERE type = ?1 AND name = ?2",
    [TIDE__ADD_STREAM] = "INSERT INTO streams(type, name) VALUES(?1, ?2)",
    [TIDE__FIND_COMMAND] =
        "SELECT position, version FROM commits INDEXED BY commits_by_command "
        "WHERE stream = ?1 AND command_id = ?2",
    [TIDE__LAST_OF_STREAM] =
        STREAM_COLUMNS("?2", "?3") "WHERE stream = ?1 ORDER BY version DESC LIMIT 1",
    [TIDE__ADD_COMMIT] =
        "INSERT INTO commits(position, version, count, time, hash, command_id, "
        "body, sum, stream) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?10, ?11)",
    [TIDE__BEFORE] =
        "SELECT position, count FROM commits WHERE position <= ?1 "
        "ORDER BY position DESC LIMIT 1",
    [TIDE__BEFORE_OF_STREAM] =
        "SELECT version, count FROM commits WHERE stream = (SELECT id FROM "
        "streams WHERE type = ?2 AND name = ?3) AND version <= ?1 "
        "ORDER BY version DESC LIMIT 1",
    [TIDE__SCAN] = TENANT_COLUMNS "WHERE c.position >= ?1 ORDER BY c.position LIMIT ?2",
    [TIDE__SCAN_BACK] = TENANT_COLUMNS "WHERE c.position <= ?1 ORDER BY c.position DESC LIMIT ?2",
    [TIDE__SCAN_STREAM] = OF_STREAM "AND version >= ?1 ORDER BY version LIMIT ?2",
    [TIDE__SCAN_STREAM_BACK] = OF_STREAM "AND version <= ?1 ORDER BY version DESC LIMIT ?2",
    [TIDE__GET_SNAPSHOT] =
        "SELECT version, code, state, ?1, ?2, sum FROM snapshots WHERE stream = "
        "(SELECT id FROM streams WHERE type = ?1 AND name = ?2)",
    [TIDE__PUT_SNAPSHOT] =
        "INSERT INTO snapshots(version, code, state, sum, stream) "
        "VALUES(?1, ?2, ?3, ?6, ?7) ON CONFLICT(stream) DO UPDATE SET "
        "version = excluded.version, code = excluded.code, "
        "state = excluded.state, sum = excluded.sum "
        "WHERE excluded.version > version OR excluded.code <> code",
    [TIDE__GET_THREAD] =
        "SELECT name, owner, token, until, cursors, sum FROM threads WHERE name = ?1",
    [TIDE__PUT_THREAD] =
        "INSERT INTO threads(name, owner, token, until, cursors, sum) "
        "VALUES(?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT(name) DO UPDATE SET "
        "owner = excluded.owner, token = excluded.token, until = excluded.until, "
        "cursors = excluded.cursors, sum = excluded.sum",
    [TIDE__LIST_THREADS] = "SELECT name FROM threads WHERE name > ?1 ORDER BY name LIMIT ?2",
    [TIDE__GET_DOCUMENT] = "SELECT path, body, sum FROM documents WHERE path = ?1",
    [TIDE__PUT_DOCUMENT] =
        "INSERT INTO documents(path, body, sum) VALUES(?1, ?2, ?3) "
        "ON CONFLICT(path) DO UPDATE SET body = excluded.body, sum = excluded.sum",
    [TIDE__DELETE_DOCUMENT] = "DELETE FROM documents WHERE path = ?1",
    [TIDE__LIST_FROM] = "SELECT path FROM documents WHERE path >= ?1 ORDER BY path LIMIT ?2",
    [TIDE__LIST_AFTER] = "SELECT path FROM documents WHERE path > ?1 ORDER BY path LIMIT ?2",
};

/* ---- Errors ----------------------------------------------------------------- */

static int fail_moved(tide__db *db, const char *suffix, tide_error *error) {
  db->broken = true;
  return tide__fail_store(error, 0, "%s%s was deleted or replaced while it was open", db->path,
                          suffix);
}

/* What the system said last about a file of the connection: 0 for nothing. */
static int file_errno(const tide__db *db, int which) {
  sqlite3_file *file = NULL;
  int reason = 0;
  if (sqlite3_file_control(db->sqlite, "main", which, &file) != SQLITE_OK || file == NULL ||
      file->pMethods == NULL ||
      file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &reason) != SQLITE_OK)
    return 0;
  return reason;
}

/* What failed below SQLite, if it knows. A failed COMMIT does not leave its reason with the
** connection: then the WAL has it. */
static const char *system_reason(const tide__db *db) {
  if (db->sqlite == NULL) return "";
  int reason = sqlite3_system_errno(db->sqlite);
  if (reason == 0) reason = file_errno(db, SQLITE_FCNTL_JOURNAL_POINTER);
  if (reason == 0) reason = file_errno(db, SQLITE_FCNTL_FILE_POINTER);
  return reason == 0 ? "" : strerror(reason);
}

/* May nothing be made in the file's folder? errno says why. */
static bool folder_is_read_only(tide__db *db) {
  char *slash = strrchr(db->path, '/'); /* the path is absolute */
  *slash = '\0';
  bool read_only = access(db->path, W_OK) != 0;
  *slash = '/';
  return read_only;
}

/* SQLite's own messages name neither the folder nor the reason. */
static int fail_read_only(tide__db *db, const char *doing, tide_error *error) {
  if (folder_is_read_only(db))
    return tide__fail_store(error, 0,
                            "%s cannot be %s: its folder, where SQLite keeps the log and its "
                            "index, is read-only: %s",
                            db->path, doing, strerror(errno));
  return tide__fail_store(error, 0, "%s cannot be %s: it is read-only", db->path, doing);
}

int tide__db_fail(tide__db *db, int result, const char *doing, tide_error *error) {
  const char *why = db->sqlite == NULL ? sqlite3_errstr(result) : sqlite3_errmsg(db->sqlite);
  const char *reason = system_reason(db);
  const char *gap = reason[0] == '\0' ? "" : ": ";
  if (result == SQLITE_IOERR_NOMEM || result == SQLITE_NOMEM) return tide__fail_memory(error);
  if (result == SQLITE_READONLY_DBMOVED) return fail_moved(db, "", error);
  switch (result & 0xff) {
  case SQLITE_BUSY:
  case SQLITE_LOCKED:
  case SQLITE_PROTOCOL: /* other connections kept it from even starting to read */
    return tide__fail_store(error, 1, "%s is busy: another process has been writing for %lld ms",
                            db->path, (long long)db->busy_for);
  case SQLITE_FULL:
    return tide__fail_store(error, 0, "%s cannot be %s: the disk is full", db->path, doing);
  }
  /* It is not known what state SQLite is in now; and what is wrong may be mended. */
  db->broken = true;
  switch (result & 0xff) {
  case SQLITE_IOERR:
    return tide__fail_store(error, 0, "%s cannot be %s: %s%s%s", db->path, doing, why, gap, reason);
  case SQLITE_READONLY:
  case SQLITE_PERM:
    return fail_read_only(db, doing, error);
  case SQLITE_CANTOPEN:
    if (folder_is_read_only(db)) return fail_read_only(db, doing, error);
    return tide__fail_store(error, 0, "%s cannot be opened: %s%s%s", db->path, why, gap, reason);
  case SQLITE_CORRUPT:
  case SQLITE_NOTADB:
  case SQLITE_ERROR: /* our statements are right, so the schema is not */
  case SQLITE_SCHEMA:
  case SQLITE_MISMATCH:
  case SQLITE_CONSTRAINT:
    return tide__fail_store(error, 0, "%s is damaged: %s", db->path, why);
  default:
    return tide__fail_store(error, 0, "%s cannot be %s: %s%s%s", db->path, doing, why, gap, reason);
  }
}

int tide__db_damaged(tide__db *db, tide_error *error, const char *format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  int size = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  db->broken = true; /* the next call looks at the file afresh */
  return tide__fail_store(error, 0, "%s is damaged: %s", db->path, size < 0 ? format : text);
}

/* ---- Waiting for other connections ------------------------------------------ */

/* SQLite's busy handler: 1 to try again. Sleeps 50 us at first, up to 5 ms later, each
** time shortened by chance so that writers do not keep meeting. */
static int wait_turn(void *data, int count) {
  tide__db *db = data;
  int64_t now = tide__monotonic();
  if (count == 0) db->busy_since = now;
  db->busy_for = now - db->busy_since;
  if (db->busy_for >= db->busy_timeout) return 0;
  int64_t longest = count < 7 ? INT64_C(50000) << count : INT64_C(5000000);
  db->jitter ^= db->jitter << 13; /* xorshift64, Marsaglia 2003 */
  db->jitter ^= db->jitter >> 7;
  db->jitter ^= db->jitter << 17;
  int64_t pause = longest / 2 + (int64_t)(db->jitter % (uint64_t)(longest / 2));
  struct timespec time = {0, (long)pause};
  (void)nanosleep(&time, NULL); /* cut short by a signal: asks again sooner */
  return 1;
}

/* ---- Opening ---------------------------------------------------------------- */

static uint32_t big_endian(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | (uint32_t)at[3];
}

static int fail_foreign(tide__db *db, const char *why, tide_error *error) {
  return tide__fail_store(error, 0, "%s is not a Tidelog store: %s", db->path, why);
}

static int fail_newer(tide__db *db, int version, int known, tide_error *error) {
  return tide__fail_store(error, 0, "%s was made by a newer Tidelog (schema %d; this one knows %d)",
                          db->path, version, known);
}

/* A power cut in the middle of the first transaction leaves zeros and a journal. */
static bool is_torn_creation(const tide__db *db, const uint8_t *header) {
  for (int i = 0; i < HEADER_SIZE; i++)
    if (header[i] != 0) return false;
  char journal[PATH_MAX + 64]; /* the folder is at most PATH_MAX long */
  int size = snprintf(journal, sizeof journal, "%s-journal", db->path);
  return size > 0 && (size_t)size < sizeof journal && access(journal, F_OK) == 0;
}

/* Is the file new or ours? Looks only at its first bytes, before any statement: SQLite
** would roll a stranger's journal back and fold its log in. And through SQLite's own
** handle: our own close() of the file would drop all locks this process has on it. */
static int check_header(tide__db *db, const tide__schema *schema, tide_error *error) {
  uint8_t header[HEADER_SIZE] = {0};
  sqlite3_file *file = NULL;
  int result = sqlite3_file_control(db->sqlite, "main", SQLITE_FCNTL_FILE_POINTER, &file);
  if (result == SQLITE_OK && (file == NULL || file->pMethods == NULL)) result = SQLITE_CANTOPEN;
  /* Not by its size: SQLite calls a file of one byte empty, too. */
  if (result == SQLITE_OK) result = file->pMethods->xRead(file, header, 1, 0);
  if (result == SQLITE_IOERR_SHORT_READ) return TIDE_OK;
  if (result == SQLITE_OK) result = file->pMethods->xRead(file, header, HEADER_SIZE, 0);
  if (result != SQLITE_OK && result != SQLITE_IOERR_SHORT_READ)
    return tide__db_fail(db, result, "read", error);
  if (result != SQLITE_OK || memcmp(header, "SQLite format 3", 16) != 0)
    return is_torn_creation(db, header) ? TIDE_OK
                                        : fail_foreign(db, "it is not an SQLite database", error);
  if (big_endian(header + 68) != TIDE__SQLITE_APPLICATION)
    return fail_foreign(db, "it is another application's SQLite database", error);
  uint32_t version = big_endian(header + 60); /* a newer one may still be in the log */
  if (version > (uint32_t)schema->count) return fail_newer(db, (int)version, schema->count, error);
  return TIDE_OK;
}

static int execute(tide__db *db, const char *sql, tide_error *error) {
  int result = sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL);
  if (result == SQLITE_OK) return TIDE_OK;
  bool opening = db->file == 0; /* then it may be for a reader */
  return tide__db_fail(db, result, opening ? "opened" : "written", error);
}

/* The integer that a statement gives in its first row. */
static int query_integer(tide__db *db, const char *sql, int *value, tide_error *error) {
  sqlite3_stmt *statement = NULL;
  int result = sqlite3_prepare_v2(db->sqlite, sql, -1, &statement, NULL);
  if (result == SQLITE_OK) result = sqlite3_step(statement);
  if (result == SQLITE_ROW) *value = sqlite3_column_int(statement, 0);
  int code = result == SQLITE_ROW ? TIDE_OK : tide__db_fail(db, result, "read", error);
  (void)sqlite3_finalize(statement); /* repeats the error of the step */
  return code;
}

/* Takes one step up, unless another process was first. */
static int migrate_once(tide__db *db, const tide__schema *schema, tide_error *error) {
  char sql[64];
  int version = 0, application = 0, objects = 0;
  int code = execute(db, "BEGIN IMMEDIATE", error);
  if (code != TIDE_OK) return code;
  code = query_integer(db, "PRAGMA user_version", &version, error);
  if (code == TIDE_OK && version == 0) {
    code = query_integer(db, "PRAGMA application_id", &application, error);
    if (code == TIDE_OK)
      code = query_integer(db, "SELECT count(*) FROM sqlite_schema", &objects, error);
    if (code == TIDE_OK && (objects != 0 || application != 0))
      code = fail_foreign(db, "it is another application's SQLite database", error);
    (void)snprintf(sql, sizeof sql, "PRAGMA application_id = %d", TIDE__SQLITE_APPLICATION);
    if (code == TIDE_OK) code = execute(db, sql, error);
  }
  if (code == TIDE_OK && version >= 0 && version < schema->count) {
    code = execute(db, schema->steps[version], error);
    (void)snprintf(sql, sizeof sql, "PRAGMA user_version = %d", version + 1);
    if (code == TIDE_OK) code = execute(db, sql, error);
  }
  if (code == TIDE_OK) code = execute(db, "COMMIT", error);
  if (code != TIDE_OK) tide__db_rollback(db);
  return code;
}

static int migrate(tide__db *db, const tide__schema *schema, tide_error *error) {
  for (;;) {
    int version = 0;
    int code = query_integer(db, "PRAGMA user_version", &version, error);
    if (code != TIDE_OK) return code;
    if (version > schema->count || version < 0)
      return fail_newer(db, version, schema->count, error);
    if (version == schema->count) return TIDE_OK;
    code = migrate_once(db, schema, error);
    if (code != TIDE_OK) return code;
  }
}

/* A new file gets its schema in a rollback journal and the write-ahead log after it, so
** that its first page always has our application id. */
static int use_log(tide__db *db, tide_error *error) {
  int result;
  for (int count = 0;; count++) {
    sqlite3_stmt *statement = NULL;
    bool set = false;
    result = sqlite3_prepare_v2(db->sqlite, "PRAGMA journal_mode = WAL", -1, &statement, NULL);
    if (result == SQLITE_OK) result = sqlite3_step(statement);
    if (result == SQLITE_ROW) {
      const unsigned char *mode = sqlite3_column_text(statement, 0);
      set = mode != NULL && strcmp((const char *)mode, "wal") == 0;
    }
    (void)sqlite3_finalize(statement); /* repeats the error of the step */
    if (set) return TIDE_OK;
    if (result == SQLITE_ROW)
      return tide__fail_store(error, 0, "%s cannot have a write-ahead log on this file system",
                              db->path);
    /* SQLite does not always ask the busy handler here. */
    if ((result & 0xff) != SQLITE_BUSY || !wait_turn(db, count)) break;
  }
  return tide__db_fail(db, result, "opened", error);
}

/* Notes which file is open, to notice when its name means another one. */
static int identify(tide__db *db, tide_error *error) {
  struct stat status;
  int moved = 0;
  if (stat(db->path, &status) != 0) return fail_moved(db, "", error);
  db->device = status.st_dev;
  db->file = status.st_ino;
  int result = sqlite3_file_control(db->sqlite, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
  if (result != SQLITE_OK) return tide__db_fail(db, result, "read", error);
  if (moved) return fail_moved(db, "", error);
  /* A read-only folder may have none. */
  db->wal = stat(db->wal_path, &status) == 0 ? status.st_ino : 0;
  return TIDE_OK;
}

static int set_up(tide__db *db, const tide__schema *schema, tide_error *error) {
  int result = sqlite3_busy_handler(db->sqlite, wait_turn, db);
  if (result == SQLITE_OK)
    result = sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
  if (result == SQLITE_OK) /* a damaged file's schema may call anything */
    result = sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, (int *)NULL);
  if (result != SQLITE_OK) return tide__db_fail(db, result, "opened", error);
  int code = execute(db, "PRAGMA synchronous = FULL; PRAGMA cell_size_check = ON", error);
  if (code == TIDE_OK) code = migrate(db, schema, error);
  if (code == TIDE_OK && sqlite3_db_readonly(db->sqlite, "main") == 0) code = use_log(db, error);
  /* Again, now in the log: this read opens it. */
  if (code == TIDE_OK) code = migrate(db, schema, error);
  if (code == TIDE_OK) code = identify(db, error);
  return code;
}

int tide__db_open(const char *path, const tide__schema *schema, int busy_timeout, bool create,
                  tide__db **db, tide_error *error) {
  struct stat status;
  *db = NULL;
  if (stat(path, &status) == 0) {
    if (!S_ISREG(status.st_mode))
      return tide__fail_store(error, 0, "%s is not a Tidelog store: it is not a file", path);
    if (status.st_size == 0 && !create) return TIDE_OK;
  } else if (errno != ENOENT) {
    return tide__fail_store(error, 0, "%s cannot be opened: %s", path, strerror(errno));
  } else if (!create) {
    return TIDE_OK;
  }
  size_t size = strlen(path) + 1;
  tide__db *opened = calloc(1, sizeof *opened + 2 * size + strlen("-wal"));
  if (opened == NULL) return tide__fail_memory(error);
  memcpy(opened->path, path, size);
  opened->wal_path = opened->path + size;
  (void)snprintf(opened->wal_path, size + strlen("-wal"), "%s-wal", path);
  opened->busy_timeout = busy_timeout;
  opened->jitter =
      ((uint64_t)getpid() << 32 ^ (uint64_t)(uintptr_t)opened ^ (uint64_t)tide__now()) | 1;
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE |
              SQLITE_OPEN_EXRESCODE | (create ? SQLITE_OPEN_CREATE : 0);
  int result = sqlite3_open_v2(path, &opened->sqlite, flags, NULL);
  int code = result == SQLITE_OK ? check_header(opened, schema, error)
                                 : tide__db_fail(opened, result, "opened", error);
  if (code == TIDE_OK) code = set_up(opened, schema, error);
  if (code != TIDE_OK) {
    tide__db_close(opened);
    return code;
  }
  *db = opened;
  return TIDE_OK;
}

void tide__db_close(tide__db *db) {
  if (db == NULL) return;
  for (int i = 0; i < TIDE__SQL_COUNT; i++)
    (void)sqlite3_finalize(db->statements[i]); /* repeats an error that was reported */
  (void)sqlite3_close_v2(db->sqlite);          /* nothing is left open in it */
  free(db);
}

void tide__db_abandon(tide__db *db) {
  if (db == NULL) return;
  /* Otherwise the last connection folds its log in and deletes it. What is left to do is
  ** in this process alone: unmapping, and closing its own copies of the descriptors. */
  (void)sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)NULL);
  tide__db_close(db);
}

int tide__db_in_place(tide__db *db, bool writing, tide_error *error) {
  struct stat status;
  if (stat(db->path, &status) != 0 || status.st_ino != db->file || status.st_dev != db->device)
    return fail_moved(db, "", error);
  if (!writing || db->wal == 0) return TIDE_OK;
  if (stat(db->wal_path, &status) != 0 || status.st_ino != db->wal)
    return fail_moved(db, "-wal", error);
  return TIDE_OK;
}

/* ---- Statements ------------------------------------------------------------- */

tide__value tide__integer(int64_t integer) {
  return (tide__value){.kind = TIDE__INTEGER, .integer = integer};
}

tide__value tide__text(const char *text) {
  if (text == NULL) return (tide__value){.kind = TIDE__NULL};
  return (tide__value){.kind = TIDE__TEXT, .data = text, .size = strlen(text)};
}

tide__value tide__blob(const void *data, size_t size) {
  return (tide__value){.kind = TIDE__BLOB, .data = data, .size = size};
}

static int bind(sqlite3_stmt *statement, int index, const tide__value *value) {
  switch (value->kind) {
  case TIDE__INTEGER:
    return sqlite3_bind_int64(statement, index, value->integer);
  case TIDE__TEXT:
    return sqlite3_bind_text64(statement, index, value->data, value->size, SQLITE_STATIC,
                               SQLITE_UTF8);
  case TIDE__BLOB:
    return sqlite3_bind_blob64(statement, index, value->data, value->size, SQLITE_STATIC);
  default:
    return sqlite3_bind_null(statement, index);
  }
}

int tide__db_start(tide__db *db, tide__sql sql, const tide__value *values, int count,
                   sqlite3_stmt **statement, tide_error *error) {
  int result = SQLITE_OK;
  *statement = NULL;
  if (db->statements[sql] == NULL)
    result = sqlite3_prepare_v3(db->sqlite, texts[sql], -1, SQLITE_PREPARE_PERSISTENT,
                                &db->statements[sql], NULL);
  for (int i = 0; i < count && result == SQLITE_OK; i++)
    result = bind(db->statements[sql], i + 1, &values[i]);
  if (result != SQLITE_OK) return tide__db_fail(db, result, "read", error);
  *statement = db->statements[sql];
  return TIDE_OK;
}

int tide__db_step(tide__db *db, sqlite3_stmt *statement, bool *row, tide_error *error) {
  int result = sqlite3_step(statement);
  *row = result == SQLITE_ROW;
  if (result == SQLITE_ROW || result == SQLITE_DONE) return TIDE_OK;
  return tide__db_fail(db, result, sqlite3_stmt_readonly(statement) ? "read" : "written", error);
}

void tide__db_end(sqlite3_stmt *statement) {
  if (statement == NULL) return;
  (void)sqlite3_reset(statement); /* repeats the error of the step */
  (void)sqlite3_clear_bindings(statement);
}

int tide__db_run(tide__db *db, tide__sql sql, const tide__value *values, int count,
                 tide_error *error) {
  sqlite3_stmt *statement;
  bool row;
  int code = tide__db_start(db, sql, values, count, &statement, error);
  if (code == TIDE_OK) code = tide__db_step(db, statement, &row, error);
  tide__db_end(statement);
  return code;
}

/* ---- Transactions ----------------------------------------------------------- */

int tide__db_begin(tide__db *db, tide_error *error) {
  return tide__db_run(db, TIDE__BEGIN, NULL, 0, error);
}

void tide__db_rollback(tide__db *db) {
  if (sqlite3_get_autocommit(db->sqlite) != 0) return; /* SQLite has done it */
  (void)tide__db_run(db, TIDE__ROLLBACK, NULL, 0, NULL);
  if (sqlite3_get_autocommit(db->sqlite) == 0) db->broken = true;
}

int tide__db_commit(tide__db *db, const char *what, tide_error *error) {
  sqlite3_stmt *statement;
  int code = tide__db_start(db, TIDE__COMMIT, NULL, 0, &statement, error);
  if (code != TIDE_OK) {
    tide__db_rollback(db);
    return code;
  }
  int result = sqlite3_step(statement);
  if (result == SQLITE_DONE) {
    tide__db_end(statement);
    /* Not in the file that others will read: not acknowledged. */
    return tide__db_in_place(db, true, error);
  }
  switch (result & 0xff) {
  case SQLITE_BUSY: /* these are seen before the transaction's last page is written */
  case SQLITE_FULL:
  case SQLITE_READONLY:
    code = tide__db_fail(db, result, "written", error);
    break;
  default: {
    const char *reason = system_reason(db);
    db->broken = true;
    code = tide__fail_store(error, 0,
                            "%s cannot be written: %s%s%s; it is not known whether %s stored: send "
                            "the same again, commits with the same command id",
                            db->path, sqlite3_errmsg(db->sqlite), reason[0] == '\0' ? "" : ": ",
                            reason, what);
  }
  }
  tide__db_end(statement);
  tide__db_rollback(db);
  return code;
}

int tide__db_flush_commits(tide__db *db, bool flush, tide_error *error) {
  return execute(db, flush ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL", error);
}

/* ---- Columns ---------------------------------------------------------------- */

static uLong add_value(uLong sum, const tide__value *value) {
  uint8_t frame[1 + 8] = {(uint8_t)value->kind};
  uint64_t number = value->kind == TIDE__INTEGER ? (uint64_t)value->integer : value->size;
  for (int i = 0; i < 8; i++)
    frame[1 + i] = (uint8_t)(number >> (8 * i));
  sum = crc32_z(sum, frame, sizeof frame);
  /* with NULL zlib would start again */
  return value->size == 0 ? sum : crc32_z(sum, value->data, value->size);
}

tide__value tide__sum(const tide__value *values, int count) {
  uLong sum = crc32_z(0, NULL, 0);
  for (int i = 0; i < count; i++)
    sum = add_value(sum, &values[i]);
  return tide__integer((int64_t)sum);
}

int tide__row_sum(sqlite3_stmt *statement, int count, bool *good, tide_error *error) {
  uLong sum = crc32_z(0, NULL, 0);
  for (int i = 0; i < count; i++) {
    tide__value value = {.kind = TIDE__NULL};
    int type = sqlite3_column_type(statement, i);
    if (type == SQLITE_INTEGER) {
      value = tide__integer(sqlite3_column_int64(statement, i));
    } else if (type != SQLITE_NULL) {
      value =
          tide__blob(sqlite3_column_blob(statement, i), (size_t)sqlite3_column_bytes(statement, i));
      value.kind = type == SQLITE_TEXT ? TIDE__TEXT : TIDE__BLOB;
      if (value.data == NULL && value.size > 0) return tide__fail_memory(error);
    }
    sum = add_value(sum, &value);
  }
  *good = sqlite3_column_type(statement, count) == SQLITE_INTEGER &&
          sqlite3_column_int64(statement, count) == (sqlite3_int64)sum;
  return TIDE_OK;
}

int tide__row_check(tide__db *db, sqlite3_stmt *statement, int count, const char *what,
                    tide_error *error) {
  bool good = false;
  int code = tide__row_sum(statement, count, &good, error);
  if (code != TIDE_OK || good) return code;
  return tide__db_damaged(db, error, "the checksum of %s is wrong", what);
}

static int fail_column(tide__db *db, sqlite3_stmt *statement, int column, tide_error *error) {
  /* A value that did not fit into memory looks like NULL. */
  if (sqlite3_errcode(db->sqlite) == SQLITE_NOMEM) return tide__fail_memory(error);
  return tide__db_damaged(db, error, "a wrong value in column %s",
                          sqlite3_column_name(statement, column));
}

int tide__column_integer(tide__db *db, sqlite3_stmt *statement, int column, int64_t least,
                         int64_t most, int64_t *value, tide_error *error) {
  if (sqlite3_column_type(statement, column) != SQLITE_INTEGER)
    return fail_column(db, statement, column, error);
  *value = sqlite3_column_int64(statement, column);
  if (*value < least || *value > most) return fail_column(db, statement, column, error);
  return TIDE_OK;
}

int tide__column_text(tide__db *db, sqlite3_stmt *statement, int column, size_t most, bool optional,
                      const char **text, tide_error *error) {
  int type = sqlite3_column_type(statement, column);
  *text = NULL;
  if (type == SQLITE_NULL && optional) return TIDE_OK;
  if (type != SQLITE_TEXT) return fail_column(db, statement, column, error);
  *text = (const char *)sqlite3_column_text(statement, column);
  size_t size = (size_t)sqlite3_column_bytes(statement, column);
  if (*text == NULL || size == 0 || size > most || strlen(*text) != size)
    return fail_column(db, statement, column, error);
  return TIDE_OK;
}

int tide__column_blob(tide__db *db, sqlite3_stmt *statement, int column, size_t least, size_t most,
                      const void **data, size_t *size, tide_error *error) {
  if (sqlite3_column_type(statement, column) != SQLITE_BLOB)
    return fail_column(db, statement, column, error);
  *data = sqlite3_column_blob(statement, column);
  *size = (size_t)sqlite3_column_bytes(statement, column);
  if (*data == NULL || *size < least || *size > most)
    return fail_column(db, statement, column, error);
  return TIDE_OK;
}

int tide__column_bson(tide__db *db, sqlite3_stmt *statement, int column, tide_bytes *bytes,
                      tide_error *error) {
  const void *data = NULL;
  size_t size = 0;
  int code = tide__column_blob(db, statement, column, 5, TIDE_BODY_MAX, &data, &size, error);
  if (code != TIDE_OK || data == NULL) return code;
  bytes->data = malloc(size);
  if (bytes->data == NULL) return tide__fail_memory(error);
  memcpy(bytes->data, data, size);
  bytes->size = size;
  return TIDE_OK;
}
