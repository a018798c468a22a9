/* bytes.h - malloc'ed bytes in the care of the collector: freed also if Lua raises. */
#ifndef TIDE_LUA_BYTES_H
#define TIDE_LUA_BYTES_H

#include <lua.h>

#include "stores/store.h"

/* Makes the metatable: [-0, +0]. Once. */
void tide__bytes_open(lua_State *L);

/* Pushes an empty owner, to be filled. [-0, +1] */
tide_bytes *tide__bytes_push(lua_State *L);

/* Pushes the bytes as a string, or nil where there are none, and frees them. [-0, +1] */
void tide__bytes_text(lua_State *L, tide_bytes *bytes);

/* Pushes a list of the `count` texts in the bytes, each ended by a NUL, and frees them.
** [-0, +1] */
void tide__bytes_list(lua_State *L, tide_bytes *bytes, size_t count);

#endif
