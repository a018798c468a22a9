/* store_state.c - the functions on what a store keeps beside the log: snapshots, threads,
** documents. */
#include <lauxlib.h>
#include <string.h>

#include "core/error.h"
#include "core/names.h"
#include "lua/arguments.h"
#include "lua/bytes.h"
#include "lua/lua_error.h"
#include "lua/store_handle.h"

/* ---- snapshots -------------------------------------------------------------------- */

/* getSnapshot(store, tenant, type, id, code) -> version, state, or nil where there is none
** by this code */
static int get_snapshot(lua_State *L) {
  tide_error error = {0};
  tide_snapshot snapshot = {0};
  size_t size;
  tide_aggregate_arguments a = tide__aggregate_arguments(L);
  const char *code = tide__text_argument(L, 5, "code", &size);
  tide_bytes *state = tide__bytes_push(L);
  int result = tide__store_get_snapshot(a.store, a.tenant, a.type, a.id, &snapshot, &error);
  *state = snapshot.state;
  tide__lua_check(L, result, &error);
  if (state->data == NULL || size != TIDE_CODE_SIZE || memcmp(code, snapshot.code, size) != 0)
    return 0;
  lua_pushinteger(L, snapshot.version);
  tide__bytes_text(L, state);
  return 2;
}

/* putSnapshot(store, tenant, type, id, version, code, state) */
static int put_snapshot(lua_State *L) {
  tide_error error = {0};
  tide_snapshot snapshot = {0};
  size_t size;
  tide_aggregate_arguments a = tide__aggregate_arguments(L);
  snapshot.version = tide__integer_argument(L, 5, "version", 0, INT64_MAX);
  const char *code = tide__text_argument(L, 6, "code", &size);
  if (size != TIDE_CODE_SIZE) return luaL_error(L, "a code hash has %d bytes", TIDE_CODE_SIZE);
  memcpy(snapshot.code, code, TIDE_CODE_SIZE);
  /* the string is Lua's and is only read */
  snapshot.state.data = (uint8_t *)tide__text_argument(L, 7, "state", &snapshot.state.size);
  tide__lua_check(L, tide__store_put_snapshot(a.store, a.tenant, a.type, a.id, &snapshot, &error),
                  &error);
  return 0;
}

/* ---- threads and documents ---------------------------------------------------------- */

/* The first arguments of what is about a thread's lease: store, tenant, thread, owner. */
typedef struct lease_arguments {
  tide_store *store;
  const char *tenant, *thread, *owner;
} lease_arguments;

static lease_arguments check_lease(lua_State *L) {
  lease_arguments a;
  a.store = tide__store_argument(L, 1);
  a.tenant = tide__tenant_argument(L, 2);
  a.thread = tide__name_argument(L, 3, "thread");
  a.owner = tide__name_argument(L, 4, "owner");
  return a;
}

/* lease(store, tenant, thread, owner, duration in ms) -> token, until, cursors as BSON, or
** false, until, nil where another owner has it; and apart: whether documents and cursors are
** not committed together */
static int lease(lua_State *L) {
  tide_error error = {0};
  tide_lease taken = {0};
  lease_arguments a = check_lease(L);
  int64_t duration = tide__integer_argument(L, 5, "timeout", 1, TIDE_LEASE_MAX);
  tide_bytes *cursors = tide__bytes_push(L);
  int code = tide__store_lease(a.store, a.tenant, a.thread, a.owner, duration, &taken, &error);
  *cursors = taken.cursors;
  tide__lua_check(L, code, &error);
  if (taken.held)
    lua_pushinteger(L, taken.token);
  else
    lua_pushboolean(L, 0);
  lua_pushinteger(L, taken.until);
  tide__bytes_text(L, cursors);
  lua_pushboolean(L, taken.apart);
  return 4;
}

/* The documents of the list at `index`, { path, body or false, writer or false, position, ... }
** (four values each), as an array that the state owns; pushes its owner. */
static tide_document *documents_argument(lua_State *L, int index, size_t *count) {
  tide__table_argument(L, index, "documents");
  *count = (size_t)(lua_rawlen(L, index) / 4);
  tide_document *documents = lua_newuserdatauv(L, (*count + 1) * sizeof *documents, 0);
  for (size_t i = 0; i < *count; i++) {
    tide_document *d = &documents[i];
    *d = (tide_document){0};
    for (int k = 1; k <= 4; k++)
      lua_rawgeti(L, index, (lua_Integer)(4 * i) + k);
    d->path = tide__text_argument(L, -4, "path", NULL);
    if (lua_toboolean(L, -3))
      d->body = (const uint8_t *)tide__text_argument(L, -3, "document", &d->size);
    if (lua_toboolean(L, -2)) {
      d->writer = tide__text_argument(L, -2, "writer", NULL);
      d->position = tide__integer_argument(L, -1, "position", 0, INT64_MAX);
    }
    lua_pop(L, 4); /* the list keeps them */
  }
  return documents;
}

