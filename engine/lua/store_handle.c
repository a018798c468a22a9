/* store_handle.c - a store and its scans as Lua userdata, which the collector closes, and
** the functions on the log.
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

tide_aggregate_arguments tide__aggregate_arguments(lua_State *L) {
  tide_aggregate_arguments a;
  a.store = tide__store_argument(L, 1);
  a.tenant = tide__tenant_argument(L, 2);
  a.type = tide__name_argument(L, 3, "aggregateType");
  a.id = tide__name_argument(L, 4, "aggregateId");
  return a;
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

/* ---- the log ------------------------------------------------------------------- */

/* append(store, tenant, type, id, version, count, body, commandId or nil)
**   -> "appended" | "conflict" | "duplicate", position, time in ms */
static int append(lua_State *L) {
  static const char *const outcomes[] = {"", "appended", "conflict", "duplicate"};
  tide_error error = {0};
  tide_commit commit = {0};
  tide_outcome outcome = TIDE_CONFLICT;
  tide_aggregate_arguments a = tide__aggregate_arguments(L);
  commit.type = a.type;
  commit.id = a.id;
  commit.version = tide__integer_argument(L, 5, "version", 0, INT64_MAX);
  commit.count = (int32_t)tide__integer_argument(L, 6, "count", 1, INT32_MAX);
  commit.body = (const uint8_t *)tide__text_argument(L, 7, "body", &commit.body_size);
  if (!lua_isnoneornil(L, 8)) commit.command_id = tide__name_argument(L, 8, "commandId");
  tide__lua_check(L, tide__store_append(a.store, a.tenant, &commit, 1, &outcome, &error), &error);
  lua_pushstring(L, outcomes[outcome]);
  lua_pushinteger(L, commit.position);
  lua_pushinteger(L, commit.time);
  return 3;
}

/* head(store, tenant) -> position of the next event, time of the last commit in ms, its hash */
static int head(lua_State *L) {
  tide_error error = {0};
  tide_head end;
  tide_store *store = tide__store_argument(L, 1);
  tide__lua_check(L, tide__store_head(store, tide__tenant_argument(L, 2), &end, &error), &error);
  lua_pushinteger(L, end.position);
  lua_pushinteger(L, end.time);
  lua_pushlstring(L, (const char *)end.hash, TIDE_HASH_SIZE);
  return 3;
}

/* wait(store, tenant, position, timeout in ms) -> how many events there are */
static int wait_news(lua_State *L) {
  tide_error error = {0};
  int64_t events;
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  int64_t position = tide__integer_argument(L, 3, "position", 0, INT64_MAX);
  int64_t timeout = tide__integer_argument(L, 4, "timeout", 0, TIDE_WAIT_MAX);
  tide__lua_check(L, tide__store_wait(store, tenant, position, timeout, &events, &error), &error);
  lua_pushinteger(L, events);
  return 1;
}

/* findCommand(store, tenant, type, id, commandId) -> position, version, or nil */
static int find_command(lua_State *L) {
  tide_error error = {0};
  int64_t position, version;
  tide_aggregate_arguments a = tide__aggregate_arguments(L);
  const char *command = tide__name_argument(L, 5, "commandId");
  tide__lua_check(L,
                  tide__store_find_command(a.store, a.tenant, a.type, a.id, command, &position,
                                           &version, &error),
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
  tide__lua_check(L, tide__store_scan(owner->store, tenant, &query, &handle->scan, &error), &error);
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
  tide__lua_check(L, tide__scan_next(handle->scan, &handle->commit, &error), &error);
  return handle->commit;
}

/* ---- the whole store -------------------------------------------------------------- */

/* tenants(store) -> list of names */
static int tenants(lua_State *L) {
  tide_error error = {0};
  size_t count = 0;
  tide_store *store = tide__store_argument(L, 1);
  tide_bytes *names = tide__bytes_push(L);
  tide__lua_check(L, tide__store_tenants(store, names, &count, &error), &error);
  tide__bytes_list(L, names, count);
  return 1;
}

/* check(store, tenant) -> commits, events that were checked; raises the first problem */
static int check_tenant(lua_State *L) {
  tide_error error = {0};
  int64_t commits, events;
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  tide__lua_check(L, tide__store_check(store, tenant, &commits, &events, &error), &error);
  lua_pushinteger(L, commits);
  lua_pushinteger(L, events);
  return 2;
}

/* describe(store, tenant or nil) -> BSON: what there is to know of the store */
static int describe(lua_State *L) {
  tide_error error = {0};
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = lua_isnoneornil(L, 2) ? NULL : tide__tenant_argument(L, 2);
  tide_bytes *bson = tide__bytes_push(L);
  tide__lua_check(L, tide__store_describe(store, tenant, bson, &error), &error);
  tide__bytes_text(L, bson);
  return 1;
}

/* setup(store, tenant) -> whether the store has need of it: makes what the tenant needs
** before its first write */
static int setup(lua_State *L) {
  tide_error error = {0};
  tide_store *store = tide__store_argument(L, 1);
  int code = tide__store_setup(store, tide__tenant_argument(L, 2), &error);
  if (code != TIDE_NOT_IMPLEMENTED) tide__lua_check(L, code, &error);
  lua_pushboolean(L, code == TIDE_OK);
  return 1;
}

/* closeHole(store, tenant, position, actor, reason) -> events that are lost for ever: lets readers
** go on behind a hole in the order */
static int close_hole(lua_State *L) {
  tide_error error = {0};
  int64_t events = 0;
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  int64_t position = tide__integer_argument(L, 3, "position", 0, INT64_MAX);
  const char *actor = tide__name_argument(L, 4, "actor");
  const char *reason = tide__text_argument(L, 5, "reason", NULL);
  tide__lua_check(
      L, tide__store_close_hole(store, tenant, position, actor, reason, &events, &error), &error);
  lua_pushinteger(L, events);
  return 1;
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
                                       {"wait", wait_news},
                                       {"tenants", tenants},
                                       {"describe", describe},
                                       {"setup", setup},
                                       {"check", check_tenant},
                                       {"closeHole", close_hole},
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
