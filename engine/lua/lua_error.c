/* lua_error.c - the one translator each way between tide_error and Lua errors. */
#include "lua/lua_error.h"

#include <lauxlib.h>
#include <string.h>

#include "core/error.h"

static const char metatable_key = 'e'; /* its address is the registry's key */

void tide__lua_error_open(lua_State *L, int index) {
  lua_getfield(L, index, "metatable");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &metatable_key);
}

int tide__lua_raise(lua_State *L, const tide_error *error) {
  luaL_checkstack(L, 4, "for an error");
  lua_createtable(L, 0, 4);
  lua_pushstring(L, tide_error_name(error->code));
  lua_setfield(L, -2, "name");
  lua_pushstring(L, error->message);
  lua_setfield(L, -2, "message");
  if (error->argument[0] != '\0') {
    lua_pushstring(L, error->argument);
    lua_setfield(L, -2, error->code == TIDE_NOT_IMPLEMENTED ? "method" : "argument");
  }
  if (error->code == TIDE_STORE) {
    lua_pushboolean(L, error->transient);
    lua_setfield(L, -2, "transient");
  }
  lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
  lua_setmetatable(L, -2);
  return lua_error(L);
}

void tide__lua_check(lua_State *L, int code, const tide_error *error) {
  if (code != TIDE_OK) tide__lua_raise(L, error);
}

/* The string at a key of the table at `index`, or NULL; without metamethods. */
static const char *raw_text(lua_State *L, int index, const char *key) {
  lua_pushstring(L, key);
  const char *text = lua_rawget(L, index) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
  lua_pop(L, 1); /* the table keeps the string */
  return text;
}

static int code_of(const char *name) {
  for (int code = TIDE_INVALID_ARGUMENT; name != NULL && code < TIDE_DOMAIN; code++)
    if (strcmp(name, tide_error_name(code)) == 0) return code;
  return TIDE_DOMAIN;
}

/* Makes the texts in protected mode: even a table's __tostring may raise. */
static int fill_error(lua_State *L) {
  tide_error *error = lua_touserdata(L, 2);
  if (lua_type(L, 1) == LUA_TTABLE && lua_getmetatable(L, 1)) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &metatable_key);
    if (lua_rawequal(L, -1, -2)) {
      int code = code_of(raw_text(L, 1, "name"));
      const char *message = raw_text(L, 1, "message"), *argument = raw_text(L, 1, "argument");
      if (argument == NULL) argument = raw_text(L, 1, "method");
      tide__fail(error, code, argument, "%s", message == NULL ? "" : message);
      if (code == TIDE_STORE) {
        lua_pushliteral(L, "transient");
        lua_rawget(L, 1);
        error->transient = lua_toboolean(L, -1);
      }
      return 0;
    }
  }
  tide__fail(error, TIDE_DOMAIN, NULL, "%s", luaL_tolstring(L, 1, NULL));
  return 0;
}

static void one_line(char *text) {
  for (; *text != '\0'; text++)
    if ((unsigned char)*text < ' ' || *text == 0x7f) *text = ' ';
}

int tide__lua_caught(lua_State *L, int index, tide_error *error) {
  tide_error scratch;
  if (error == NULL) error = &scratch;
  memset(error, 0, sizeof *error);
  if (!lua_checkstack(L, 4)) return tide__fail_memory(error);
  index = lua_absindex(L, index);
  if (lua_type(L, index) == LUA_TSTRING) {
    const char *text = lua_tostring(L, index);
    /* Lua's own, also where Lua code caught it and raised it again */
    if (strcmp(text, "not enough memory") == 0) return tide__fail_memory(error);
    tide__fail(error, TIDE_DOMAIN, NULL, "%s", text);
  } else {
    lua_pushcfunction(L, fill_error);
    lua_pushvalue(L, index);
    lua_pushlightuserdata(L, error);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
      lua_pop(L, 1);
      tide__fail(error, TIDE_DOMAIN, NULL, "an error that cannot be shown");
    }
  }
  one_line(error->message);
  return error->code;
}
