/* test_sqlite.c - what is special to the SQLite store: its files, other processes, full
** and read-only disks, damaged and foreign files. What every store does is tested by
** tests/contract. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "stores/sqlite_tenant.h"
#include "stores/store.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define LOGGED       60 /* commits that make_log writes */

/* ---- A folder for each test ------------------------------------------------- */

typedef struct fixture {
  char root[128];    /* temporary, removed at the end */
  char folder[160];  /* root/store, the store's own */
  char uri[200];     /* of it */
  char path[200];    /* of the file of tenant "t" in it */
  tide_error error;  /* of the last call */
  tide_store *store; /* closed at the end if it is open */
} fixture;

static const uint8_t empty[] = {5, 0, 0, 0, 0};
/* {"num": 7} */
static const uint8_t small[] = {14, 0, 0, 0, 0x10, 'n', 'u', 'm', 0, 7, 0, 0, 0, 0};

static int quick(void) {
  return getenv("TIDELOG_TEST_QUICK") != NULL;
}

static int setup(void **state) {
  /* Memory is enough, and quicker: that writes reach the disk is not seen from here. */
  const char *tmp = getenv("TMPDIR");
  if (tmp == NULL && access("/dev/shm", W_OK | X_OK) == 0) tmp = "/dev/shm";
  fixture *f = calloc(1, sizeof *f);
  if (f == NULL) return -1;
  snprintf(f->root, sizeof f->root, "%.80s/tidelog-sqlite-XXXXXX", tmp == NULL ? "/tmp" : tmp);
  if (mkdtemp(f->root) == NULL) return -1;
  snprintf(f->folder, sizeof f->folder, "%s/store", f->root);
  snprintf(f->uri, sizeof f->uri, "sqlite:%s", f->folder);
  snprintf(f->path, sizeof f->path, "%s/t.db", f->folder);
  *state = f;
  return 0;
}

static void remove_all(const char *path) {
  DIR *folder = opendir(path);
  if (folder != NULL) {
    char inner[512];
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
      if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
      snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
      remove_all(inner);
    }
    closedir(folder);
  }
  remove(path);
}

static int teardown(void **state) {
  fixture *f = *state;
  tide__store_close(f->store);
  remove_all(f->root);
  free(f);
  return 0;
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

/* A call that succeeds; one that fails with TIDE_STORE and a text in its message. */
#define OK(f, call)                                                                                \
  do {                                                                                             \
    memset(&(f)->error, 0, sizeof(f)->error);                                                      \
    if ((call) != TIDE_OK) fail_msg("%s: %s", #call, (f)->error.message);                          \
  } while (0)
#define REFUSED(f, is_transient, text, call)                                                       \
  do {                                                                                             \
    memset(&(f)->error, 0, sizeof(f)->error);                                                      \
    assert_int_equal((call), TIDE_STORE);                                                          \
    if (strstr((f)->error.message, (text)) == NULL)                                                \
      fail_msg("%s: '%s' has no '%s'", #call, (f)->error.message, (text));                         \
    assert_int_equal((f)->error.transient, (is_transient));                                        \
  } while (0)

static void reopen(fixture *f) {
  tide__store_close(f->store);
  f->store = NULL;
  OK(f, tide__store_open(f->uri, NULL, &f->store, &f->error));
}

static void shut(fixture *f) {
  tide__store_close(f->store);
  f->store = NULL;
}

static int append(tide_store *store, const char *tenant, const char *id, int64_t version,
                  int32_t count, tide_outcome *outcome, tide_error *error) {
  tide_commit commit = {.type = "Adder",
                        .id = id,
                        .version = version,
                        .count = count,
                        .body = small,
                        .body_size = sizeof small};
  return tide__store_append(store, tenant, &commit, 1, outcome, error);
}

static void put(fixture *f, const char *tenant, const char *id, int64_t version) {
  tide_outcome outcome = 0;
  OK(f, append(f->store, tenant, id, version, 1, &outcome, &f->error));
  assert_int_equal(outcome, TIDE_APPENDED);
}

static int64_t position(fixture *f, tide_store *store, const char *tenant) {
  tide_head head;
  OK(f, tide__store_head(store, tenant, &head, &f->error));
  return head.position;
}

/* The log of the tenant is sound and has this many events. */
static void verify(fixture *f, const char *tenant, int64_t expected) {
  int64_t commits, events;
  OK(f, tide__store_check(f->store, tenant, &commits, &events, &f->error));
  assert_int_equal(events, expected);
}

/* ---- Files ------------------------------------------------------------------ */

static int exists(const char *path, const char *ending) {
  char name[256];
  struct stat status;
  snprintf(name, sizeof name, "%s%s", path, ending);
  return stat(name, &status) == 0;
}

/* The entries of the folder whose names end so. */
static int entries(const char *path, const char *ending) {
  int found = 0;
  size_t size = strlen(ending);
  DIR *folder = opendir(path);
  assert_non_null(folder);
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    size_t length = strlen(entry->d_name);
    if (entry->d_name[0] == '.') continue;
    found += length >= size && strcmp(entry->d_name + length - size, ending) == 0;
  }
  closedir(folder);
  return found;
}

/* Only for files that nothing in this process has open: closing drops its locks. */
static uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  assert_int_equal(fseek(file, 0, SEEK_END), 0);
  *size = (size_t)ftell(file);
  rewind(file);
  uint8_t *data = malloc(*size + 1);
  assert_non_null(data);
  assert_int_equal(fread(data, 1, *size, file), *size);
  fclose(file);
  return data;
}

static void write_file(const char *path, const void *data, size_t size) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(data, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
}

static sqlite3 *raw_open(const char *path) {
  sqlite3 *db = NULL;
  assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
  return db;
}

static void raw(sqlite3 *db, const char *sql) {
  char *message = NULL;
  if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK) fail_msg("%s: %s", sql, message);
}

