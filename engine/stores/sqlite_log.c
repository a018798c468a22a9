/* sqlite_log.c - a tenant's commits in SQLite: appending groups and pulled reads. */
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/names.h"
#include "stores/sqlite_tenant.h"

/* A page of a scan ends behind the commit that fills it. */
#define PAGE_ROWS_FIRST 16
#define PAGE_ROWS_MOST  256
#define PAGE_BYTES      ((size_t)1 << 20)

/* Events are counted from 0, and a count fits an int32_t. */
#define KEY_MOST (INT64_MAX - INT32_MAX)

/* The columns that a commit's checksum covers come first wherever commits are read. */
#define SUMMED 9

/* ---- Appending -------------------------------------------------------------- */

/* The head by the tenant's last commit. *torn (NULL: not asked for): that is a tombstone. */
static int read_head(tide__db *db, tide_head *head, bool *torn, tide_error *error) {
  sqlite3_stmt *statement;
  const void *hash;
  size_t size;
  const char *type;
  int64_t count;
  bool row = false;
  memset(head, 0, sizeof *head);
  if (torn != NULL) *torn = false;
  int code = tide__db_start(db, TIDE__HEAD, NULL, 0, &statement, error);
  if (code == TIDE_OK) code = tide__db_step(db, statement, &row, error);
  if (code != TIDE_OK || !row) goto end;
  code = tide__column_integer(db, statement, 0, 0, KEY_MOST, &head->position, error);
  if (code == TIDE_OK) code = tide__column_integer(db, statement, 2, 1, INT32_MAX, &count, error);
  if (code == TIDE_OK)
    code = tide__column_integer(db, statement, 3, INT64_MIN, INT64_MAX, &head->time, error);
  if (code == TIDE_OK)
    code = tide__column_blob(db, statement, 4, TIDE_HASH_SIZE, TIDE_HASH_SIZE, &hash, &size, error);
  if (code == TIDE_OK) code = tide__row_check(db, statement, SUMMED, "the last commit", error);
  if (code == TIDE_OK && torn != NULL) {
    code = tide__column_text(db, statement, 7, TIDE_NAME_MAX, false, &type, error);
    if (code == TIDE_OK) *torn = strcmp(type, TIDE_TOMBSTONE) == 0;
  }
  if (code != TIDE_OK) goto end;
  head->position += count;
  memcpy(head->hash, hash, TIDE_HASH_SIZE);
end:
  tide__db_end(statement);
  return code;
}

/* The aggregate's small key, -1 if it has no commit. */
static int find_stream(tide__db *db, const char *type, const char *id, int64_t *stream,
                       tide_error *error) {
  sqlite3_stmt *statement;
  bool row = false;
  const tide__value values[] = {tide__text(type), tide__text(id)};
  *stream = -1;
  int code = tide__db_start(db, TIDE__FIND_STREAM, values, 2, &statement, error);
  if (code == TIDE_OK) code = tide__db_step(db, statement, &row, error);
  if (code == TIDE_OK && row)
    code = tide__column_integer(db, statement, 0, 0, INT64_MAX, stream, error);
  tide__db_end(statement);
  return code;
}

/* The commit with this command id, -1 if there is none. */
static int find_command(tide__db *db, int64_t stream, const char *command_id, int64_t *position,
                        int64_t *version, tide_error *error) {
  sqlite3_stmt *statement;
  bool row = false;
  const tide__value values[] = {tide__integer(stream), tide__text(command_id)};
  *position = *version = -1;
  int code = tide__db_start(db, TIDE__FIND_COMMAND, values, 2, &statement, error);
  if (code == TIDE_OK) code = tide__db_step(db, statement, &row, error);
  if (code == TIDE_OK && row) {
    code = tide__column_integer(db, statement, 0, 0, KEY_MOST, position, error);
    if (code == TIDE_OK) code = tide__column_integer(db, statement, 1, 0, KEY_MOST, version, error);
  }
  tide__db_end(statement);
  return code;
}

