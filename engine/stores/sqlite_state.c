/* sqlite_state.c - what is kept beside a tenant's log in SQLite: snapshots, leases with
** their cursors, and documents. */
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/names.h"
#include "stores/sqlite_tenant.h"

/* ---- Snapshots -------------------------------------------------------------- */

int tide__sqlite_get_snapshot(tide_store *store, const char *tenant, const char *type,
                              const char *id, tide_snapshot *snapshot, tide_error *error) {
  const tide__value values[] = {tide__text(type), tide__text(id)};
  sqlite3_stmt *statement = NULL;
  tide__tenant *taken;
  tide__db *db;
  const void *data;
  size_t size;
  bool row = false, sound = false;
  tide_snapshot found = {0};
  int code = tide__tenant_take(store, tenant, false, &taken, &db, error);
  if (code != TIDE_OK || taken == NULL) goto end;
  code = tide__db_start(db, TIDE__GET_SNAPSHOT, values, 2, &statement, error);
  if (code == TIDE_OK) code = tide__db_step(db, statement, &row, error);
  if (code != TIDE_OK || !row) goto end;
  code = tide__column_integer(db, statement, 0, 0, INT64_MAX, &found.version, error);
  if (code == TIDE_OK)
    code = tide__column_blob(db, statement, 1, TIDE_CODE_SIZE, TIDE_CODE_SIZE, &data, &size, error);
  if (code != TIDE_OK) goto end;
  memcpy(found.code, data, TIDE_CODE_SIZE);
  code = tide__column_bson(db, statement, 2, &found.state, error);
  if (code == TIDE_OK) code = tide__row_sum(statement, 5, &sound, error);
end:
  tide__db_end(statement);
  tide__tenant_give(store, taken);
  /* It is only a cache: a damaged one is none. */
  if (code == TIDE_OK && sound)
    *snapshot = found;
  else
    tide__bytes_free(&found.state);
  return code;
}

static int put_snapshot(tide__db *db, const char *type, const char *id,
                        const tide_snapshot *snapshot, tide_error *error) {
  int64_t stream, events;
  int code = tide__db_begin(db, error);
  if (code != TIDE_OK) return code;
  code = tide__sqlite_aggregate(db, type, id, &stream, &events, error);
  if (code == TIDE_OK && snapshot->version >= events)
    code = tide__fail(error, TIDE_INVALID_ARGUMENT, "version",
                      "a snapshot of version %lld, but the aggregate has %lld events",
                      (long long)snapshot->version, (long long)events);
  tide__value values[7] = {
      tide__integer(snapshot->version),
      tide__blob(snapshot->code, TIDE_CODE_SIZE),
      tide__blob(snapshot->state.data, snapshot->state.size),
      tide__text(type),
      tide__text(id),
  };
  values[5] = tide__sum(values, 5);
  values[6] = tide__integer(stream);
  if (code == TIDE_OK) code = tide__db_run(db, TIDE__PUT_SNAPSHOT, values, 7, error);
  if (code == TIDE_OK) return tide__db_commit(db, "the snapshot was", error);
  tide__db_rollback(db);
  return code;
}

int tide__sqlite_put_snapshot(tide_store *store, const char *tenant, const char *type,
                              const char *id, const tide_snapshot *snapshot, tide_error *error) {
  tide__tenant *taken;
  tide__db *db;
  int code = tide__tenant_take(store, tenant, false, &taken, &db, error);
  if (code != TIDE_OK) return code;
  if (taken == NULL)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "version",
                      "a snapshot of version %lld, but the aggregate has no events",
                      (long long)snapshot->version);
  code = tide__db_flush_commits(db, false, error);
  if (code == TIDE_OK) code = put_snapshot(db, type, id, snapshot, error);
  /* On every path: the next commit on this connection must be durable. */
  if (tide__db_flush_commits(db, true, NULL) != TIDE_OK) db->broken = true;
  tide__tenant_give(store, taken);
  return code;
}

/* ---- Documents -------------------------------------------------------------- */

/* Inside a transaction. */
static int write_documents(tide__db *db, const tide_document *documents, size_t count,
                           tide_error *error) {
  int code = TIDE_OK;
  for (size_t i = 0; i < count && code == TIDE_OK; i++) {
    const tide_document *d = &documents[i];
    tide__value values[3] = {tide__text(d->path), tide__blob(d->body, d->size)};
    values[2] = tide__sum(values, 2);
    code = d->body == NULL ? tide__db_run(db, TIDE__DELETE_DOCUMENT, values, 1, error)
                           : tide__db_run(db, TIDE__PUT_DOCUMENT, values, 3, error);
  }
  return code;
}