/* Runs the SQL on the file alone. */
static void raw_file(const char *path, const char *sql) {
  sqlite3 *db = raw_open(path);
  raw(db, sql);
  assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static int raw_integer(sqlite3 *db, const char *sql) {
  sqlite3_stmt *statement = NULL;
  assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
  assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
  int value = sqlite3_column_int(statement, 0);
  sqlite3_finalize(statement);
  return value;
}

/* What a process that the test has forked ended with. */
static int exit_status(pid_t child) {
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

/* A child whose open connections are nobody's any more ends so when all went well: by
** exit() valgrind would report them, and give it another status. */
static void end_by_kill(void) {
  kill(getpid(), SIGKILL);
}

static void was_killed(pid_t child) {
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  if (!WIFSIGNALED(status)) fail_msg("the child ended with %d", WEXITSTATUS(status));
  assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void test_a_tenant_is_a_file(void **state) {
  fixture *f = *state;
  reopen(f);
  assert_true(exists(f->folder, ""));
  put(f, "t", "a", 0);
  put(f, "other-tenant", "a", 0);
  assert_int_equal(entries(f->folder, ".db"), 2);
  assert_true(exists(f->path, "-wal"));
  shut(f);
  assert_int_equal(entries(f->folder, ""), 2); /* the logs are folded in and gone */
  size_t size;
  uint8_t *header = read_file(f->path, &size);
  assert_true(size > 100);
  assert_memory_equal(header, "SQLite format 3", 16);
  assert_memory_equal(header + 18, "\2\2", 2); /* a write-ahead log */
  assert_memory_equal(header + 60, "\0\0\0\1", 4);
  assert_memory_equal(header + 68, "TIDE", 4);
  free(header);
  sqlite3 *db = raw_open(f->path);
  assert_int_equal(raw_integer(db, "SELECT count(*) FROM commits"), 1);
  assert_int_equal(sqlite3_close(db), SQLITE_OK);
  reopen(f);
  verify(f, "t", 1);
}

/* Appends a letter for each statement that says how commits are flushed, or what. */
static int note_flushes(unsigned event, void *data, void *statement, void *sql) {
  char *notes = data;
  size_t used = strlen(notes);
  (void)event;
  (void)statement;
  if (used > 60) return 0;
  if (strstr(sql, "synchronous = NORMAL") != NULL) notes[used] = 'n';
  if (strstr(sql, "synchronous = FULL") != NULL) notes[used] = 'f';
  if (strstr(sql, "INTO snapshots") != NULL) notes[used] = 's';
  if (strstr(sql, "INTO commits") != NULL) notes[used] = 'c';
  if (strcmp(sql, "COMMIT") == 0) notes[used] = '.';
  return 0;
}

/* All but snapshots, which are a cache: those are written without waiting, and what comes
** after them waits again, also where one is refused. */
static void test_commits_wait_for_the_disk(void **state) {
  fixture *f = *state;
  tide__tenant *tenant;
  tide__db *db;
  char notes[64] = "";
  tide_snapshot snapshot = {.version = 0, .state = {(uint8_t *)(uintptr_t)empty, sizeof empty}};
  reopen(f);
  put(f, "t", "a", 0);
  OK(f, tide__tenant_take(f->store, "t", false, &tenant, &db, &f->error));
  assert_int_equal(raw_integer(db->sqlite, "PRAGMA synchronous"), 2);
  assert_int_equal(sqlite3_trace_v2(db->sqlite, SQLITE_TRACE_STMT, note_flushes, notes), SQLITE_OK);
  tide__tenant_give(f->store, tenant);
  OK(f, tide__store_put_snapshot(f->store, "t", "Adder", "a", &snapshot, &f->error));
  put(f, "t", "a", 1);
  snapshot.version = 2;
  assert_int_equal(tide__store_put_snapshot(f->store, "t", "Adder", "a", &snapshot, &f->error),
                   TIDE_INVALID_ARGUMENT);
  put(f, "t", "a", 2);
  assert_string_equal(notes, "ns.fc.nfc.");
  OK(f, tide__tenant_take(f->store, "t", false, &tenant, &db, &f->error));
  assert_int_equal(raw_integer(db->sqlite, "PRAGMA synchronous"), 2);
  tide__tenant_give(f->store, tenant);
}

static void test_reading_makes_no_file(void **state) {
  fixture *f = *state;
  tide_head head;
  tide_scan *scan;
  const tide_commit *commit;
  const tide_query all = {0};
  const tide_document gone = {"/d", NULL, 0, NULL, 0};
  tide_snapshot snapshot = {.version = 0, .state = {(uint8_t *)(uintptr_t)empty, sizeof empty}};
  tide_outcome outcome = 0;
  tide_bytes bytes;
  size_t count;
  int64_t at, version;
  reopen(f);
  OK(f, tide__store_head(f->store, "t", &head, &f->error));
  OK(f, tide__store_scan(f->store, "t", &all, &scan, &f->error));
  OK(f, tide__scan_next(scan, &commit, &f->error));
  assert_null(commit);
  OK(f, tide__store_find_command(f->store, "t", "Adder", "a", "c", &at, &version, &f->error));
  OK(f, tide__store_get_document(f->store, "t", "/d", NULL, &bytes, NULL, &f->error));
  assert_null(bytes.data);
  OK(f, tide__store_list_documents(f->store, "t", "/", NULL, 9, &bytes, &count, &f->error));
  OK(f, tide__store_tenants(f->store, &bytes, &count, &f->error));
  OK(f, tide__store_check(f->store, "t", NULL, NULL, &f->error));
  OK(f, tide__store_get_snapshot(f->store, "t", "Adder", "a", &snapshot, &f->error));
  /* Nor do writes that change nothing. */
  OK(f, append(f->store, "t", "a", 3, 1, &outcome, &f->error));
  assert_int_equal(outcome, TIDE_CONFLICT);
  OK(f, tide__store_put_documents(f->store, "t", &gone, 1, &f->error));
  snapshot.state = (tide_bytes){(uint8_t *)(uintptr_t)empty, sizeof empty};
  assert_int_equal(tide__store_put_snapshot(f->store, "t", "Adder", "a", &snapshot, &f->error),
                   TIDE_INVALID_ARGUMENT);
  assert_int_equal(tide__store_commit_cursors(f->store, "t", "thread", "owner", 1, NULL, NULL, 0,
                                              false, &f->error),
                   TIDE_CONCURRENCY);
  assert_int_equal(entries(f->folder, ""), 0);
  /* The scan that found nothing finds the tenant when there is one. */
  put(f, "t", "a", 0);
  OK(f, tide__scan_next(scan, &commit, &f->error));
  assert_non_null(commit);
  tide__scan_close(scan);
}

static void test_folders(void **state) {
  fixture *f = *state;
  char uri[256], here[512];
  tide_store *store = NULL;
  assert_int_equal(tide__store_open("sqlite:", NULL, &store, &f->error), TIDE_INVALID_ARGUMENT);
  assert_string_equal(f->error.argument, "uri");
  snprintf(uri, sizeof uri, "sqlite:%s/no/store", f->root);
  REFUSED(f, 0, "no/store cannot be created: No such file", //
          tide__store_open(uri, NULL, &store, &f->error));
  snprintf(uri, sizeof uri, "%s/file", f->root);
  write_file(uri, "x", 1);
  snprintf(uri, sizeof uri, "sqlite:%s/file", f->root);
  REFUSED(f, 0, "file cannot be used: it is not a folder",
          tide__store_open(uri, NULL, &store, &f->error));
  snprintf(uri, sizeof uri, "sqlite:%s/file/store", f->root);
  REFUSED(f, 0, "Not a directory", tide__store_open(uri, NULL, &store, &f->error));
  assert_null(store);
  /* A relative name means the same folder after chdir(). */
  assert_non_null(getcwd(here, sizeof here));
  assert_int_equal(chdir(f->root), 0);
  OK(f, tide__store_open("sqlite:store/", NULL, &f->store, &f->error));
  assert_int_equal(chdir("/"), 0);
  put(f, "t", "a", 0);
  assert_int_equal(chdir(here), 0);
  assert_true(exists(f->path, ""));
  shut(f);
  reopen(f);
  put(f, "t", "a", 1);
}

static void test_what_is_no_tenant_is_not_listed(void **state) {
  fixture *f = *state;
  char path[256];
  tide_bytes names;
  size_t count;
  static const char *const others[] = {"b.txt", "B.db", ".db", "x.db-wal", "_.db", "new.db"};
  reopen(f);
  put(f, "b", "a", 0);
  put(f, "a", "a", 0);
  for (size_t i = 0; i < COUNT(others); i++) {
    snprintf(path, sizeof path, "%s/%s", f->folder, others[i]);
    write_file(path, "x", strcmp(others[i], "new.db") != 0); /* new.db is empty */
  }
  snprintf(path, sizeof path, "%s/folder.db", f->folder);
  assert_int_equal(mkdir(path, 0777), 0);
  OK(f, tide__store_tenants(f->store, &names, &count, &f->error));
  assert_int_equal(count, 2);
  assert_int_equal(names.size, 4);
  assert_memory_equal(names.data, "a\0b", 4);
  tide__bytes_free(&names);
  REFUSED(f, 0, "folder.db is not a Tidelog store: it is not a file",
          tide__store_check(f->store, "folder", NULL, NULL, &f->error));
  remove_all(f->folder);
  REFUSED(f, 0, "cannot be read", tide__store_tenants(f->store, &names, &count, &f->error));
  REFUSED(f, 0, "cannot be used any more", //
          tide__store_check(f->store, "nobody", NULL, NULL, &f->error));
}

/* ---- Files of others -------------------------------------------------------- */

/* Every way to the file is refused, and it stays as it is. */
static void is_refused_unchanged(fixture *f, const char *text) {
  size_t size, size_after;
  tide_head head;
  tide_outcome outcome;
  int files = entries(f->folder, "");
  uint8_t *before = read_file(f->path, &size);
  reopen(f);
  REFUSED(f, 0, text, append(f->store, "t", "a", 0, 1, &outcome, &f->error));
  REFUSED(f, 0, "t.db ", tide__store_head(f->store, "t", &head, &f->error));
  REFUSED(f, 0, text, tide__store_check(f->store, "t", NULL, NULL, &f->error));
  shut(f);
  uint8_t *after = read_file(f->path, &size_after);
  assert_int_equal(size, size_after);
  assert_memory_equal(before, after, size);
  assert_int_equal(entries(f->folder, ""), files);
  free(before);
  free(after);
}

static void test_files_of_others_are_refused_and_unchanged(void **state) {
  fixture *f = *state;
  static const char *const sql[] = {"PRAGMA user_version = 0; CREATE TABLE t(a)",
                                    "PRAGMA user_version = 1", /* no table, another's version */
                                    "PRAGMA application_id = 77; CREATE TABLE commits(a)",
                                    "PRAGMA journal_mode = WAL; CREATE TABLE commits(a)"};
  static const char *const texts[] = {"x", "Dear diary,\n", "SQLite format 3"};
  static const uint8_t zeros[8192];
  reopen(f);
  shut(f);
  for (size_t i = 0; i < COUNT(texts); i++) {
    write_file(f->path, texts[i], strlen(texts[i]));
    is_refused_unchanged(f, "t.db is not a Tidelog store: it is not an SQLite database");
  }
  write_file(f->path, zeros, sizeof zeros);
  is_refused_unchanged(f, "t.db is not a Tidelog store");
  for (size_t i = 0; i < COUNT(sql); i++) {
    assert_int_equal(unlink(f->path), 0);
    raw_file(f->path, sql[i]);
    is_refused_unchanged(f, "it is another application's SQLite database");
  }
}

/* The file's write-ahead log would be folded in by whoever closes it last. */
static void test_the_log_of_a_refused_file_stays(void **state) {
  fixture *f = *state;
  static const struct {
    const char *sql, *text;
  } files[] = {
      {"CREATE TABLE t(a)", "it is another application's SQLite database"},
      {"CREATE TABLE t(a); PRAGMA application_id = 1414087749; PRAGMA user_version = 7",
       "made by a newer Tidelog"},
  };
  char copy[256], wal[256], wal_copy[260];
  size_t size, size_after;
  reopen(f);
  shut(f);
  snprintf(wal, sizeof wal, "%s-wal", f->path);
  for (size_t i = 0; i < COUNT(files); i++) {
    snprintf(copy, sizeof copy, "%s/other%zu.db", f->root, i);
    snprintf(wal_copy, sizeof wal_copy, "%s-wal", copy);
    sqlite3 *db = raw_open(copy);
    raw(db, files[i].sql);
    raw(db, "PRAGMA journal_mode = WAL; INSERT INTO t VALUES(1)");
    uint8_t *data = read_file(copy, &size);
    write_file(f->path, data, size);
    free(data);
    data = read_file(wal_copy, &size);
    write_file(wal, data, size);
    assert_true(size > 0);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    is_refused_unchanged(f, files[i].text);
    uint8_t *after = read_file(wal, &size_after);
    assert_int_equal(size, size_after);
    assert_memory_equal(data, after, size);
    free(data);
    free(after);
  }
}

static void test_an_empty_file_is_new(void **state) {
  fixture *f = *state;
  reopen(f);
  write_file(f->path, "", 0);
  assert_int_equal(position(f, f->store, "t"), 0);
  struct stat status;
  assert_int_equal(stat(f->path, &status), 0);
  assert_int_equal(status.st_size, 0); /* and reading it does not fill it */
  put(f, "t", "a", 0);
  verify(f, "t", 1);
}

/* The power was cut when the first transaction was being written into the file: its
** first page is missing, and a journal says that the file was empty before. */
static void test_a_torn_creation_is_begun_again(void **state) {
  fixture *f = *state;
  static const uint8_t zeros[16384];
  uint8_t journal[512] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
  char name[256];
  journal[22] = 2;    /* sectors of 512 bytes */
  journal[26] = 0x10; /* pages of 4096 bytes */
  snprintf(name, sizeof name, "%s-journal", f->path);
  reopen(f);
  write_file(f->path, zeros, sizeof zeros);
  write_file(name, journal, sizeof journal);
  put(f, "t", "a", 0);
  verify(f, "t", 1);
  assert_false(exists(name, ""));
}

/* ---- Versions of the schema -------------------------------------------------- */

static void test_a_newer_schema_is_refused(void **state) {
  fixture *f = *state;
  tide_head head;
  reopen(f);
  put(f, "t", "a", 0);
  shut(f);
  raw_file(f->path, "PRAGMA user_version = 7");
  is_refused_unchanged(f, "t.db was made by a newer Tidelog (schema 7; this one knows 1)");
  /* Also where the number is still in the log alone. */
  raw_file(f->path, "PRAGMA user_version = 1");
  sqlite3 *db = raw_open(f->path);
  raw(db, "PRAGMA user_version = 8");
  reopen(f);
  REFUSED(f, 0, "schema 8; this one knows 1", tide__store_head(f->store, "t", &head, &f->error));
  raw(db, "PRAGMA user_version = 1");
  verify(f, "t", 1);
  assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void test_an_older_schema_is_migrated(void **state) {
  fixture *f = *state;
  const char *const steps[] = {tide__sqlite_schema.steps[0],
                               "CREATE TABLE second(a); INSERT INTO second VALUES(2)",
                               "CREATE TABLE third(a); INSERT INTO third SELECT a + 1 FROM second"};
  const tide__schema next = {steps, 2}, last = {steps, 3};
  sqlite3 *db;
  reopen(f);
  put(f, "t", "a", 0);
  /* Another process, or this one, may have the file open with the old schema. */
  tide_store *other = NULL;
  OK(f, tide__sqlite_open_schema(f->folder, NULL, &next, &other, &f->error));
  assert_int_equal(position(f, other, "t"), 1);
  tide__store_close(other);
  shut(f);
  OK(f, tide__sqlite_open_schema(f->folder, NULL, &last, &f->store, &f->error));
  put(f, "t", "a", 1);
  put(f, "new", "a", 0); /* a new tenant takes all steps */
  verify(f, "t", 2);
  shut(f);
  db = raw_open(f->path);
  assert_int_equal(raw_integer(db, "PRAGMA user_version"), 3);
  assert_int_equal(raw_integer(db, "SELECT sum(a) FROM third"), 3);
  assert_int_equal(sqlite3_close(db), SQLITE_OK);
  reopen(f);
  REFUSED(f, 0, "schema 3; this one knows 1",
          tide__store_check(f->store, "new", NULL, NULL, &f->error));
}

/* A step that fails leaves the file at the version before it, whole. */
static void test_a_failing_migration_changes_nothing(void **state) {
  fixture *f = *state;
  const char *const steps[] = {tide__sqlite_schema.steps[0],
                               "CREATE TABLE second(a); DELETE FROM commits; SELECT nonsense"};
  const tide__schema broken = {steps, 2};
  tide_head head;
  reopen(f);
  put(f, "t", "a", 0);
  shut(f);
  OK(f, tide__sqlite_open_schema(f->folder, NULL, &broken, &f->store, &f->error));
  for (int i = 0; i < 2; i++)
    REFUSED(f, 0, "nonsense", tide__store_head(f->store, "t", &head, &f->error));
  reopen(f);
  verify(f, "t", 1);
  put(f, "t", "a", 1);
}

/* ---- Other connections and processes ---------------------------------------- */

static void test_two_handles(void **state) {
  fixture *f = *state;
  tide_store *other = NULL;
  tide_outcome outcome;
  reopen(f);
  OK(f, tide__store_open(f->uri, NULL, &other, &f->error));
  for (int i = 0; i < 10; i++) {
    tide_store *writer = i % 2 == 0 ? f->store : other, *reader = i % 2 == 0 ? other : f->store;
    OK(f, append(writer, "t", "a", i, 1, &outcome, &f->error));
    assert_int_equal(outcome, TIDE_APPENDED);
    assert_int_equal(position(f, reader, "t"), i + 1);
    OK(f, append(reader, "t", "a", i, 1, &outcome, &f->error));
    assert_int_equal(outcome, TIDE_CONFLICT);
  }
  tide__store_close(other);
  verify(f, "t", 10);
}

/* In a child: `count` commits of 1 to 3 events, each on one of 5 aggregates, decided again
** after each conflict. Sends the number of events that were acknowledged. */
static int contend(const fixture *f, int seed, int count, int report) {
  tide_store *store = NULL;
  tide_error error = {0};
  int64_t next[5] = {0}, events = 0;
  unsigned random = (unsigned)seed * 7919u + 1;
  int code = tide__store_open(f->uri, NULL, &store, &error);
  for (int done = 0; done < count && code == TIDE_OK;) {
    random = random * 1103515245u + 12345u;
    int which = (int)(random >> 16) % 5;
    int32_t size = 1 + (int32_t)(random >> 24) % 3;
    char id[16];
    tide_outcome outcome;
    snprintf(id, sizeof id, "a%d", which);
    code = append(store, "t", id, next[which], size, &outcome, &error);
    if (code == TIDE_OK && outcome == TIDE_APPENDED) {
      next[which] += size;
      events += size;
      done++;
    } else if (code == TIDE_OK) { /* another one was first: read again where it stands */
      const tide_query last = {.type = "Adder", .id = id, .from = INT64_MAX, .backwards = true};
      const tide_commit *commit = NULL;
      tide_scan *scan = NULL;
      code = tide__store_scan(store, "t", &last, &scan, &error);
      if (code == TIDE_OK) code = tide__scan_next(scan, &commit, &error);
      if (commit != NULL) next[which] = commit->version + commit->count;
      tide__scan_close(scan);
    }
  }
  tide__store_close(store);
  if (code != TIDE_OK) fprintf(stderr, "child: %s\n", error.message);
  if (write(report, &events, sizeof events) != (ssize_t)sizeof events) return 2;
  return code == TIDE_OK ? 0 : 1;
}

static void processes_contend(fixture *f, int processes, int count) {
  int pipes[2], failed = 0;
  int64_t acknowledged = 0, events;
  pid_t children[8];
  assert_int_equal(pipe(pipes), 0);
  for (int i = 0; i < processes; i++) {
    children[i] = fork();
    assert_true(children[i] >= 0);
    if (children[i] == 0) _exit(contend(f, i, count, pipes[1]));
  }
  for (int i = 0; i < processes; i++)
    failed += exit_status(children[i]) != 0;
  assert_int_equal(failed, 0);
  for (int i = 0; i < processes; i++) {
    assert_int_equal(read(pipes[0], &events, sizeof events), sizeof events);
    acknowledged += events;
  }
  close(pipes[0]);
  close(pipes[1]);
  reopen(f);
  int64_t commits;
  OK(f, tide__store_check(f->store, "t", &commits, &events, &f->error));
  assert_int_equal(commits, processes * count);
  assert_int_equal(events, acknowledged);
}

static void test_two_processes_write(void **state) {
  processes_contend(*state, 2, quick() ? 30 : 300);
}

static void test_four_processes_write(void **state) {
  processes_contend(*state, 4, quick() ? 15 : 150);
}

/* Many processes create and migrate one tenant at once. */
static void test_processes_create_one_tenant(void **state) {
  fixture *f = *state;
  enum { processes = 4 };
  reopen(f);
  shut(f);
  for (int round = 0; round < (quick() ? 2 : 20); round++) {
    pid_t children[processes];
    int failed = 0;
    char tenant[16], id[16];
    snprintf(tenant, sizeof tenant, "t%d", round);
    for (int i = 0; i < processes; i++) {
      children[i] = fork();
      assert_true(children[i] >= 0);
      if (children[i] != 0) continue;
      tide_outcome outcome = 0;
      snprintf(id, sizeof id, "a%d", i);
      int code = tide__store_open(f->uri, NULL, &f->store, &f->error);
      if (code == TIDE_OK) code = append(f->store, tenant, id, 0, 1, &outcome, &f->error);
      if (code != TIDE_OK) fprintf(stderr, "child: %s\n", f->error.message);
      tide__store_close(f->store);
      _exit(code == TIDE_OK && outcome == TIDE_APPENDED ? 0 : 1);
    }
    for (int i = 0; i < processes; i++)
      failed += exit_status(children[i]) != 0;
    assert_int_equal(failed, 0);
    reopen(f);
    verify(f, tenant, processes);
    shut(f);
  }
}

static int64_t milliseconds(void) {
  struct timespec now;
  assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &now), 0);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void test_waiting_for_another_writer_ends(void **state) {
  fixture *f = *state;
  const tide_store_options options = {.busy_timeout = 200};
  const tide_document document = {"/d", small, sizeof small, NULL, 0};
  tide_outcome outcome;
  tide_lease lease;
  OK(f, tide__store_open(f->uri, &options, &f->store, &f->error));
  put(f, "t", "a", 0);
  sqlite3 *db = raw_open(f->path);
  raw(db, "BEGIN IMMEDIATE");
  int64_t begun = milliseconds();
  REFUSED(f, 1, "t.db is busy: another process has been writing for 2", /* 200 to 299 */
          append(f->store, "t", "a", 1, 1, &outcome, &f->error));
  int64_t waited = milliseconds() - begun;
  assert_true(waited >= 200 && waited < 5000);
  REFUSED(f, 1, "is busy", tide__store_put_documents(f->store, "t", &document, 1, &f->error));
  REFUSED(f, 1, "is busy",
          tide__store_lease(f->store, "t", "thread", "owner", 1000, &lease, &f->error));
  assert_int_equal(position(f, f->store, "t"), 1); /* readers do not wait */
  put(f, "other", "a", 0);                         /* nor do other tenants */
  raw(db, "ROLLBACK");
  put(f, "t", "a", 1);
  assert_int_equal(sqlite3_close(db), SQLITE_OK);
  verify(f, "t", 2);
}

/* To look whose a file is must not drop the locks that this process has on it. */
static void test_opening_keeps_the_locks_of_this_process(void **state) {
  fixture *f = *state;
  const tide_store_options options = {.busy_timeout = 100};
  tide__tenant *tenant;
  tide__db *db;
  tide_store *second = NULL;
  tide_outcome outcome;
  reopen(f);
  put(f, "t", "a", 0);
  int to_child[2];
  assert_int_equal(pipe(to_child), 0);
  pid_t child = fork(); /* before the lock is taken */
  assert_true(child >= 0);
  if (child == 0) {
    char byte;
    tide_store *own = NULL;
    int code = read(to_child[0], &byte, 1) == 1 ? TIDE_OK : TIDE_STORE;
    if (code == TIDE_OK) code = tide__store_open(f->uri, &options, &own, &f->error);
    if (code != TIDE_OK) _exit(1);
    code = append(own, "t", "a", 1, 1, &outcome, &f->error);
    _exit(code == TIDE_STORE && f->error.transient ? 0 : 2);
  }
  OK(f, tide__tenant_take(f->store, "t", false, &tenant, &db, &f->error));
  OK(f, tide__db_begin(db, &f->error));
  OK(f, tide__store_open(f->uri, NULL, &second, &f->error));
  assert_int_equal(position(f, second, "t"), 1);
  OK(f, tide__store_check(second, "t", NULL, NULL, &f->error));
  tide__store_close(second);
  assert_int_equal(write(to_child[1], "x", 1), 1);
  int status = exit_status(child);
  tide__db_rollback(db);
  tide__tenant_give(f->store, tenant);
  close(to_child[0]);
  close(to_child[1]);
  assert_int_equal(status, 0);
  put(f, "t", "a", 1);
}

/* A child closes what it inherited: the parent's log, locks and handle stay. */
static void test_a_forked_child_leaves_the_parents_files(void **state) {
  fixture *f = *state;
  tide_head head;
  reopen(f);
  put(f, "t", "a", 0);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    int code = tide__store_head(f->store, "t", &head, &f->error);
    int said = strstr(f->error.message, "open it again after fork") != NULL;
    tide__store_close(f->store);
    _exit(code == TIDE_STORE && said ? 0 : 1);
  }
  assert_int_equal(exit_status(child), 0);
  assert_true(exists(f->path, "-wal"));
  put(f, "t", "a", 1);
  /* The parent still holds its lock: who closes now is not the last one. */
  child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    tide_store *own = NULL;
    tide_outcome outcome = 0;
    int code = tide__store_open(f->uri, NULL, &own, &f->error);
    if (code == TIDE_OK) code = append(own, "t", "a", 2, 1, &outcome, &f->error);
    tide__store_close(own);
    tide__store_close(f->store);
    _exit(code == TIDE_OK && outcome == TIDE_APPENDED ? 0 : 1);
  }
  assert_int_equal(exit_status(child), 0);
  assert_true(exists(f->path, "-wal"));
  put(f, "t", "a", 3);
  verify(f, "t", 4);
}

/* An orphan that closes what it inherited does not fold in its dead parent's log: if the
** parent was killed in the middle of something, that is for one who opens the file. */
static void test_an_orphan_leaves_the_log(void **state) {
  fixture *f = *state;
  int to_orphan[2], to_test[2];
  char byte = 0;
  assert_int_equal(pipe(to_orphan), 0);
  assert_int_equal(pipe(to_test), 0);
  pid_t parent = fork();
  assert_true(parent >= 0);
  if (parent == 0) {
    tide_outcome outcome;
    int code = tide__store_open(f->uri, NULL, &f->store, &f->error);
    if (code == TIDE_OK) code = append(f->store, "t", "a", 0, 1, &outcome, &f->error);
    if (code != TIDE_OK) _exit(1);
    pid_t orphan = fork();
    if (orphan < 0) _exit(2);
    if (orphan > 0) end_by_kill();
    close(to_orphan[1]);                             /* so that it does not outlive the test */
    if (read(to_orphan[0], &byte, 1) != 1) _exit(3); /* the parent is gone */
    tide__store_close(f->store);
    _exit(write(to_test[1], "x", 1) == 1 ? 0 : 4);
  }
  close(to_test[1]);
  was_killed(parent);
  assert_int_equal(write(to_orphan[1], "x", 1), 1);
  assert_int_equal(read(to_test[0], &byte, 1), 1);
  close(to_orphan[0]);
  close(to_orphan[1]);
  close(to_test[0]);
  assert_true(exists(f->path, "-wal"));
  reopen(f);
  verify(f, "t", 1);
}

/* A fork in the middle of another thread's call: SQLite's locks cannot be set right. */
static void test_a_fork_while_the_store_is_in_use(void **state) {
  fixture *f = *state;
  tide__tenant *tenant;
  tide__db *db;
  reopen(f);
  put(f, "t", "a", 0);
  OK(f, tide__tenant_take(f->store, "t", false, &tenant, &db, &f->error));
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    tide_store *own = NULL;
    for (int i = 0; i < 2; i++) { /* before and after it closes what it inherited */
      int code = tide__store_open(f->uri, NULL, &own, &f->error);
      if (code != TIDE_STORE || own != NULL || strstr(f->error.message, "forked") == NULL)
        _exit(1 + i);
      if (i == 0) tide__store_close(f->store);
    }
    end_by_kill();
  }
  was_killed(child);
  tide__tenant_give(f->store, tenant);
  put(f, "t", "a", 1);
  verify(f, "t", 2);
}

