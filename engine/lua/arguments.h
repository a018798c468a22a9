/* arguments.h - checking what Lua passes to the engine's functions: each raises an
** error as err.lua makes it, that names the argument. */
#ifndef TIDE_LUA_ARGUMENTS_H
#define TIDE_LUA_ARGUMENTS_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

/* A string (numbers are none); missing where it is nil or empty. `size` may be NULL:
** then a NUL byte inside is refused. */
const char *tide__text_argument(lua_State *L, int index, const char *argument, size_t *size);

/* A tenant, or a name of an aggregate type, id, thread, ..., by the rules of names.h. */
const char *tide__tenant_argument(lua_State *L, int index);
const char *tide__name_argument(lua_State *L, int index, const char *argument);

/* An integer (a float with an integral value counts) from low to high. */
int64_t tide__integer_argument(lua_State *L, int index, const char *argument, int64_t low,
                               int64_t high);

/* The same, with a value for nil. */
int64_t tide__integer_option(lua_State *L, int index, const char *argument, int64_t low,
                             int64_t high, int64_t absent);

void tide__table_argument(lua_State *L, int index, const char *argument);

#endif
