/* tables.h - Lua tables that are more than plain ones: arrays, which stay arrays when they
** are empty, and read-only views; and deep copies.
**
** Only raw access is used: no metamethod, so no Lua code, runs in here. */
#ifndef TIDE_LUA_TABLES_H
#define TIDE_LUA_TABLES_H

#include <lua.h>
#include <stdbool.h>

/* Makes the metatables: [-0, +0]. Once. */
void tide__tables_open(lua_State *L);

/* Replaces the plain table on the top by a read-only view of it, and the tables in it
** too. The caller gives the table up. [-1, +1] */
void tide__freeze(lua_State *L);

/* Replaces the table on the top by what it is a view of, if it is one. [-1, +1] */
bool tide__look_through(lua_State *L);

/* Pushes a copy of the table at `index` that shares no table with it; tables that are
** met twice are copied once. Metatables are kept. [-0, +1] */
void tide__copy(lua_State *L, int index);

/* Marks the table on the top as an array. [-0, +0] */
void tide__mark_array(lua_State *L);

/* What the metatable of the table at `index` says. */
typedef enum tide_mark { TIDE_MARK_NONE, TIDE_MARK_ARRAY, TIDE_MARK_OTHER } tide_mark;
tide_mark tide__mark_of(lua_State *L, int index);

/* 1 if the value at `index` is a table marked as an array; views are looked through. */
int tide__is_array(lua_State *L, int index);

#endif