/* ---- A file that goes away -------------------------------------------------- */

static void test_a_deleted_file_is_noticed(void **state) {
  fixture *f = *state;
  tide_outcome outcome;
  tide_head head;
  char name[256];
  const char *gone = "t.db was deleted or replaced while it was open";
  reopen(f);
  put(f, "t", "a", 0);
  assert_int_equal(unlink(f->path), 0);
  REFUSED(f, 0, gone, append(f->store, "t", "a", 1, 1, &outcome, &f->error));
  shut(f);
  remove_all(f->folder);
  reopen(f);
  put(f, "t", "a", 0);
  assert_int_equal(unlink(f->path), 0);
  REFUSED(f, 0, gone, tide__store_head(f->store, "t", &head, &f->error));
  /* After that the store begins afresh. */
  snprintf(name, sizeof name, "%s-wal", f->path);
  unlink(name);
  snprintf(name, sizeof name, "%s-shm", f->path);
  unlink(name);
  assert_int_equal(position(f, f->store, "t"), 0);
  put(f, "t", "b", 0);
  verify(f, "t", 1);
}

static void test_a_replaced_file_is_noticed(void **state) {
  fixture *f = *state;
  tide_outcome outcome;
  char backup[256];
  size_t size;
  snprintf(backup, sizeof backup, "%s/backup.db", f->root);
  reopen(f);
  put(f, "t", "a", 0);
  shut(f);
  uint8_t *data = read_file(f->path, &size);
  write_file(backup, data, size);
  free(data);
  reopen(f);
  put(f, "t", "a", 1);
  shut(f);
  reopen(f);
  assert_int_equal(position(f, f->store, "t"), 2);
  assert_int_equal(rename(backup, f->path), 0);
  REFUSED(f, 0, "was deleted or replaced", append(f->store, "t", "a", 2, 1, &outcome, &f->error));
  assert_int_equal(position(f, f->store, "t"), 1); /* it is the backup now */
  put(f, "t", "a", 1);
  verify(f, "t", 2);
}

