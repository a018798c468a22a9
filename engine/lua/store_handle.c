/* store_handle.c - a store and its scans as Lua userdata, which the collector closes.
**
** Every userdata is made closed and then opened, so that an error in between leaks
** nothing. A store that is closed while scans are open is closed with the last of them. */
#include "lua/store_handle.h"

#include <lauxlib.h>
#include <string.h>

#include "core/error.h"
#include "core/names.h"
#include "lua/arguments.h"
#include "lua/bytes.h"
#include "lua/lua_error.h"

#define STORE_TYPE "tidelog.Store"
#define SCAN_TYPE  "tidelog.Scan"

typedef struct tide_store_handle {
  tide_store *store;
  int scans; /* open ones */
  int closed;
} tide_store_handle;

static void close_if_unused(tide_store_handle *handle) {
  if (!handle->closed || handle->scans > 0 || handle->store == NULL) return;
  tide_store *store = handle->store;
  handle->store = NULL;
  tide__store_close(store);
}

static tide_store_handle *check_store(lua_State *L, int index) {
  tide_error error = {0};
  tide_store_handle *handle = luaL_testudata(L, index, STORE_TYPE);
  if (handle != NULL && !handle->closed) return handle;
  if (handle != NULL)
    tide__fail_store(&error, 0, "the store is closed");
  else if (lua_isnoneornil(L, index))
    tide__fail(&error, TIDE_MISSING_ARGUMENT, "store", "store is missing");
  else
    tide__fail(&error, TIDE_INVALID_ARGUMENT, "store",
               "store is a %s, not what tidelog.open returned", luaL_typename(L, index));
  tide__lua_raise(L, &error);
  return NULL;
}

/* close(store): also __close and __gc; again is harmless. */
static int store_close(lua_State *L) {
  tide_store_handle *handle = luaL_testudata(L, 1, STORE_TYPE);
  if (handle == NULL) {
    check_store(L, 1); /* raises */
    return 0;
  }
  handle->closed = 1;
  close_if_unused(handle);
  return 0;
}

static int store_text(lua_State *L) {
  tide_store_handle *handle = luaL_checkudata(L, 1, STORE_TYPE);
  if (handle->closed)
    lua_pushliteral(L, "tidelog.Store (closed)");
  else
    lua_pushfstring(L, "tidelog.Store (%s)", handle->store->ops->scheme);
  return 1;
}

tide_store *tide__store_argument(lua_State *L, int index) {
  return check_store(L, index)->store;
}

/* open(uri, busyTimeout or nil, maxOpen or nil) -> store */
static int store_open(lua_State *L) {
  tide_error error = {0};
  tide_store_options options = {0};
  const char *uri = tide__text_argument(L, 1, "uri", NULL);
  options.busy_timeout = (int)tide__integer_option(L, 2, "busyTimeout", 1, 86400000, 0);
  options.max_open = (int)tide__integer_option(L, 3, "maxOpen", 1, 100000, 0);
  tide_store_handle *handle = lua_newuserdatauv(L, sizeof *handle, 0);
  memset(handle, 0, sizeof *handle);
  handle->closed = 1;
  luaL_setmetatable(L, STORE_TYPE);
  if (tide__store_open(uri, &options, &handle->store, &error) != TIDE_OK)
    return tide__lua_raise(L, &error);
  handle->closed = 0;
  return 1;
}

/* isStore(value) -> boolean: whether it is a store, open or closed */
static int is_store(lua_State *L) {
  lua_pushboolean(L, luaL_testudata(L, 1, STORE_TYPE) != NULL);
  return 1;
}

/* Raises on any code but TIDE_OK. */
static void check(lua_State *L, int code, const tide_error *error) {
  if (code != TIDE_OK) tide__lua_raise(L, error);
}