int tide__sqlite_put_documents(tide_store *store, const char *tenant,
                               const tide_document *documents, size_t count, tide_error *error) {
  tide__tenant *taken;
  tide__db *db;
  bool any = false; /* deleting makes no tenant */
  for (size_t i = 0; i < count; i++)
    any = any || documents[i].body != NULL;
  int code = tide__tenant_take(store, tenant, any, &taken, &db, error);
  if (code != TIDE_OK || taken == NULL) return code;
  code = tide__db_begin(db, error);
  if (code != TIDE_OK) goto end;
  code = write_documents(db, documents, count, error);
  if (code == TIDE_OK) {
    code = tide__db_commit(db, "the documents were", error);
  } else {
    tide__db_rollback(db);
  }
end:
  tide__tenant_give(store, taken);
  return code;
}

int tide__sqlite_get_document(tide_store *store, const char *tenant, const char *path,
                              const char *writer, tide_bytes *body, int64_t *reflects,
                              tide_error *error) {
  (void)writer; /* documents are committed with the cursors */
  const tide__value values[] = {tide__text(path)};
  sqlite3_stmt *statement = NULL;
  tide__tenant *taken;
  tide__db *db;
  bool row = false;
  tide_bytes found = {0};
  int code = tide__tenant_take(store, tenant, false, &taken, &db, error);
  if (code == TIDE_OK && taken != NULL)
    code = tide__db_start(db, TIDE__GET_DOCUMENT, values, 1, &statement, error);
  if (code == TIDE_OK && taken != NULL) code = tide__db_step(db, statement, &row, error);
  if (code == TIDE_OK && row) code = tide__column_bson(db, statement, 1, &found, error);
  if (code == TIDE_OK && row) code = tide__row_check(db, statement, 2, "the document", error);
  if (code != TIDE_OK) tide__bytes_free(&found);
  tide__db_end(statement);
  tide__tenant_give(store, taken);
  if (code == TIDE_OK) {
    *body = found;
    *reflects = 0;
  }
  return code;
}

/* Adds a text with its NUL; *room is what bytes->data has. */
static int add_text(tide_bytes *bytes, size_t *room, const char *text, tide_error *error) {
  size_t size = strlen(text) + 1;
  if (size > *room - bytes->size) {
    size_t wanted = *room * 2 > bytes->size + size ? *room * 2 : bytes->size + size;
    uint8_t *grown = realloc(bytes->data, wanted);
    if (grown == NULL) return tide__fail_memory(error);
    bytes->data = grown;
    *room = wanted;
  }
  memcpy(bytes->data + bytes->size, text, size);
  bytes->size += size;
  return TIDE_OK;
}

int tide__sqlite_list_documents(tide_store *store, const char *tenant, const char *prefix,
                                const char *after, size_t limit, tide_bytes *paths, size_t *count,
                                tide_error *error) {
  sqlite3_stmt *statement = NULL;
  tide__tenant *taken;
  tide__db *db;
  size_t room = 0, found = 0, size = strlen(prefix);
  tide_bytes list = {0};
  const char *path;
  bool row, behind = after != NULL && strcmp(after, prefix) >= 0;
  const tide__value values[] = {tide__text(behind ? after : prefix),
                                tide__integer(limit > INT64_MAX ? INT64_MAX : (int64_t)limit)};
  int code = tide__tenant_take(store, tenant, false, &taken, &db, error);
  if (code != TIDE_OK || taken == NULL) goto end;
  code =
      tide__db_start(db, behind ? TIDE__LIST_AFTER : TIDE__LIST_FROM, values, 2, &statement, error);
  while (code == TIDE_OK && found < limit) {
    code = tide__db_step(db, statement, &row, error);
    if (code != TIDE_OK || !row) break;
    code = tide__column_text(db, statement, 0, TIDE_PATH_MAX, false, &path, error);
    if (code != TIDE_OK || strncmp(path, prefix, size) != 0) break;
    code = add_text(&list, &room, path, error);
    found++;
  }
end:
  tide__db_end(statement);
  tide__tenant_give(store, taken);
  if (code == TIDE_OK) {
    *paths = list;
    *count = found;
  } else {
    tide__bytes_free(&list);
  }
  return code;
}