/* What is in a log that others do not see is not acknowledged. */
static void test_a_deleted_log_is_noticed(void **state) {
  fixture *f = *state;
  tide_outcome outcome;
  char wal[256];
  snprintf(wal, sizeof wal, "%s-wal", f->path);
  reopen(f);
  put(f, "t", "a", 0);
  assert_int_equal(unlink(wal), 0);
  REFUSED(f, 0, "t.db-wal was deleted or replaced",
          append(f->store, "t", "a", 1, 1, &outcome, &f->error));
  int64_t at = position(f, f->store, "t");
  assert_true(at >= 1 && at <= 2);
  put(f, "t", "a", at);
  verify(f, "t", at + 1);
}

/* ---- Many tenants ----------------------------------------------------------- */

static void test_at_most_max_open_are_open(void **state) {
  fixture *f = *state;
  enum { most = 8 };
  int tenants = quick() ? 30 : 200;
  const tide_store_options options = {.max_open = most};
  tide_bytes names;
  size_t count;
  char name[16];
  OK(f, tide__store_open(f->uri, &options, &f->store, &f->error));
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < tenants; i++) {
      snprintf(name, sizeof name, "t%d", i);
      put(f, name, "a", round);
      if (i > 0) assert_true(exists(f->folder, "/always.db-wal")); /* the most used one stays */
      put(f, "always", "a", (int64_t)round * tenants + i);
      assert_true(entries(f->folder, "-wal") <= most);
    }
  }
  assert_int_equal(entries(f->folder, "-wal"), most);
  OK(f, tide__store_tenants(f->store, &names, &count, &f->error));
  assert_int_equal(count, tenants + 1);
  tide__bytes_free(&names);
  verify(f, "t0", 2);
  verify(f, "always", 2 * tenants);
}

