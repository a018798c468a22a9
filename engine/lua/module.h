/* module.h - the Lua module tidelog.engine: the C functions that lua/tidelog is built on. */
#ifndef TIDE_LUA_MODULE_H
#define TIDE_LUA_MODULE_H

#include <lua.h>

/* luaopen-style: returns the module table. Needs tidelog.err to be loadable. */
int tide__module_open(lua_State *L);

#endif
