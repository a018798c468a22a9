/* raw_sqlite.c FOLDER ROWS BATCH STREAMS - what SQLite alone does: rows of 200 bytes with a
** unique index, WAL, synchronous=FULL, BATCH rows a transaction, over STREAMS streams in
** turn. Prints rows a second. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static sqlite3 *db;

static void check(int result, const char *what) {
  if (result == SQLITE_OK || result == SQLITE_DONE) return;
  fprintf(stderr, "raw_sqlite: %s: %s\n", what, sqlite3_errmsg(db));
  exit(1);
}

static void run(const char *sql) {
  check(sqlite3_exec(db, sql, NULL, NULL, NULL), sql);
}

static double now(void) {
  struct timespec time;
  (void)clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int count, char **arguments) {
  char path[4096];
  unsigned char body[200];
  sqlite3_stmt *insert, *begin, *commit;
  if (count != 5) {
    fprintf(stderr, "usage: raw_sqlite FOLDER ROWS BATCH STREAMS\n");
    return 2;
  }
  const long rows = atol(arguments[2]), batch = atol(arguments[3]), streams = atol(arguments[4]);
  if (rows < 1 || batch < 1 || streams < 1) return 2;
  snprintf(path, sizeof path, "%s/raw.db", arguments[1]);
  memset(body, 'x', sizeof body);
  check(sqlite3_open(path, &db), "open");
  run("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
      "CREATE TABLE events(position INTEGER PRIMARY KEY, stream INTEGER, version INTEGER, body "
      "BLOB);"
      "CREATE UNIQUE INDEX by_stream ON events(stream, version)");
  check(sqlite3_prepare_v2(db, "INSERT INTO events VALUES(?1, ?2, ?3, ?4)", -1, &insert, NULL),
        "prepare");
  check(sqlite3_prepare_v2(db, "BEGIN IMMEDIATE", -1, &begin, NULL), "prepare");
  check(sqlite3_prepare_v2(db, "COMMIT", -1, &commit, NULL), "prepare");
  const double start = now();
  for (long row = 0; row < rows; row++) {
    if (row % batch == 0) {
      check(sqlite3_step(begin), "begin");
      check(sqlite3_reset(begin), "begin");
    }
    check(sqlite3_bind_int64(insert, 1, row), "bind");
    check(sqlite3_bind_int64(insert, 2, row % streams), "bind");
    check(sqlite3_bind_int64(insert, 3, row / streams), "bind");
    check(sqlite3_bind_blob(insert, 4, body, sizeof body, SQLITE_STATIC), "bind");
    check(sqlite3_step(insert), "insert");
    check(sqlite3_reset(insert), "insert");
    if (row % batch == batch - 1 || row == rows - 1) {
      check(sqlite3_step(commit), "commit");
      check(sqlite3_reset(commit), "commit");
    }
  }
  printf("%.0f\n", (double)rows / (now() - start));
  sqlite3_finalize(insert);
  sqlite3_finalize(begin);
  sqlite3_finalize(commit);
  check(sqlite3_close(db), "close");
  return 0;
}