/* What comes behind the aggregate's last commit. */
static int next_version(tide__db *db, int64_t stream, const char *type, const char *id,
                        int64_t *next, tide_error *error) {
  sqlite3_stmt *statement;
  int64_t count = 0;
  bool row = false;
  const tide__value values[] = {tide__integer(stream), tide__text(type), tide__text(id)};
  *next = 0;
  int code = tide__db_start(db, TIDE__LAST_OF_STREAM, values, 3, &statement, error);
  if (code == TIDE_OK) code = tide__db_step(db, statement, &row, error);
  if (code == TIDE_OK && row) {
    code = tide__column_integer(db, statement, 1, 0, KEY_MOST, next, error);
    if (code == TIDE_OK) code = tide__column_integer(db, statement, 2, 1, INT32_MAX, &count, error);
    if (code == TIDE_OK)
      code = tide__row_check(db, statement, SUMMED, "an aggregate's last commit", error);
    *next += count;
  }
  tide__db_end(statement);
  return code;
}

int tide__sqlite_aggregate(tide__db *db, const char *type, const char *id, int64_t *stream,
                           int64_t *next, tide_error *error) {
  *next = 0;
  int code = find_stream(db, type, id, stream, error);
  if (code == TIDE_OK && *stream >= 0) code = next_version(db, *stream, type, id, next, error);
  return code;
}

/* A group's transaction, and the aggregate that its last commit was for. */
typedef struct group {
  tide__db *db;
  tide_head head;
  int64_t now;
  size_t appended;
  const char *type, *id; /* NULL: none yet */
  int64_t stream, next;
} group;

static int turn_to_aggregate(group *g, const tide_commit *commit, tide_error *error) {
  if (g->type != NULL && strcmp(g->id, commit->id) == 0 && strcmp(g->type, commit->type) == 0)
    return TIDE_OK;
  g->type = NULL;
  int code = tide__sqlite_aggregate(g->db, commit->type, commit->id, &g->stream, &g->next, error);
  if (code != TIDE_OK) return code;
  g->type = commit->type;
  g->id = commit->id;
  return TIDE_OK;
}

/* Gives an aggregate that has no commit yet its key. */
static int add_stream(group *g, const tide_commit *commit, tide_error *error) {
  const tide__value values[] = {tide__text(commit->type), tide__text(commit->id)};
  if (g->stream >= 0) return TIDE_OK;
  int code = tide__db_run(g->db, TIDE__ADD_STREAM, values, 2, error);
  if (code == TIDE_OK) g->stream = sqlite3_last_insert_rowid(g->db->sqlite);
  return code;
}

/* *added is false where the unique key (aggregate, version) refused it. */
static int insert_commit(group *g, const tide_commit *commit, bool *added, tide_error *error) {
  sqlite3_stmt *statement;
  tide__value values[SUMMED + 2] = {
      tide__integer(commit->position),
      tide__integer(commit->version),
      tide__integer(commit->count),
      tide__integer(commit->time),
      tide__blob(commit->hash, TIDE_HASH_SIZE),
      tide__text(commit->command_id),
      tide__blob(commit->body, commit->body_size),
      tide__text(commit->type),
      tide__text(commit->id),
  };
  values[SUMMED] = tide__sum(values, SUMMED);
  values[SUMMED + 1] = tide__integer(g->stream);
  *added = false;
  int code = tide__db_start(g->db, TIDE__ADD_COMMIT, values, SUMMED + 2, &statement, error);
  if (code != TIDE_OK) return code;
  int result = sqlite3_step(statement);
  *added = result == SQLITE_DONE;
  if (result != SQLITE_DONE && result != SQLITE_CONSTRAINT_UNIQUE)
    code = tide__db_fail(g->db, result, "written", error);
  tide__db_end(statement);
  return code;
}

