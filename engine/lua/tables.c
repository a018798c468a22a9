/* tables.c - Lua tables that are more than plain ones: arrays, read-only views; copies. */
#include "lua/tables.h"

#include <lauxlib.h>

#include "core/error.h"
#include "lua/lua_error.h"

/* Their addresses are keys of the registry and of metatables. */
static const char array_key = 'a', view_key = 'v';

/* ---- views and marks ------------------------------------------------------------ */

static int view_refuses(lua_State *L) {
  tide_error error = {0};
  size_t size;
  const char *key = luaL_tolstring(L, 2, &size);
  tide__fail(&error, TIDE_INVALID_ARGUMENT, key, "%s is read-only", key);
  return tide__lua_raise(L, &error);
}

/* The views' metamethods have the table that is looked at as their upvalue. */
static int view_length(lua_State *L) {
  lua_pushinteger(L, luaL_len(L, lua_upvalueindex(1)));
  return 1;
}

static int view_next(lua_State *L) {
  lua_settop(L, 2);
  if (lua_next(L, lua_upvalueindex(1))) return 2;
  lua_pushnil(L);
  return 1;
}

static int view_pairs(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, view_next, 1);
  return 1;
}

static void set_method(lua_State *L, int table, const char *name, lua_CFunction function,
                       int target) {
  lua_pushvalue(L, target);
  lua_pushcclosure(L, function, 1);
  lua_setfield(L, table, name);
}

void tide__freeze(lua_State *L) {
  int target = lua_gettop(L);
  luaL_checkstack(L, 8, "for a read-only view");
  lua_pushnil(L);
  while (lua_next(L, target)) { /* Stack: target, key, value */
    if (lua_type(L, -1) == LUA_TTABLE) {
      tide__freeze(L);
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, target); /* an existing key: the traversal may go on */
    } else {
      lua_pop(L, 1);
    }
  }
  lua_createtable(L, 0, 0); /* the view */
  lua_createtable(L, 0, 6); /* its metatable */
  int metatable = lua_gettop(L);
  lua_pushvalue(L, target);
  lua_setfield(L, metatable, "__index");
  lua_pushvalue(L, target);
  lua_rawsetp(L, metatable, &view_key);
  lua_pushcfunction(L, view_refuses);
  lua_setfield(L, metatable, "__newindex");
  set_method(L, metatable, "__len", view_length, target);
  set_method(L, metatable, "__pairs", view_pairs, target);
  lua_pushliteral(L, "read-only");
  lua_setfield(L, metatable, "__metatable");
  lua_setmetatable(L, -2);
  lua_replace(L, target);
}

bool tide__look_through(lua_State *L) {
  if (!lua_getmetatable(L, -1)) return false;
  bool view = lua_rawgetp(L, -1, &view_key) == LUA_TTABLE;
  lua_replace(L, -2); /* Stack: table, target or nil */
  if (view)
    lua_replace(L, -2);
  else
    lua_pop(L, 1);
  return view;
}

tide_mark tide__mark_of(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return TIDE_MARK_NONE;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return same ? TIDE_MARK_ARRAY : TIDE_MARK_OTHER;
}

void tide__mark_array(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
  lua_setmetatable(L, -2);
}

int tide__is_array(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TTABLE) return 0;
  lua_pushvalue(L, index);
  tide__look_through(L);
  int array = tide__mark_of(L, -1) == TIDE_MARK_ARRAY;
  lua_pop(L, 1);
  return array;
}

/* ---- copying ------------------------------------------------------------------ */

/* Pushes the copy of the table on the top, made now or before: `memo` maps tables to their
** copies, `queue` lists the tables whose entries are still to be copied. */
static void push_copy(lua_State *L, int memo, int queue) {
  const void *table = lua_topointer(L, -1);
  if (lua_rawgetp(L, memo, table) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_pushvalue(L, -1);
  lua_rawseti(L, queue, (lua_Integer)lua_rawlen(L, queue) + 1);
  lua_createtable(L, 0, 4);
  if (lua_getmetatable(L, -2)) lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, memo, table);
}

/* Copies the entries of the table at `from` into the one at `to`. Returns whether there was
** a table among the values; where memo is 0 it stops there. */
static bool copy_entries(lua_State *L, int from, int to, int memo, int queue) {
  bool nested = false;
  lua_pushnil(L);
  while (lua_next(L, from)) { /* Stack: key, value */
    lua_pushvalue(L, -2);
    if (lua_type(L, -2) == LUA_TTABLE) {
      nested = true;
      if (memo == 0) {
        lua_pop(L, 3);
        return true;
      }
      lua_pushvalue(L, -2);
      push_copy(L, memo, queue);
      lua_remove(L, -2); /* Stack: key, value, key, copy */
    } else {
      lua_pushvalue(L, -2);
    }
    lua_rawset(L, to);
    lua_pop(L, 1);
  }
  return nested;
}

/* Works through a queue and not by recursion: a state may be nested as deeply as it likes. */
void tide__copy(lua_State *L, int index) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 12, "for a copy");
  lua_createtable(L, 0, 8);
  int copy = lua_gettop(L);
  if (lua_getmetatable(L, index)) lua_setmetatable(L, copy);
  /* most states have no tables in them, and need no memo */
  if (!copy_entries(L, index, copy, 0, 0)) return;
  lua_newtable(L);
  int memo = copy + 1, queue = copy + 2;
  lua_pushvalue(L, copy);
  lua_rawsetp(L, memo, lua_topointer(L, index));
  lua_newtable(L);
  copy_entries(L, index, copy, memo, queue);
  for (lua_Integer i = 1; i <= (lua_Integer)lua_rawlen(L, queue); i++) {
    lua_rawgeti(L, queue, i);
    lua_rawgetp(L, memo, lua_topointer(L, -1)); /* Stack: table, its copy */
    copy_entries(L, queue + 1, queue + 2, memo, queue);
    lua_settop(L, queue);
  }
  lua_settop(L, copy);
}

void tide__tables_open(lua_State *L) {
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "tidelog.array");
  lua_setfield(L, -2, "__name");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &array_key);
}
