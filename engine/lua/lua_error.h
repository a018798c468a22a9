/* lua_error.h - the one translator each way between tide_error and Lua errors. */
#ifndef TIDE_LUA_ERROR_H
#define TIDE_LUA_ERROR_H

#include <lua.h>

#include "tidelog.h"

/* Remembers lua/tidelog/err.lua's metatable for this state: [-0, +0]. The module
** table of tidelog.err is at `index`. */
void tide__lua_error_open(lua_State *L, int index);

/* Raises the error as a table as err.lua makes it; never returns. Nothing may be held
** by the caller that only C can free. */
int tide__lua_raise(lua_State *L, const tide_error *error);

/* Raises the error on any code but TIDE_OK. */
void tide__lua_check(lua_State *L, int code, const tide_error *error);

/* Fills *error from the Lua error value at `index` and returns its code: a table of
** err.lua's, Lua's own want of memory, or anything else, which becomes TIDE_DOMAIN. The
** message is one line, whatever was raised. Raises nothing. */
int tide__lua_caught(lua_State *L, int index, tide_error *error);

#endif