typedef struct worker {
  pthread_t thread;
  fixture *f;
  int number, code;
} worker;

static void *work(void *data) {
  worker *w = data;
  tide_error error = {0};
  for (int i = 0; i < (quick() ? 10 : 60) && w->code == 0; i++) {
    char name[16], id[16];
    tide_outcome outcome = 0;
    tide_head head;
    snprintf(name, sizeof name, "t%d", (i + w->number) % 12);
    snprintf(id, sizeof id, "a%d", w->number);
    if (append(w->f->store, name, id, i / 12, 1, &outcome, &error) != TIDE_OK ||
        outcome != TIDE_APPENDED)
      w->code = 1;
    if (tide__store_head(w->f->store, name, &head, &error) != TIDE_OK) w->code = 2;
  }
  if (w->code != 0) fprintf(stderr, "thread: %s\n", error.message);
  return NULL;
}

/* More threads than connections, each on a tenant that the others push out. */
static void test_threads_share_few_connections(void **state) {
  fixture *f = *state;
  const tide_store_options options = {.max_open = 2};
  worker workers[6];
  OK(f, tide__store_open(f->uri, &options, &f->store, &f->error));
  for (int i = 0; i < (int)COUNT(workers); i++) {
    workers[i] = (worker){.f = f, .number = i};
    assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
  }
  for (size_t i = 0; i < COUNT(workers); i++) {
    assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    assert_int_equal(workers[i].code, 0);
  }
  assert_true(entries(f->folder, "-wal") <= 2);
  if (!quick()) verify(f, "t3", 60 / 12 * (int)COUNT(workers));
}