/* Pushes a list of the `count` NUL-terminated texts, and frees them. */
static void push_list(lua_State *L, tide_bytes *texts, size_t count) {
  const char *at = (const char *)texts->data;
  lua_createtable(L, (int)count, 0);
  for (size_t i = 1; i <= count; i++, at += strlen(at) + 1) {
    lua_pushstring(L, at);
    lua_rawseti(L, -2, (lua_Integer)i);
  }
  tide__bytes_free(texts);
}

/* The first arguments of what is about one aggregate: store, tenant, type, id. */
typedef struct aggregate_arguments {
  tide_store *store;
  const char *tenant, *type, *id;
} aggregate_arguments;

static aggregate_arguments check_aggregate(lua_State *L) {
  aggregate_arguments a;
  a.store = tide__store_argument(L, 1);
  a.tenant = tide__tenant_argument(L, 2);
  a.type = tide__name_argument(L, 3, "aggregateType");
  a.id = tide__name_argument(L, 4, "aggregateId");
  return a;
}

/* And of what is about a thread's lease: store, tenant, thread, owner. */
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

/* ---- the log ------------------------------------------------------------------- */

/* append(store, tenant, type, id, version, count, body, commandId or nil)
**   -> "appended" | "conflict" | "duplicate", position, time in ms */
static int append(lua_State *L) {
  static const char *const outcomes[] = {"", "appended", "conflict", "duplicate"};
  tide_error error = {0};
  tide_commit commit = {0};
  tide_outcome outcome = TIDE_CONFLICT;
  aggregate_arguments a = check_aggregate(L);
  commit.type = a.type;
  commit.id = a.id;
  commit.version = tide__integer_argument(L, 5, "version", 0, INT64_MAX);
  commit.count = (int32_t)tide__integer_argument(L, 6, "count", 1, INT32_MAX);
  commit.body = (const uint8_t *)tide__text_argument(L, 7, "body", &commit.body_size);
  if (!lua_isnoneornil(L, 8)) commit.command_id = tide__name_argument(L, 8, "commandId");
  check(L, tide__store_append(a.store, a.tenant, &commit, 1, &outcome, &error), &error);
  lua_pushstring(L, outcomes[outcome]);
  lua_pushinteger(L, commit.position);
  lua_pushinteger(L, commit.time);
  return 3;
}

/* head(store, tenant) -> position of the next event, time of the last commit in ms */
static int head(lua_State *L) {
  tide_error error = {0};
  tide_head end;
  tide_store *store = tide__store_argument(L, 1);
  check(L, tide__store_head(store, tide__tenant_argument(L, 2), &end, &error), &error);
  lua_pushinteger(L, end.position);
  lua_pushinteger(L, end.time);
  return 2;
}

/* findCommand(store, tenant, type, id, commandId) -> position, version, or nil */
static int find_command(lua_State *L) {
  tide_error error = {0};
  int64_t position, version;
  aggregate_arguments a = check_aggregate(L);
  const char *command = tide__name_argument(L, 5, "commandId");
  check(L,
        tide__store_find_command(a.store, a.tenant, a.type, a.id, command, &position, &version,
                                 &error),
        &error);
  if (position < 0) return 0;
  lua_pushinteger(L, position);
  lua_pushinteger(L, version);
  return 2;
}

static int scan_close(lua_State *L) {
  tide_scan_handle *handle = luaL_checkudata(L, 1, SCAN_TYPE);
  if (handle->scan == NULL) return 0;
  tide_scan *scan = handle->scan;
  handle->scan = NULL;
  handle->commit = NULL;
  tide__scan_close(scan);
  handle->owner->scans--;
  close_if_unused(handle->owner);
  return 0;
}

