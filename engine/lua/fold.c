/* fold.c - an aggregate's state from its events: the engine's hottest loop. */
#include <lauxlib.h>
#include <string.h>

#include "core/error.h"
#include "lua/arguments.h"
#include "lua/lua_error.h"
#include "lua/record.h"
#include "lua/value.h"

/* Stack: payload. Brings it, with the upcasters of the event in the table at `upcast`, to
** the newest schema version, which it returns. */
static lua_Integer upcast_payload(lua_State *L, int upcast, const char *name, lua_Integer version) {
  if (lua_getfield(L, upcast, name) != LUA_TTABLE) {
    lua_pop(L, 1);
    return version;
  }
  for (;; version++) { /* Stack: payload, steps */
    if (lua_geti(L, -1, version) == LUA_TNIL) break;
    lua_pushvalue(L, -3);
    lua_call(L, 1, 1); /* Stack: payload, steps, new payload */
    if (lua_type(L, -1) != LUA_TTABLE)
      luaL_error(L, "the upcaster of %s from version %I returned a %s, not a table", name, version,
                 luaL_typename(L, -1));
    lua_replace(L, -3);
  }
  lua_pop(L, 2);
  return version;
}

int tide__upcast(lua_State *L) {
  const char *name = luaL_checkstring(L, 2);
  lua_Integer version = luaL_checkinteger(L, 3);
  lua_settop(L, 4);
  if (lua_type(L, 1) == LUA_TTABLE) version = upcast_payload(L, 1, name, version);
  lua_pushinteger(L, version);
  return 2;
}

enum { SCAN = 1, STATE, EVENTS, UPCAST, IGNORE, LIMITS, ID = LIMITS + 3 };

/* Pushes the event's function, or nothing (0) where the aggregate ignores the event. */
static int push_function(lua_State *L, const tide_commit *commit, const char *name) {
  if (lua_getfield(L, EVENTS, name) != LUA_TNIL) return 1;
  lua_pop(L, 1);
  if (lua_type(L, IGNORE) == LUA_TTABLE) {
    lua_getfield(L, IGNORE, name);
    int ignored = lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (ignored) return 0;
  }
  tide_error error = {0};
  tide__fail(&error, TIDE_NOT_IMPLEMENTED, name, "%s has no function for its event %s",
             commit->type, name);
  return tide__lua_raise(L, &error);
}

static void apply(lua_State *L, const tide_commit *commit, const tide_record_event *event,
                  int64_t version) {
  if (push_function(L, commit, event->name)) {
    lua_pushvalue(L, STATE);
    lua_createtable(L, 0, 3);
    lua_pushlstring(L, event->name, event->name_size);
    lua_setfield(L, -2, "name");
    tide__value_decode(L, event->payload, event->payload_size, TIDE_ENCODE_VALUE);
    lua_Integer schema = event->version;
    if (lua_type(L, UPCAST) == LUA_TTABLE) schema = upcast_payload(L, UPCAST, event->name, schema);
    lua_setfield(L, -2, "payload");
    lua_pushinteger(L, schema);
    lua_setfield(L, -2, "version");
    lua_call(L, 2, 0);
  }
  lua_pushvalue(L, ID); /* both, whatever the function did to them */
  lua_setfield(L, STATE, "aggregateId");
  lua_pushinteger(L, version);
  lua_setfield(L, STATE, "aggregateVersion");
}

int tide__fold(lua_State *L) {
  tide_record record;
  tide_record_event event;
  tide_scan_handle *handle = tide__scan_argument(L, SCAN);
  luaL_checktype(L, STATE, LUA_TTABLE);
  luaL_checktype(L, EVENTS, LUA_TTABLE);
  int64_t to_version = tide__integer_option(L, LIMITS, "version", -1, INT64_MAX, INT64_MAX);
  int64_t to_position = tide__integer_option(L, LIMITS + 1, "position", -1, INT64_MAX, INT64_MAX);
  int64_t to_time = tide__integer_option(L, LIMITS + 2, "time", INT64_MIN, INT64_MAX, INT64_MAX);
  lua_settop(L, LIMITS + 2);
  luaL_checkstack(L, 20, "for an event");
  lua_getfield(L, STATE, "aggregateId"); /* at ID */
  lua_getfield(L, STATE, "aggregateVersion");
  int64_t version = luaL_checkinteger(L, -1); /* of the last event in the state */
  lua_pop(L, 1);
  const tide_commit *commit;
  while ((commit = tide__scan_advance(L, handle)) != NULL) {
    if (commit->time > to_time) return 0;
    if (commit->version > version + 1) {
      tide_error error = {0};
      tide__fail_store(&error, 0, "%s '%s' has no version %lld, but one after it", commit->type,
                       commit->id, (long long)version + 1);
      return tide__lua_raise(L, &error);
    }
    tide__record_read(L, commit, &record);
    for (int32_t i = 0; i < commit->count; i++) {
      tide__record_next(L, &record, &event);
      if (commit->version + i > to_version || commit->position + i > to_position) return 0;
      if (commit->version + i <= version) continue; /* already in the state */
      version = commit->version + i;
      apply(L, commit, &event, version);
    }
  }
  return 0;
}