/* ---- Leases and cursors ----------------------------------------------------- */

/* A thread's row; one that is not there is nobody's, with token 0. */
typedef struct thread_row {
  char owner[TIDE_NAME_MAX + 1]; /* "": nobody */
  int64_t token, until;
  tide_bytes cursors;
} thread_row;

static int no_cursors(tide_bytes *cursors, tide_error *error) {
  static const uint8_t empty[] = {5, 0, 0, 0, 0}; /* {} */
  cursors->data = malloc(sizeof empty);
  if (cursors->data == NULL) return tide__fail_memory(error);
  memcpy(cursors->data, empty, sizeof empty);
  cursors->size = sizeof empty;
  return TIDE_OK;
}

static int read_thread(tide__db *db, const char *thread, thread_row *to, tide_error *error) {
  const tide__value values[] = {tide__text(thread)};
  sqlite3_stmt *statement;
  const char *owner;
  bool row = false;
  memset(to, 0, sizeof *to);
  int code = tide__db_start(db, TIDE__GET_THREAD, values, 1, &statement, error);
  if (code == TIDE_OK) code = tide__db_step(db, statement, &row, error);
  if (code != TIDE_OK) goto end;
  if (!row) {
    code = no_cursors(&to->cursors, error);
    goto end;
  }
  code = tide__column_text(db, statement, 1, TIDE_NAME_MAX, true, &owner, error);
  if (code != TIDE_OK) goto end;
  if (owner != NULL) memcpy(to->owner, owner, strlen(owner) + 1); /* at most TIDE_NAME_MAX */
  code = tide__column_integer(db, statement, 2, 0, INT64_MAX - 1, &to->token, error);
  if (code == TIDE_OK)
    code = tide__column_integer(db, statement, 3, INT64_MIN, INT64_MAX, &to->until, error);
  if (code == TIDE_OK) code = tide__column_bson(db, statement, 4, &to->cursors, error);
  if (code == TIDE_OK) code = tide__row_check(db, statement, 5, "a thread", error);
end:
  tide__db_end(statement);
  return code;
}

static int write_thread(tide__db *db, const char *thread, const char *owner, int64_t token,
                        int64_t until, const tide_bytes *cursors, tide_error *error) {
  tide__value values[6] = {tide__text(thread), tide__text(owner), tide__integer(token),
                           tide__integer(until), tide__blob(cursors->data, cursors->size)};
  values[5] = tide__sum(values, 5);
  return tide__db_run(db, TIDE__PUT_THREAD, values, 6, error);
}

int tide__sqlite_lease(tide_store *store, const char *tenant, const char *thread, const char *owner,
                       int64_t duration, tide_lease *lease, tide_error *error) {
  tide__tenant *taken;
  tide__db *db;
  thread_row now_has = {0};
  tide_lease given = {0};
  int code = tide__tenant_take(store, tenant, true, &taken, &db, error);
  if (code != TIDE_OK) return code;
  code = tide__db_begin(db, error);
  if (code != TIDE_OK) goto end;
  code = read_thread(db, thread, &now_has, error);
  if (code != TIDE_OK) {
    tide__db_rollback(db);
    goto end;
  }
  int64_t now = tide__now();
  given.token = now_has.token;
  given.until = now_has.until;
  if (tide__lease_of_another(now_has.owner, now_has.until, owner, now)) {
    tide__db_rollback(db);
    goto end;
  }
  given.held = true;
  given.token++;
  given.until = now + duration;
  code = write_thread(db, thread, owner, given.token, given.until, &now_has.cursors, error);
  if (code != TIDE_OK) {
    tide__db_rollback(db);
    goto end;
  }
  /* Unknown to the caller is safe: the lease expires, the next token is larger. */
  code = tide__db_commit(db, "the lease was", error);
  if (code != TIDE_OK) goto end;
  given.cursors = now_has.cursors;
  now_has.cursors = (tide_bytes){0};
end:
  tide__tenant_give(store, taken);
  tide__bytes_free(&now_has.cursors);
  if (code == TIDE_OK) *lease = given;
  return code;
}

