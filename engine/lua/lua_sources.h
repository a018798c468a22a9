/* lua_sources.h - the files of lua/tidelog, embedded in the library, so that a
** host or the command needs no Lua path. cmake/embed_lua.cmake makes the table.
*/
#ifndef TIDE_LUA_LUA_SOURCES_H
#define TIDE_LUA_LUA_SOURCES_H

#include <stddef.h>

typedef struct tide__lua_source {
  const char *module; /* the name for require, for example "tidelog.err"     */
  const char *code;   /* the file's bytes, and a NUL behind them             */
  size_t size;        /* without that NUL                                    */
} tide__lua_source;

/* Sorted by the path of the file; ended by {NULL, NULL, 0}. */
extern const tide__lua_source tide__lua_sources[];

#endif