static int append_one(group *g, tide_commit *commit, tide_outcome *outcome, tide_error *error) {
  int64_t position = -1, version;
  bool added;
  int code = turn_to_aggregate(g, commit, error);
  if (code != TIDE_OK) return code;
  if (commit->command_id != NULL && g->stream >= 0) {
    code = find_command(g->db, g->stream, commit->command_id, &position, &version, error);
    if (code != TIDE_OK) return code;
    if (position >= 0) {
      commit->position = position;
      *outcome = TIDE_DUPLICATE;
      return TIDE_OK;
    }
  }
  *outcome = TIDE_CONFLICT;
  if (commit->version != g->next) return TIDE_OK;
  code = add_stream(g, commit, error);
  if (code != TIDE_OK) return code;
  tide_head before = g->head;
  code = tide__commit_seal(commit, &g->head, g->now, error);
  if (code == TIDE_OK) code = insert_commit(g, commit, &added, error);
  if (code != TIDE_OK) return code;
  if (!added) {
    g->head = before;
    /* It had no commit, and its row must not stay without one. */
    if (g->next == 0) return tide__db_damaged(g->db, error, "a new aggregate has commits already");
    return TIDE_OK;
  }
  g->next += commit->count;
  g->appended++;
  *outcome = TIDE_APPENDED;
  return TIDE_OK;
}

int tide__sqlite_append(tide_store *store, const char *tenant, tide_commit *commits, size_t count,
                        tide_outcome *outcomes, tide_error *error) {
  tide__tenant *taken;
  group g = {0};
  bool first = false; /* can anything be appended to a tenant without commits? */
  for (size_t i = 0; i < count; i++)
    first = first || commits[i].version == 0;
  int code = tide__tenant_take(store, tenant, first, &taken, &g.db, error);
  if (code != TIDE_OK) return code;
  if (taken == NULL) {
    for (size_t i = 0; i < count; i++)
      outcomes[i] = TIDE_CONFLICT;
    return TIDE_OK;
  }
  code = tide__db_begin(g.db, error);
  if (code != TIDE_OK) goto end;
  code = read_head(g.db, &g.head, NULL, error);
  g.now = tide__now();
  for (size_t i = 0; i < count && code == TIDE_OK; i++)
    code = append_one(&g, &commits[i], &outcomes[i], error);
  if (code == TIDE_OK && g.appended > 0) {
    code = tide__db_commit(g.db, "the commits were", error);
  } else {
    tide__db_rollback(g.db);
  }
end:
  tide__tenant_give(store, taken);
  return code;
}

/* ---- Importing -------------------------------------------------------------- */

static int import_one(group *g, const tide_commit *commit, tide_error *error) {
  bool added = false;
  int code = turn_to_aggregate(g, commit, error);
  if (code != TIDE_OK) return code;
  if (commit->version != g->next) return tide__fail_import(commit, g->next, error);
  code = add_stream(g, commit, error);
  if (code == TIDE_OK) code = insert_commit(g, commit, &added, error);
  if (code != TIDE_OK) return code;
  if (!added) return tide__fail_import(commit, g->next, error); /* a command id comes twice */
  g->next += commit->count;
  return TIDE_OK;
}

int tide__sqlite_import(tide_store *store, const char *tenant, const tide_commit *commits,
                        size_t count, tide_error *error) {
  tide__tenant *taken;
  group g = {0};
  bool torn = false;
  int code = tide__tenant_take(store, tenant, false, &taken, &g.db, error);
  /* A tenant that is not there yet is made only for what can be its beginning. */
  if (code == TIDE_OK && taken == NULL)
    code = tide__import_follows(&commits[0], &g.head, false, error);
  if (code == TIDE_OK && taken == NULL)
    code = tide__tenant_take(store, tenant, true, &taken, &g.db, error);
  if (code != TIDE_OK) goto end;
  code = tide__db_begin(g.db, error);
  if (code != TIDE_OK) goto end;
  code = read_head(g.db, &g.head, &torn, error);
  if (code == TIDE_OK) code = tide__import_follows(&commits[0], &g.head, torn, error);
  for (size_t i = 0; i < count && code == TIDE_OK; i++)
    code = import_one(&g, &commits[i], error);
  if (code == TIDE_OK) {
    code = tide__db_commit(g.db, "the commits were", error);
  } else {
    tide__db_rollback(g.db);
  }
end:
  tide__tenant_give(store, taken);
  return code;
}

/* ---- Looking up ------------------------------------------------------------- */