/* ---- Disks that are full or read-only --------------------------------------- */

static void test_a_full_disk(void **state) {
  fixture *f = *state;
  tide__tenant *tenant;
  tide__db *db;
  char sql[64];
  tide_outcome outcome;
  int64_t version = 0;
  int code = TIDE_OK;
  reopen(f);
  put(f, "t", "a", version++);
  OK(f, tide__tenant_take(f->store, "t", false, &tenant, &db, &f->error));
  int pages = raw_integer(db->sqlite, "PRAGMA page_count");
  snprintf(sql, sizeof sql, "PRAGMA max_page_count = %d", pages + 1);
  assert_int_equal(raw_integer(db->sqlite, sql), pages + 1);
  tide__tenant_give(f->store, tenant);
  for (int i = 0; i < 1000 && code == TIDE_OK; i++) {
    code = append(f->store, "t", "a", version, 1, &outcome, &f->error);
    if (code == TIDE_OK) assert_int_equal(outcome, TIDE_APPENDED);
    if (code == TIDE_OK) version++;
  }
  REFUSED(f, 0, "t.db cannot be written: the disk is full",
          append(f->store, "t", "a", version, 1, &outcome, &f->error));
  assert_int_equal(position(f, f->store, "t"), version);
  verify(f, "t", version);
  reopen(f); /* without the limit */
  put(f, "t", "a", version);
  verify(f, "t", version + 1);
}

/* In a child: no file may grow beyond a limit; then it may again. 0: all was right. */
static int meet_the_limit(fixture *f) {
  struct rlimit limit;
  tide_outcome outcome;
  int64_t version = 1;
  int code = TIDE_OK, errors = 0;
  if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR || getrlimit(RLIMIT_FSIZE, &limit) != 0) return 10;
  rlim_t most = limit.rlim_cur;
  for (int size = 60 * 1024; size < 120 * 1024; size += 5000) {
    if (tide__store_open(f->uri, NULL, &f->store, &f->error) != TIDE_OK) return 11;
    limit.rlim_cur = (rlim_t)size;
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 12;
    for (int i = 0; i < 50 && code == TIDE_OK; i++) {
      outcome = 0;
      code = append(f->store, "t", "a", version, 1, &outcome, &f->error);
      if (code == TIDE_OK && outcome != TIDE_APPENDED) return 13;
      if (code == TIDE_OK) version++;
    }
    limit.rlim_cur = most;
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 14;
    if (code != TIDE_OK) {
      errors++;
      if (code != TIDE_STORE || strstr(f->error.message, "cannot be written") == NULL) return 15;
      /* The same handle goes on. What was not acknowledged may be there or not. */
      tide_head head;
      code = tide__store_head(f->store, "t", &head, &f->error);
      if (code != TIDE_OK) return 16;
      if (head.position != version && head.position != version + 1) return 17;
      version = head.position;
      code = append(f->store, "t", "a", version++, 1, &outcome, &f->error);
      if (code != TIDE_OK || outcome != TIDE_APPENDED) return 18;
    }
    tide__store_close(f->store);
    if (tide__store_open(f->uri, NULL, &f->store, &f->error) != TIDE_OK) return 19;
    int64_t events = 0;
    code = tide__store_check(f->store, "t", NULL, &events, &f->error);
    if (code != TIDE_OK || events != version) return 20;
    tide__store_close(f->store);
  }
  return errors > 0 ? 0 : 21;
}

static void test_a_file_that_may_not_grow(void **state) {
  fixture *f = *state;
  reopen(f);
  put(f, "t", "a", 0);
  shut(f);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    int status = meet_the_limit(f);
    if (status != 0) fprintf(stderr, "child: %d %s\n", status, f->error.message);
    _exit(status);
  }
  assert_int_equal(exit_status(child), 0);
}

/* In a child, as somebody who may not write there. 0: all was right. */
static int meet_read_only(fixture *f, bool readable) {
  tide_store *store = NULL;
  tide_outcome outcome;
  tide_head head;
  if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) return 10;
  if (tide__store_open(f->uri, NULL, &store, &f->error) != TIDE_OK) return 11;
  int code = tide__store_head(store, "t", &head, &f->error);
  if (readable && (code != TIDE_OK || head.position != 1)) return 12;
  if (code != TIDE_OK && (code != TIDE_STORE || strstr(f->error.message, "t.db") == NULL))
    return 13;
  code = append(store, "t", "a", 1, 1, &outcome, &f->error);
  if (code != TIDE_STORE || f->error.transient || strstr(f->error.message, "t.db") == NULL)
    return 14;
  if (readable && strstr(f->error.message, "read-only") == NULL) return 15;
  code = append(store, "new", "a", 0, 1, &outcome, &f->error);
  if (code != TIDE_STORE || strstr(f->error.message, "new.db cannot be opened") == NULL) return 16;
  tide__store_close(store);
  tide__store_close(f->store); /* what was inherited */
  return 0;
}

static void read_only(fixture *f, bool readable) {
  assert_int_equal(chmod(f->root, 0755), 0);
  assert_int_equal(chmod(f->folder, 0555), 0);
  assert_int_equal(chmod(f->path, 0444), 0);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    int status = meet_read_only(f, readable);
    if (status != 0) fprintf(stderr, "child: %d %s\n", status, f->error.message);
    _exit(status);
  }
  int status = exit_status(child);
  assert_int_equal(chmod(f->folder, 0755), 0);
  assert_int_equal(chmod(f->path, 0644), 0);
  assert_int_equal(status, 0);
  assert_false(exists(f->folder, "/new.db"));
}

static void test_a_read_only_folder(void **state) {
  fixture *f = *state;
  reopen(f);
  put(f, "t", "a", 0);
  shut(f);
  read_only(f, false); /* SQLite cannot make the files that readers share */
  reopen(f);
  assert_int_equal(position(f, f->store, "t"), 1);
  read_only(f, true); /* now they are there */
  put(f, "t", "a", 1);
  verify(f, "t", 2);
}

/* ---- Damage ----------------------------------------------------------------- */

/* A log with something in every table. */
static void make_log(fixture *f) {
  const tide_document documents[] = {{"/d/1", small, sizeof small, NULL, 0},
                                     {"/d/2", empty, sizeof empty, NULL, 0}};
  tide_snapshot snapshot = {.version = 0, .state = {(uint8_t *)(uintptr_t)small, sizeof small}};
  tide_lease lease;
  reopen(f);
  for (int i = 0; i < LOGGED; i++) {
    char id[16], command[32];
    tide_outcome outcome;
    snprintf(id, sizeof id, "a%d", i % 5);
    snprintf(command, sizeof command, "command-%d", i);
    tide_commit commit = {.type = "Adder",
                          .id = id,
                          .command_id = i % 3 == 0 ? command : NULL,
                          .version = i / 5,
                          .count = 1,
                          .body = small,
                          .body_size = sizeof small};
    OK(f, tide__store_append(f->store, "t", &commit, 1, &outcome, &f->error));
    assert_int_equal(outcome, TIDE_APPENDED);
  }
  OK(f, tide__store_put_snapshot(f->store, "t", "Adder", "a0", &snapshot, &f->error));
  OK(f, tide__store_lease(f->store, "t", "thread", "owner", 60000, &lease, &f->error));
  OK(f, tide__store_commit_cursors(f->store, "t", "thread", "owner", lease.token, &lease.cursors,
                                   documents, COUNT(documents), false, &f->error));
  tide__bytes_free(&lease.cursors);
}

