/* state.h - a Lua state that has Tidelog in it: for hosts and for the command. */
#ifndef TIDE_LUA_STATE_H
#define TIDE_LUA_STATE_H

#include <lua.h>

#include "tidelog.h"

/* Makes a state with Lua's standard library, where require finds tidelog and its modules
** in the library itself, whatever the Lua path. NULL where memory is short
** (TIDE_NO_MEMORY) or a module does not load (TIDE_DOMAIN). The caller ends it with
** lua_close. For one thread at a time. */
lua_State *tide__state_new(tide_error *error);

#endif