int tide__sqlite_head(tide_store *store, const char *tenant, tide_head *head, tide_error *error) {
  tide__tenant *taken;
  tide__db *db;
  tide_head found = {0};
  int code = tide__tenant_take(store, tenant, false, &taken, &db, error);
  if (code == TIDE_OK && taken != NULL) code = read_head(db, &found, NULL, error);
  tide__tenant_give(store, taken);
  if (code == TIDE_OK) *head = found;
  return code;
}

int tide__sqlite_find_command(tide_store *store, const char *tenant, const char *type,
                              const char *id, const char *command_id, int64_t *position,
                              int64_t *version, tide_error *error) {
  tide__tenant *taken;
  tide__db *db;
  int64_t stream = -1;
  *position = *version = -1;
  int code = tide__tenant_take(store, tenant, false, &taken, &db, error);
  if (code == TIDE_OK && taken != NULL) code = find_stream(db, type, id, &stream, error);
  if (code == TIDE_OK && stream >= 0)
    code = find_command(db, stream, command_id, position, version, error);
  tide__tenant_give(store, taken);
  return code;
}

/* ---- Scanning --------------------------------------------------------------- */

#define NOTHING SIZE_MAX /* the offset of a text that is NULL */

/* A row of the page: its commit, with offsets into the page's bytes for pointers. */
typedef struct page_row {
  tide_commit commit;
  size_t type, id, command_id, body;
} page_row;

typedef struct sqlite_scan {
  tide_scan base;
  char tenant[TIDE_TENANT_MAX + 1];
  char *type, *id; /* NULL: the whole tenant */
  bool backwards;
  bool ended;        /* nothing comes any more: backwards, or by the limit */
  bool found;        /* a commit: it was at `last`, and `next` is the edge of its neighbour */
  int64_t last;      /* versions or positions */
  int64_t next;      /* before a commit was found: the query's `from` */
  int64_t limit;     /* commits still wanted, -1: all */
  int64_t page_rows; /* of the next page */
  page_row *rows;    /* PAGE_ROWS_MOST */
  size_t count, at;  /* rows in the page, and which is next */
  uint8_t *bytes;
  size_t used, room;
  tide_commit commit; /* handed out */
} sqlite_scan;

int tide__sqlite_scan(tide_store *store, const char *tenant, const tide_query *query,
                      tide_scan **scan, tide_error *error) {
  *scan = NULL;
  int code = tide__sqlite_own(store, error);
  if (code != TIDE_OK) return code;
  sqlite_scan *opened = calloc(1, sizeof *opened);
  if (opened == NULL) return tide__fail_memory(error);
  opened->base.store = store;
  memcpy(opened->tenant, tenant, strlen(tenant) + 1); /* valid, so it fits */
  opened->backwards = query->backwards;
  opened->next = query->from;
  opened->limit = query->limit > 0 ? query->limit : -1;
  opened->page_rows = PAGE_ROWS_FIRST;
  opened->rows = malloc(PAGE_ROWS_MOST * sizeof *opened->rows);
  if (opened->rows == NULL) goto fail;
  if (query->type != NULL) {
    opened->type = strdup(query->type);
    opened->id = strdup(query->id);
    if (opened->type == NULL || opened->id == NULL) goto fail;
  }
  *scan = &opened->base;
  return TIDE_OK;
fail:
  tide__sqlite_scan_close(&opened->base);
  return tide__fail_memory(error);
}

void tide__sqlite_scan_close(tide_scan *base) {
  sqlite_scan *scan = (sqlite_scan *)base;
  if (scan == NULL) return;
  free(scan->type);
  free(scan->id);
  free(scan->rows);
  free(scan->bytes);
  free(scan);
}

/* Copies into the page's bytes. */
static int keep(sqlite_scan *scan, const void *data, size_t size, size_t *offset,
                tide_error *error) {
  if (size > scan->room - scan->used) {
    size_t room = scan->room == 0 ? 16 * 1024 : scan->room * 2;
    if (room < scan->used + size) room = scan->used + size;
    uint8_t *grown = realloc(scan->bytes, room);
    if (grown == NULL) return tide__fail_memory(error);
    scan->bytes = grown;
    scan->room = room;
  }
  memcpy(scan->bytes + scan->used, data, size);
  *offset = scan->used;
  scan->used += size;
  return TIDE_OK;
}