/* Reads the query through; the number of commits, or -1 after an error. */
static int64_t read_through(tide_store *store, const tide_query *query, tide_error *error) {
  tide_scan *scan = NULL;
  const tide_commit *commit = NULL;
  int64_t count = 0, sum = 0;
  int code = tide__store_scan(store, "t", query, &scan, error);
  while (code == TIDE_OK) {
    code = tide__scan_next(scan, &commit, error);
    if (code != TIDE_OK || commit == NULL) break;
    count++; /* and every byte can be read */
    sum += (int64_t)strlen(commit->type) + (int64_t)strlen(commit->id);
    sum += commit->command_id == NULL ? 0 : (int64_t)strlen(commit->command_id);
    for (size_t i = 0; i < commit->body_size; i++)
      sum += commit->body[i];
  }
  tide__scan_close(scan);
  return code == TIDE_OK && sum >= 0 ? count : -1;
}

/* It succeeded, or said what is wrong. */
static void is_clean(const char *what, int code, tide_error *error) {
  if (code == TIDE_OK || code == TIDE_CONCURRENCY) return;
  if ((code != TIDE_STORE && code != TIDE_LIMIT && code != TIDE_INVALID_ARGUMENT) ||
      error->message[0] == '\0')
    fail_msg("%s: %d '%s'", what, code, error->message);
  error->message[0] = '\0';
}

/* Uses every function on a file that may be damaged. If the check finds nothing, the log
** must be whole: `most` commits or, where `prefix`, fewer. */
static void use_all(fixture *f, int64_t most, bool prefix) {
  tide_error error = {0};
  const tide_query queries[] = {{0},
                                {.from = 31},
                                {.from = INT64_MAX, .backwards = true},
                                {.type = "Adder", .id = "a3"},
                                {.type = "Adder", .id = "a1", .from = 7, .backwards = true}};
  const tide_document document = {"/d/1", small, sizeof small, NULL, 0};
  tide_store *store = NULL;
  tide_head head = {0};
  tide_snapshot snapshot = {0};
  tide_lease lease = {0};
  tide_outcome outcome;
  tide_bytes bytes = {0};
  size_t count;
  int64_t at, version, commits = 0, events = 0;
  OK(f, tide__store_open(f->uri, NULL, &store, &f->error));
  int sound = tide__store_check(store, "t", &commits, &events, &error);
  is_clean("check", sound, &error);
  if (sound == TIDE_OK && (prefix ? commits > most : commits != most))
    fail_msg("%lld commits look sound", (long long)commits);
  for (size_t i = 0; i < COUNT(queries); i++) {
    int64_t read = read_through(store, &queries[i], &error);
    if (sound == TIDE_OK && i == 0) assert_int_equal(read, commits);
    if (read < 0) is_clean("scan", TIDE_STORE, &error);
  }
  is_clean("head", tide__store_head(store, "t", &head, &error), &error);
  if (sound == TIDE_OK) assert_int_equal(head.position, commits);
  is_clean("find_command",
           tide__store_find_command(store, "t", "Adder", "a0", "command-15", &at, &version, &error),
           &error);
  is_clean("get_snapshot", tide__store_get_snapshot(store, "t", "Adder", "a0", &snapshot, &error),
           &error);
  tide__bytes_free(&snapshot.state);
  is_clean("get_document", tide__store_get_document(store, "t", "/d/1", NULL, &bytes, NULL, &error),
           &error);
  tide__bytes_free(&bytes);
  is_clean("list_documents",
           tide__store_list_documents(store, "t", "/d", NULL, 99, &bytes, &count, &error), &error);
  tide__bytes_free(&bytes);
  snapshot = (tide_snapshot){.version = 1, .state = {(uint8_t *)(uintptr_t)small, sizeof small}};
  is_clean("put_snapshot", tide__store_put_snapshot(store, "t", "Adder", "a0", &snapshot, &error),
           &error);
  is_clean("lease", tide__store_lease(store, "t", "thread", "owner", 60000, &lease, &error),
           &error);
  is_clean("commit_cursors",
           tide__store_commit_cursors(store, "t", "thread", "owner", lease.token, NULL, &document,
                                      1, true, &error),
           &error);
  tide__bytes_free(&lease.cursors);
  is_clean("put_documents", tide__store_put_documents(store, "t", &document, 1, &error), &error);
  is_clean("append", append(store, "t", "a2", LOGGED / 5, 1, &outcome, &error), &error);
  is_clean("append", append(store, "t", "new", 0, 2, &outcome, &error), &error);
  /* The handle is as good as ever for others. */
  OK(f, append(store, "fine", "a", position(f, store, "fine"), 1, &outcome, &f->error));
  assert_int_equal(outcome, TIDE_APPENDED);
  tide__store_close(store);
}

typedef struct image {
  uint8_t *db, *wal;
  size_t db_size, wal_size;
} image;

static void lay_out(const fixture *f, const image *i) {
  char name[256];
  write_file(f->path, i->db, i->db_size);
  snprintf(name, sizeof name, "%s-shm", f->path);
  unlink(name);
  snprintf(name, sizeof name, "%s-wal", f->path);
  unlink(name);
  if (i->wal != NULL) write_file(name, i->wal, i->wal_size);
}

/* `folded`: everything is in the file; else all commits are still in the log beside it. */
static image take_image(fixture *f, bool folded) {
  char name[256];
  image i = {0};
  make_log(f);
  if (folded) shut(f);
  i.db = read_file(f->path, &i.db_size);
  snprintf(name, sizeof name, "%s-wal", f->path);
  if (!folded) i.wal = read_file(name, &i.wal_size);
  shut(f);
  return i;
}

static uint32_t next_random(uint32_t *seed) {
  *seed ^= *seed << 13;
  *seed ^= *seed >> 17;
  *seed ^= *seed << 5;
  return *seed;
}

static void test_truncated_files(void **state) {
  fixture *f = *state;
  image whole = take_image(f, true);
  size_t step = quick() ? whole.db_size / 5 : 1009;
  for (size_t size = 1; size < whole.db_size; size += step) {
    image cut = whole;
    cut.db_size = size;
    lay_out(f, &cut);
    use_all(f, LOGGED, false);
  }
  lay_out(f, &whole);
  use_all(f, LOGGED, false);
  free(whole.db);
}

static void test_flipped_bytes(void **state) {
  fixture *f = *state;
  image whole = take_image(f, true);
  uint32_t seed = 20261123;
  uint8_t *good = whole.db;
  print_message("seed %u\n", (unsigned)seed);
  whole.db = malloc(whole.db_size);
  assert_non_null(whole.db);
  for (int round = 0; round < (quick() ? 10 : 400); round++) {
    memcpy(whole.db, good, whole.db_size);
    /* A quarter of the rounds hit the first page, with the header and the schema. */
    size_t range = round % 4 == 0 ? 4096 : whole.db_size;
    int flips = 1 + (int)(next_random(&seed) % 4);
    for (int i = 0; i < flips; i++)
      whole.db[next_random(&seed) % range] ^= (uint8_t)(1 + next_random(&seed) % 255);
    lay_out(f, &whole);
    use_all(f, LOGGED, false);
  }
  free(whole.db);
  free(good);
}

/* As after a power cut: the log ends anywhere, and what is before its end is sound. */
static void test_a_cut_log_is_a_shorter_one(void **state) {
  fixture *f = *state;
  image whole = take_image(f, false);
  size_t before = 0, step = quick() ? whole.wal_size / 5 : whole.wal_size / 150;
  for (size_t size = 0; size <= whole.wal_size; size += step) {
    int64_t commits, events;
    image cut = whole;
    cut.wal_size = size;
    lay_out(f, &cut);
    reopen(f);
    OK(f, tide__store_check(f->store, "t", &commits, &events, &f->error));
    assert_true((size_t)commits >= before);
    before = (size_t)commits;
    put(f, "t", "another", 0); /* and it goes on behind them */
    verify(f, "t", events + 1);
    shut(f);
  }
  assert_true(before > LOGGED / 2);
  free(whole.db);
  free(whole.wal);
}