/* commitCursors(store, tenant, thread, owner, token, cursors or nil, documents, release) */
static int commit_cursors(lua_State *L) {
  tide_error error = {0};
  tide_bytes cursors = {0};
  size_t count;
  lease_arguments a = check_lease(L);
  int64_t token = tide__integer_argument(L, 5, "token", 0, INT64_MAX);
  if (!lua_isnoneornil(L, 6))
    cursors.data = (uint8_t *)tide__text_argument(L, 6, "cursors", &cursors.size);
  tide_document *documents = documents_argument(L, 7, &count);
  int code = tide__store_commit_cursors(a.store, a.tenant, a.thread, a.owner, token,
                                        cursors.data == NULL ? NULL : &cursors, documents, count,
                                        lua_toboolean(L, 8) != 0, &error);
  tide__lua_check(L, code, &error);
  return 0;
}

/* putDocuments(store, tenant, documents) */
static int put_documents(lua_State *L) {
  tide_error error = {0};
  size_t count;
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  tide_document *documents = documents_argument(L, 3, &count);
  tide__lua_check(L, tide__store_put_documents(store, tenant, documents, count, &error), &error);
  return 0;
}

/* getDocument(store, tenant, path, writer or nil) -> BSON or nil, and where documents and
** cursors are apart the position behind the last event of `writer` that is in it, else 0 */
static int get_document(lua_State *L) {
  tide_error error = {0};
  int64_t reflects = 0;
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  const char *path = tide__text_argument(L, 3, "path", NULL);
  const char *writer = lua_isnoneornil(L, 4) ? NULL : tide__text_argument(L, 4, "writer", NULL);
  tide_bytes *body = tide__bytes_push(L);
  tide__lua_check(L, tide__store_get_document(store, tenant, path, writer, body, &reflects, &error),
                  &error);
  tide__bytes_text(L, body);
  lua_pushinteger(L, reflects);
  return 2;
}

/* listDocuments(store, tenant, prefix, after or nil, limit) -> list of paths */
static int list_documents(lua_State *L) {
  tide_error error = {0};
  size_t count = 0;
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  const char *prefix = tide__text_argument(L, 3, "prefix", NULL);
  const char *after = lua_isnoneornil(L, 4) ? NULL : tide__text_argument(L, 4, "after", NULL);
  size_t limit = (size_t)tide__integer_argument(L, 5, "limit", 1, INT32_MAX);
  tide_bytes *paths = tide__bytes_push(L);
  tide__lua_check(
      L, tide__store_list_documents(store, tenant, prefix, after, limit, paths, &count, &error),
      &error);
  tide__bytes_list(L, paths, count);
  return 1;
}

/* checkPath(path): raises where it is no path of a document */
static int check_path(lua_State *L) {
  tide_error error = {0};
  size_t size;
  const char *path = tide__text_argument(L, 1, "path", &size);
  tide__lua_check(L, tide__check_path(path, size, &error), &error);
  return 0;
}

/* listThreads(store, tenant, after or nil, limit) -> list of names */
static int list_threads(lua_State *L) {
  tide_error error = {0};
  size_t count = 0;
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  const char *after = lua_isnoneornil(L, 3) ? NULL : tide__text_argument(L, 3, "after", NULL);
  size_t limit = (size_t)tide__integer_argument(L, 4, "limit", 1, INT32_MAX);
  tide_bytes *names = tide__bytes_push(L);
  tide__lua_check(L, tide__store_list_threads(store, tenant, after, limit, names, &count, &error),
                  &error);
  tide__bytes_list(L, names, count);
  return 1;
}

/* getThread(store, tenant, name) -> token, cursors as BSON; and owner, until in ms where
** somebody holds the lease */
static int get_thread(lua_State *L) {
  tide_error error = {0};
  tide_thread thread = {0};
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  const char *name = tide__name_argument(L, 3, "thread");
  tide_bytes *cursors = tide__bytes_push(L);
  int code = tide__store_get_thread(store, tenant, name, &thread, &error);
  *cursors = thread.cursors;
  tide__lua_check(L, code, &error);
  lua_pushinteger(L, thread.token);
  tide__bytes_text(L, cursors);
  if (thread.until == 0) return 2;
  lua_pushstring(L, thread.owner);
  lua_pushinteger(L, thread.until);
  return 4;
}

/* putThread(store, tenant, name, token, cursors as BSON) */
static int put_thread(lua_State *L) {
  tide_error error = {0};
  tide_bytes cursors = {0};
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  const char *name = tide__name_argument(L, 3, "thread");
  int64_t token = tide__integer_argument(L, 4, "token", 0, INT64_MAX);
  /* the string is Lua's and is only read */
  cursors.data = (uint8_t *)tide__text_argument(L, 5, "cursors", &cursors.size);
  tide__lua_check(L, tide__store_put_thread(store, tenant, name, token, &cursors, &error), &error);
  return 0;
}

void tide__store_state_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"getSnapshot", get_snapshot},
                                       {"putSnapshot", put_snapshot},
                                       {"lease", lease},
                                       {"commitCursors", commit_cursors},
                                       {"listThreads", list_threads},
                                       {"getThread", get_thread},
                                       {"putThread", put_thread},
                                       {"putDocuments", put_documents},
                                       {"getDocument", get_document},
                                       {"listDocuments", list_documents},
                                       {"checkPath", check_path},
                                       {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