static int keep_text(sqlite_scan *scan, tide__db *db, sqlite3_stmt *statement, int column,
                     bool optional, size_t *offset, tide_error *error) {
  const char *text;
  int code = tide__column_text(db, statement, column, TIDE_NAME_MAX, optional, &text, error);
  if (code != TIDE_OK) return code;
  *offset = NOTHING;
  if (text == NULL) return TIDE_OK;
  size_t size = strlen(text);
  if (!tide__is_utf8(text, size)) return tide__db_damaged(db, error, "a text that is not UTF-8");
  return keep(scan, text, size + 1, offset, error);
}

/* Reads the statement's row, in the order of COMMIT_COLUMNS and STREAM_COLUMNS. */
static int read_row(sqlite_scan *scan, tide__db *db, sqlite3_stmt *statement, page_row *to,
                    tide_error *error) {
  tide_commit *c = &to->commit;
  const void *data;
  size_t size;
  int64_t count = 0;
  memset(to, 0, sizeof *to);
  int code = tide__column_integer(db, statement, 0, 0, KEY_MOST, &c->position, error);
  if (code == TIDE_OK)
    code = tide__column_integer(db, statement, 1, 0, KEY_MOST, &c->version, error);
  if (code == TIDE_OK) code = tide__column_integer(db, statement, 2, 1, INT32_MAX, &count, error);
  if (code == TIDE_OK)
    code = tide__column_integer(db, statement, 3, INT64_MIN, INT64_MAX, &c->time, error);
  if (code == TIDE_OK)
    code = tide__column_blob(db, statement, 4, TIDE_HASH_SIZE, TIDE_HASH_SIZE, &data, &size, error);
  if (code != TIDE_OK) return code;
  c->count = (int32_t)count;
  memcpy(c->hash, data, TIDE_HASH_SIZE);
  code = keep_text(scan, db, statement, 5, true, &to->command_id, error);
  if (code == TIDE_OK && scan->type == NULL) {
    code = keep_text(scan, db, statement, 7, false, &to->type, error);
    if (code == TIDE_OK) code = keep_text(scan, db, statement, 8, false, &to->id, error);
  }
  if (code == TIDE_OK)
    code = tide__column_blob(db, statement, 6, 5, TIDE_BODY_MAX, &data, &size, error);
  if (code == TIDE_OK) code = tide__row_check(db, statement, SUMMED, "a commit", error);
  if (code != TIDE_OK) return code;
  c->body_size = size;
  return keep(scan, data, size, &to->body, error);
}

/* Finds where a page starts: at first, forwards, at the commit that holds `from`. */
static int find_start(sqlite_scan *scan, tide__db *db, int64_t *start, tide_error *error) {
  sqlite3_stmt *statement;
  int64_t key, count;
  bool row = false;
  const tide__value values[] = {tide__integer(scan->next), tide__text(scan->type),
                                tide__text(scan->id)};
  *start = scan->next;
  /* Not `next`: a commit that overlaps its neighbour must not be passed over. */
  if (scan->found) *start = scan->backwards ? scan->last - 1 : scan->last + 1;
  if (scan->found || scan->backwards || scan->next == 0) return TIDE_OK;
  int code = tide__db_start(db, scan->type == NULL ? TIDE__BEFORE : TIDE__BEFORE_OF_STREAM, values,
                            scan->type == NULL ? 1 : 3, &statement, error);
  if (code == TIDE_OK) code = tide__db_step(db, statement, &row, error);
  if (code == TIDE_OK && row) {
    code = tide__column_integer(db, statement, 0, 0, KEY_MOST, &key, error);
    if (code == TIDE_OK) code = tide__column_integer(db, statement, 1, 1, INT32_MAX, &count, error);
    if (code == TIDE_OK && key + count > scan->next) *start = key;
  }
  tide__db_end(statement);
  return code;
}