static void test_a_damaged_log(void **state) {
  fixture *f = *state;
  image whole = take_image(f, false);
  uint32_t seed = 42;
  uint8_t *good = whole.wal;
  print_message("seed %u\n", (unsigned)seed);
  whole.wal = malloc(whole.wal_size);
  assert_non_null(whole.wal);
  for (int round = 0; round < (quick() ? 5 : 100); round++) {
    memcpy(whole.wal, good, whole.wal_size);
    whole.wal[next_random(&seed) % whole.wal_size] ^= (uint8_t)(1 + next_random(&seed) % 255);
    lay_out(f, &whole);
    use_all(f, LOGGED, true); /* its checksums end it before the damage */
  }
  free(whole.db);
  free(whole.wal);
  free(good);
}

static void test_wrong_rows(void **state) {
  fixture *f = *state;
  static const struct {
    const char *sql, *text;
  } wrongs[] = {
      {"DELETE FROM commits WHERE position = 30",
       "is damaged: position 31 follows where 30 is expected"},
      {"DELETE FROM streams WHERE name = 'a3'", "is damaged: a wrong value in column type"},
      {"UPDATE commits SET count = 0 WHERE position = 7",
       "is damaged: a wrong value in column count"},
      {"UPDATE commits SET count = 2147483648 WHERE position = 7", "column count"},
      {"UPDATE commits SET count = 2 WHERE position = 7", "the checksum of a commit is wrong"},
      {"UPDATE commits SET body = CAST(body || x'00' AS BLOB) WHERE position = 7",
       "the checksum of a commit"},
      {"UPDATE commits SET time = time + 1 WHERE position = 7", "the checksum of a commit"},
      {"UPDATE commits SET stream = stream + 1, version = version + 1000 WHERE position = 7",
       "the checksum of a commit"},
      {"UPDATE streams SET name = 'another' WHERE name = 'a2'", "the checksum of a commit"},
      {"UPDATE commits SET version = -1 WHERE position = 7", "column version"},
      {"UPDATE commits SET hash = x'00' WHERE position = 59", "column hash"},
      {"UPDATE commits SET hash = zeroblob(33) WHERE position = 7", "column hash"},
      {"UPDATE commits SET body = x'' WHERE position = 7", "column body"},
      {"UPDATE commits SET body = zeroblob(17000000) WHERE position = 7", "column body"},
      {"UPDATE commits SET command_id = '' WHERE position = 7", "column command_id"},
      {"UPDATE commits SET command_id = 'a' || char(0) || 'b' WHERE position = 7", "command_id"},
      {"UPDATE commits SET command_id = CAST(x'ff' AS TEXT) WHERE position = 7", "not UTF-8"},
      {"UPDATE streams SET type = CAST(zeroblob(300) AS TEXT) WHERE name = 'a2'", "column type"},
      {"UPDATE commits SET position = 9223372036854775807 WHERE position = 59", "column position"},
      {"UPDATE commits SET position = -5 WHERE position = 0", "position 1 follows where 0 is"},
      {"DROP TABLE commits", "is damaged: no such table: commits"},
      {"DROP INDEX commits_by_stream; DROP TABLE streams", "is damaged: no such table"},
  };
  image whole = take_image(f, true);
  for (size_t i = 0; i < COUNT(wrongs); i++) {
    const tide_query all = {0};
    lay_out(f, &whole);
    raw_file(f->path, wrongs[i].sql);
    reopen(f);
    int64_t read = read_through(f->store, &all, &f->error);
    if (read >= 0 || strstr(f->error.message, wrongs[i].text) == NULL)
      fail_msg("%s: %lld '%s'", wrongs[i].sql, (long long)read, f->error.message);
    assert_false(f->error.transient);
    shut(f);
    use_all(f, LOGGED, false);
  }
  free(whole.db);
}

/* ---- Pages ------------------------------------------------------------------ */

/* A scan's pages end by rows or by bytes; nothing is left out or read twice, also where
** something is written between them. */
static void test_scans_read_in_pages(void **state) {
  fixture *f = *state;
  enum { commits = 700, large = 300 * 1024 };
  uint8_t *body = calloc(1, large); /* {"b": <binary>} */
  tide_scan *scan;
  const tide_commit *commit;
  assert_non_null(body);
  reopen(f);
  static tide_commit group[commits];
  static tide_outcome outcomes[commits];
  for (int i = 0; i < commits; i++) {
    uint32_t size = i % 50 == 7 ? large : sizeof small;
    group[i] = (tide_commit){.type = "Adder",
                             .id = i % 2 == 0 ? "even" : "odd",
                             .version = i / 2,
                             .count = 1,
                             .body = size == large ? body : small,
                             .body_size = size};
  }
  const uint8_t head[] = {(uint8_t)(large & 255),
                          (uint8_t)(large >> 8 & 255),
                          (uint8_t)(large >> 16),
                          0,
                          5,
                          'b',
                          0,
                          (uint8_t)((large - 13) & 255),
                          (uint8_t)((large - 13) >> 8 & 255),
                          (uint8_t)((large - 13) >> 16),
                          0,
                          0};
  memcpy(body, head, sizeof head);
  OK(f, tide__store_append(f->store, "t", group, commits, outcomes, &f->error));
  for (int backwards = 0; backwards < 2; backwards++) {
    const tide_query all = {.from = backwards ? commits - 1 : 0, .backwards = backwards != 0};
    OK(f, tide__store_scan(f->store, "t", &all, &scan, &f->error));
    for (int i = 0; i < commits; i++) {
      int expected = backwards ? commits - 1 - i : i;
      OK(f, tide__scan_next(scan, &commit, &f->error));
      assert_non_null(commit);
      assert_int_equal(commit->position, expected);
      assert_string_equal(commit->id, group[expected].id);
      assert_int_equal(commit->body_size, group[expected].body_size);
      assert_memory_equal(commit->body, group[expected].body, commit->body_size);
      if (i % 100 == 0) put(f, "t", "more", backwards * (commits / 100) + i / 100);
    }
    tide__scan_close(scan);
  }
  verify(f, "t", commits + 2 * commits / 100);
  free(body);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(test_a_tenant_is_a_file),
      CASE(test_commits_wait_for_the_disk),
      CASE(test_reading_makes_no_file),
      CASE(test_folders),
      CASE(test_what_is_no_tenant_is_not_listed),
      CASE(test_files_of_others_are_refused_and_unchanged),
      CASE(test_the_log_of_a_refused_file_stays),
      CASE(test_an_empty_file_is_new),
      CASE(test_a_torn_creation_is_begun_again),
      CASE(test_a_newer_schema_is_refused),
      CASE(test_an_older_schema_is_migrated),
      CASE(test_a_failing_migration_changes_nothing),
      CASE(test_two_handles),
      CASE(test_two_processes_write),
      CASE(test_four_processes_write),
      CASE(test_processes_create_one_tenant),
      CASE(test_waiting_for_another_writer_ends),
      CASE(test_opening_keeps_the_locks_of_this_process),
      CASE(test_a_forked_child_leaves_the_parents_files),
      CASE(test_an_orphan_leaves_the_log),
      CASE(test_a_fork_while_the_store_is_in_use),
      CASE(test_a_deleted_file_is_noticed),
      CASE(test_a_replaced_file_is_noticed),
      CASE(test_a_deleted_log_is_noticed),
      CASE(test_at_most_max_open_are_open),
      CASE(test_threads_share_few_connections),
      CASE(test_a_full_disk),
      CASE(test_a_file_that_may_not_grow),
      CASE(test_a_read_only_folder),
      CASE(test_truncated_files),
      CASE(test_flipped_bytes),
      CASE(test_a_cut_log_is_a_shorter_one),
      CASE(test_a_damaged_log),
      CASE(test_wrong_rows),
      CASE(test_scans_read_in_pages),
  };
  return cmocka_run_group_tests_name("sqlite", tests, NULL, NULL);
}
