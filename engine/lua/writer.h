/* writer.h - writing BSON into a buffer that the Lua state owns. Not libbson's builder:
** that aborts the process when an error leaves a document open. */
#ifndef TIDE_LUA_WRITER_H
#define TIDE_LUA_WRITER_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/bson_check.h"

/* Makes the writer of this state: [-0, +0]. Once. */
void tide__writer_open(lua_State *L);

/* A growing buffer that the Lua state owns: an error in between leaks nothing. */
typedef struct tide_writer {
  lua_State *L;
  uint8_t *data;
  size_t size, capacity;
  bool busy; /* between tide__writer_push and tide__writer_text */
} tide_writer;

/* Pushes the state's writer, emptied, or another where that one is in use: what allocates
** may run a finalizer that writes, too. It must stay on the stack while it is used, until
** tide__writer_text. [-0, +1] */
tide_writer *tide__writer_push(lua_State *L);

void tide__write_bytes(tide_writer *writer, const void *data, size_t size);
void tide__write_key(tide_writer *writer, uint8_t type, const char *key);
void tide__write_text(tide_writer *writer, const char *key, const char *text, size_t size);
void tide__write_int(tide_writer *writer, const char *key, int64_t value);
/* An int64 always, or a double. */
void tide__write_int64(tide_writer *writer, const char *key, int64_t value);
void tide__write_double(tide_writer *writer, const char *key, double value);
void tide__write_bool(tide_writer *writer, const char *key, int value);
void tide__write_binary(tide_writer *writer, const char *key, const void *data, size_t size);
/* A finished document or array under a key. */
void tide__write_document(tide_writer *writer, uint8_t type, const char *key, const void *data,
                          size_t size);
/* Begins a document (the outermost where key is NULL) and returns its place for end. */
size_t tide__write_begin(tide_writer *writer, uint8_t type, const char *key);
void tide__write_end(tide_writer *writer, size_t begin);
/* Pushes what was written as a string and empties the writer. [-0, +1] */
void tide__writer_text(tide_writer *writer);

#endif