/* Is this row the one that comes next? A gap in what was read would be a commit that its
** reader never sees. */
static int check_order(sqlite_scan *scan, tide__db *db, const page_row *r, tide_error *error) {
  int64_t key = scan->type == NULL ? r->commit.position : r->commit.version;
  const char *what = scan->type == NULL ? "position" : "version";
  int64_t edge = scan->backwards ? key + r->commit.count - 1 : key;
  if (scan->found ? edge != scan->next : !scan->backwards && edge > scan->next)
    return tide__db_damaged(db, error, "%s %lld follows where %lld is expected", what,
                            (long long)edge, (long long)scan->next);
  scan->found = true;
  scan->last = key;
  scan->next = scan->backwards ? key - 1 : key + r->commit.count;
  return TIDE_OK;
}

static int read_page(sqlite_scan *scan, tide__db *db, tide_error *error) {
  static const tide__sql statements[2][2] = {{TIDE__SCAN, TIDE__SCAN_BACK},
                                             {TIDE__SCAN_STREAM, TIDE__SCAN_STREAM_BACK}};
  sqlite3_stmt *statement = NULL;
  int64_t start, wanted = scan->page_rows;
  bool more = true;
  tide_error met = {0};
  if (scan->limit >= 0 && scan->limit < wanted) wanted = scan->limit;
  int code = find_start(scan, db, &start, error);
  if (code != TIDE_OK) return code;
  const tide__value values[] = {tide__integer(start), tide__integer(wanted), tide__text(scan->type),
                                tide__text(scan->id)};
  code = tide__db_start(db, statements[scan->type != NULL][scan->backwards], values,
                        scan->type != NULL ? 4 : 2, &statement, &met);
  while (code == TIDE_OK && (int64_t)scan->count < wanted && scan->used < PAGE_BYTES) {
    page_row *to = &scan->rows[scan->count];
    code = tide__db_step(db, statement, &more, &met);
    if (code != TIDE_OK || !more) break;
    code = read_row(scan, db, statement, to, &met);
    if (code == TIDE_OK) code = check_order(scan, db, to, &met);
    if (code == TIDE_OK) scan->count++;
  }
  tide__db_end(statement);
  if (code == TIDE_OK && !more && scan->backwards && scan->found && scan->last > 0)
    code = tide__db_damaged(db, &met, "nothing is before %s %lld",
                            scan->type == NULL ? "position" : "version", (long long)scan->last);
  /* What was good before it is handed out first; the next page meets the error again. */
  if (code != TIDE_OK && scan->count == 0) {
    if (error != NULL) *error = met;
    return code;
  }
  scan->page_rows = scan->page_rows * 4 < PAGE_ROWS_MOST ? scan->page_rows * 4 : PAGE_ROWS_MOST;
  return TIDE_OK;
}

int tide__sqlite_scan_next(tide_scan *base, const tide_commit **commit, tide_error *error) {
  sqlite_scan *scan = (sqlite_scan *)base;
  *commit = NULL;
  if (scan->at == scan->count) {
    tide__tenant *taken;
    tide__db *db;
    scan->at = scan->count = scan->used = 0;
    if (scan->room > 2 * PAGE_BYTES) { /* after a large commit */
      free(scan->bytes);
      scan->bytes = NULL;
      scan->room = 0;
    }
    if (scan->ended || scan->limit == 0) return tide__sqlite_own(base->store, error);
    int code = tide__tenant_take(base->store, scan->tenant, false, &taken, &db, error);
    if (code == TIDE_OK && taken != NULL) code = read_page(scan, db, error);
    tide__tenant_give(base->store, taken);
    if (code != TIDE_OK) return code;
    if (scan->count == 0) {
      scan->ended = scan->backwards;
      return TIDE_OK;
    }
  }
  const page_row *r = &scan->rows[scan->at++];
  tide_commit *c = &scan->commit;
  const char *text = (const char *)scan->bytes;
  *c = r->commit;
  c->type = scan->type != NULL ? scan->type : text + r->type;
  c->id = scan->id != NULL ? scan->id : text + r->id;
  c->command_id = r->command_id == NOTHING ? NULL : text + r->command_id;
  c->body = scan->bytes + r->body;
  if (scan->limit > 0) scan->limit--;
  *commit = c;
  return TIDE_OK;
}
