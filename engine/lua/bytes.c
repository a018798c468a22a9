/* bytes.c - malloc'ed bytes in the care of the collector. */
#include "lua/bytes.h"

#include <lauxlib.h>
#include <string.h>

#define BYTES_TYPE "tidelog.Bytes"

static int bytes_gc(lua_State *L) {
  tide__bytes_free(luaL_checkudata(L, 1, BYTES_TYPE));
  return 0;
}

void tide__bytes_open(lua_State *L) {
  luaL_newmetatable(L, BYTES_TYPE);
  lua_pushcfunction(L, bytes_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}

tide_bytes *tide__bytes_push(lua_State *L) {
  tide_bytes *bytes = lua_newuserdatauv(L, sizeof *bytes, 0);
  memset(bytes, 0, sizeof *bytes);
  luaL_setmetatable(L, BYTES_TYPE);
  return bytes;
}

void tide__bytes_text(lua_State *L, tide_bytes *bytes) {
  if (bytes->data == NULL)
    lua_pushnil(L);
  else
    lua_pushlstring(L, (const char *)bytes->data, bytes->size);
  tide__bytes_free(bytes);
}

void tide__bytes_list(lua_State *L, tide_bytes *bytes, size_t count) {
  const char *at = (const char *)bytes->data;
  lua_createtable(L, (int)count, 0);
  for (size_t i = 1; i <= count; i++, at += strlen(at) + 1) {
    lua_pushstring(L, at);
    lua_rawseti(L, -2, (lua_Integer)i);
  }
  tide__bytes_free(bytes);
}