/* scan(store, tenant, type or nil, id or nil, from, backwards, limit) -> scan */
static int scan_open(lua_State *L) {
  tide_error error = {0};
  tide_query query = {0};
  tide_store_handle *owner = check_store(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  if (!lua_isnoneornil(L, 3)) query.type = tide__name_argument(L, 3, "aggregateType");
  if (!lua_isnoneornil(L, 4)) query.id = tide__name_argument(L, 4, "aggregateId");
  query.from = tide__integer_option(L, 5, "from", 0, INT64_MAX, 0);
  query.backwards = lua_toboolean(L, 6) != 0;
  query.limit = tide__integer_option(L, 7, "limit", 1, INT64_MAX, 0);
  tide_scan_handle *handle = lua_newuserdatauv(L, sizeof *handle, 1);
  memset(handle, 0, sizeof *handle);
  luaL_setmetatable(L, SCAN_TYPE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1); /* the scan keeps its store from the collector */
  handle->owner = owner;
  handle->step = query.backwards ? -1 : 1;
  check(L, tide__store_scan(owner->store, tenant, &query, &handle->scan, &error), &error);
  owner->scans++;
  return 1;
}

tide_scan_handle *tide__scan_argument(lua_State *L, int index) {
  tide_scan_handle *handle = luaL_checkudata(L, index, SCAN_TYPE);
  if (handle->scan == NULL || handle->owner->closed) {
    tide_error error = {0};
    tide__fail_store(&error, 0, "the store is closed");
    tide__lua_raise(L, &error);
  }
  return handle;
}

const tide_commit *tide__scan_advance(lua_State *L, tide_scan_handle *handle) {
  tide_error error = {0};
  handle->commit = NULL;
  check(L, tide__scan_next(handle->scan, &handle->commit, &error), &error);
  return handle->commit;
}

/* ---- snapshots -------------------------------------------------------------------- */

/* getSnapshot(store, tenant, type, id, code) -> version, state, or nil where there is none
** by this code */
static int get_snapshot(lua_State *L) {
  tide_error error = {0};
  tide_snapshot snapshot = {0};
  size_t size;
  aggregate_arguments a = check_aggregate(L);
  const char *code = tide__text_argument(L, 5, "code", &size);
  tide_bytes *state = tide__bytes_push(L);
  int result = tide__store_get_snapshot(a.store, a.tenant, a.type, a.id, &snapshot, &error);
  *state = snapshot.state;
  check(L, result, &error);
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
  aggregate_arguments a = check_aggregate(L);
  snapshot.version = tide__integer_argument(L, 5, "version", 0, INT64_MAX);
  const char *code = tide__text_argument(L, 6, "code", &size);
  if (size != TIDE_CODE_SIZE) return luaL_error(L, "a code hash has %d bytes", TIDE_CODE_SIZE);
  memcpy(snapshot.code, code, TIDE_CODE_SIZE);
  /* the string is Lua's and is only read */
  snapshot.state.data = (uint8_t *)tide__text_argument(L, 7, "state", &snapshot.state.size);
  check(L, tide__store_put_snapshot(a.store, a.tenant, a.type, a.id, &snapshot, &error), &error);
  return 0;
}

/* ---- threads and documents ---------------------------------------------------------- */

/* lease(store, tenant, thread, owner, duration in ms) -> token, until, cursors as BSON; or
** false, until, where another owner has it */
static int lease(lua_State *L) {
  tide_error error = {0};
  tide_lease taken = {0};
  lease_arguments a = check_lease(L);
  int64_t duration = tide__integer_argument(L, 5, "timeout", 1, TIDE_LEASE_MAX);
  tide_bytes *cursors = tide__bytes_push(L);
  int code = tide__store_lease(a.store, a.tenant, a.thread, a.owner, duration, &taken, &error);
  *cursors = taken.cursors;
  check(L, code, &error);
  if (taken.held)
    lua_pushinteger(L, taken.token);
  else
    lua_pushboolean(L, 0);
  lua_pushinteger(L, taken.until);
  tide__bytes_text(L, cursors);
  return 3;
}

/* The documents of the list at `index`, { path, body or false, path, body or false, ... },
** as an array that the state owns; pushes its owner. */
static tide_document *documents_argument(lua_State *L, int index, size_t *count) {
  tide__table_argument(L, index, "documents");
  *count = (size_t)(lua_rawlen(L, index) / 2);
  tide_document *documents = lua_newuserdatauv(L, (*count + 1) * sizeof *documents, 0);
  for (size_t i = 0; i < *count; i++) {
    documents[i] = (tide_document){0};
    lua_rawgeti(L, index, (lua_Integer)(2 * i + 1));
    documents[i].path = tide__text_argument(L, -1, "path", NULL);
    lua_rawgeti(L, index, (lua_Integer)(2 * i + 2));
    if (lua_toboolean(L, -1))
      documents[i].body =
          (const uint8_t *)tide__text_argument(L, -1, "document", &documents[i].size);
    lua_pop(L, 2); /* the list keeps them */
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
  check(L, code, &error);
  return 0;
}

/* putDocuments(store, tenant, documents) */
static int put_documents(lua_State *L) {
  tide_error error = {0};
  size_t count;
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  tide_document *documents = documents_argument(L, 3, &count);
  check(L, tide__store_put_documents(store, tenant, documents, count, &error), &error);
  return 0;
}

/* getDocument(store, tenant, path) -> BSON or nil */
static int get_document(lua_State *L) {
  tide_error error = {0};
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  const char *path = tide__text_argument(L, 3, "path", NULL);
  tide_bytes *body = tide__bytes_push(L);
  check(L, tide__store_get_document(store, tenant, path, NULL, body, NULL, &error), &error);
  tide__bytes_text(L, body);
  return 1;
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
  check(L, tide__store_list_documents(store, tenant, prefix, after, limit, paths, &count, &error),
        &error);
  push_list(L, paths, count);
  return 1;
}

/* checkPath(path): raises where it is no path of a document */
static int check_path(lua_State *L) {
  tide_error error = {0};
  size_t size;
  const char *path = tide__text_argument(L, 1, "path", &size);
  check(L, tide__check_path(path, size, &error), &error);
  return 0;
}

/* ---- the whole store -------------------------------------------------------------- */

/* tenants(store) -> list of names */
static int tenants(lua_State *L) {
  tide_error error = {0};
  size_t count = 0;
  tide_store *store = tide__store_argument(L, 1);
  tide_bytes *names = tide__bytes_push(L);
  check(L, tide__store_tenants(store, names, &count, &error), &error);
  push_list(L, names, count);
  return 1;
}

/* check(store, tenant) -> commits, events that were checked; raises the first problem */
static int check_tenant(lua_State *L) {
  tide_error error = {0};
  int64_t commits, events;
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  check(L, tide__store_check(store, tenant, &commits, &events, &error), &error);
  lua_pushinteger(L, commits);
  lua_pushinteger(L, events);
  return 2;
}

static void new_type(lua_State *L, const char *name, lua_CFunction close) {
  luaL_newmetatable(L, name);
  lua_pushcfunction(L, close);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, close);
  lua_setfield(L, -2, "__close");
  lua_pushstring(L, name);
  lua_setfield(L, -2, "__metatable");
}

void tide__store_handle_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"open", store_open},
                                       {"close", store_close},
                                       {"isStore", is_store},
                                       {"append", append},
                                       {"head", head},
                                       {"findCommand", find_command},
                                       {"scan", scan_open},
                                       {"closeScan", scan_close},
                                       {"getSnapshot", get_snapshot},
                                       {"putSnapshot", put_snapshot},
                                       {"lease", lease},
                                       {"commitCursors", commit_cursors},
                                       {"putDocuments", put_documents},
                                       {"getDocument", get_document},
                                       {"listDocuments", list_documents},
                                       {"checkPath", check_path},
                                       {"tenants", tenants},
                                       {"check", check_tenant},
                                       {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  new_type(L, SCAN_TYPE, scan_close);
  lua_pop(L, 1);
  new_type(L, STORE_TYPE, store_close);
  lua_pushcfunction(L, store_text);
  lua_setfield(L, -2, "__tostring");
  lua_newtable(L); /* lua/tidelog/store.lua puts the methods in */
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__index");
  lua_setfield(L, -3, "storeMethods");
  lua_pop(L, 1);
}