int tide__sqlite_commit_cursors(tide_store *store, const char *tenant, const char *thread,
                                const char *owner, int64_t token, const tide_bytes *cursors,
                                const tide_document *documents, size_t count, bool release,
                                tide_error *error) {
  tide__tenant *taken;
  tide__db *db;
  thread_row has = {0};
  int code = tide__tenant_take(store, tenant, false, &taken, &db, error);
  if (code != TIDE_OK) return code;
  if (taken == NULL) return tide__fail_lease(thread, token, 0, error);
  code = tide__db_begin(db, error);
  if (code != TIDE_OK) goto end;
  code = read_thread(db, thread, &has, error);
  if (code == TIDE_OK &&
      (has.token != token || strcmp(has.owner, owner) != 0 || has.until <= tide__now()))
    code = tide__fail_lease(thread, token, has.token, error);
  if (code == TIDE_OK && (cursors != NULL || release))
    code = write_thread(db, thread, release ? NULL : owner, token, release ? 0 : has.until,
                        cursors == NULL ? &has.cursors : cursors, error);
  if (code == TIDE_OK) code = write_documents(db, documents, count, error);
  if (code == TIDE_OK) {
    code = tide__db_commit(db, "the cursors and documents were", error);
  } else {
    tide__db_rollback(db);
  }
end:
  tide__tenant_give(store, taken);
  tide__bytes_free(&has.cursors);
  return code;
}

/* ---- Threads, for people and for copying -------------------------------------- */

int tide__sqlite_list_threads(tide_store *store, const char *tenant, const char *after,
                              size_t limit, tide_bytes *names, size_t *count, tide_error *error) {
  sqlite3_stmt *statement = NULL;
  tide__tenant *taken;
  tide__db *db;
  size_t room = 0, found = 0;
  tide_bytes list = {0};
  const char *name;
  bool row;
  const tide__value values[] = {tide__text(after),
                                tide__integer(limit > INT64_MAX ? INT64_MAX : (int64_t)limit)};
  int code = tide__tenant_take(store, tenant, false, &taken, &db, error);
  if (code != TIDE_OK || taken == NULL) goto end;
  code = tide__db_start(db, TIDE__LIST_THREADS, values, 2, &statement, error);
  while (code == TIDE_OK && found < limit) {
    code = tide__db_step(db, statement, &row, error);
    if (code != TIDE_OK || !row) break;
    code = tide__column_text(db, statement, 0, TIDE_NAME_MAX, false, &name, error);
    if (code == TIDE_OK) code = add_text(&list, &room, name, error);
    found++;
  }
end:
  tide__db_end(statement);
  tide__tenant_give(store, taken);
  if (code == TIDE_OK) {
    *names = list;
    *count = found;
  } else {
    tide__bytes_free(&list);
  }
  return code;
}

int tide__sqlite_get_thread(tide_store *store, const char *tenant, const char *name,
                            tide_thread *thread, tide_error *error) {
  tide__tenant *taken;
  tide__db *db;
  thread_row has = {0};
  int code = tide__tenant_take(store, tenant, false, &taken, &db, error);
  if (code == TIDE_OK)
    code = taken != NULL ? read_thread(db, name, &has, error) : no_cursors(&has.cursors, error);
  tide__tenant_give(store, taken);
  if (code != TIDE_OK) {
    tide__bytes_free(&has.cursors);
    return code;
  }
  *thread = (tide_thread){.token = has.token, .cursors = has.cursors};
  if (tide__lease_of_another(has.owner, has.until, "", tide__now())) {
    thread->until = has.until;
    memcpy(thread->owner, has.owner, sizeof thread->owner);
  }
  return TIDE_OK;
}

int tide__sqlite_put_thread(tide_store *store, const char *tenant, const char *name, int64_t token,
                            const tide_bytes *cursors, tide_error *error) {
  tide__tenant *taken;
  tide__db *db;
  thread_row has = {0};
  int code = tide__tenant_take(store, tenant, true, &taken, &db, error);
  if (code != TIDE_OK) return code;
  code = tide__db_begin(db, error);
  if (code != TIDE_OK) goto end;
  code = read_thread(db, name, &has, error);
  if (code == TIDE_OK && tide__lease_of_another(has.owner, has.until, "", tide__now()))
    code = tide__fail_held(name, has.owner, has.until, error);
  if (code == TIDE_OK)
    code = write_thread(db, name, NULL, token > has.token ? token : has.token, 0, cursors, error);
  if (code == TIDE_OK) {
    code = tide__db_commit(db, "the thread was", error);
  } else {
    tide__db_rollback(db);
  }
end:
  tide__tenant_give(store, taken);
  tide__bytes_free(&has.cursors);
  return code;
}
