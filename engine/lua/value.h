/* value.h - Lua values as BSON and back, exactly; and the two kinds of marked
** tables: arrays, and read-only views.
**
** Every function is for one lua_State and raises its errors as Lua errors. Only
** raw access is used: no metamethod, so no Lua code, runs in here. */
#ifndef TIDE_LUA_VALUE_H
#define TIDE_LUA_VALUE_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

typedef enum tide_encoding {
  TIDE_ENCODE_VALUE = 0,   /* a payload or document: the strict rules             */
  TIDE_ENCODE_PAYLOAD = 1, /* the same, without aggregateId, expectedVersion and
                              commandId at the top                                */
  TIDE_ENCODE_STATE = 2,   /* an aggregate's state: NaN, infinities and keys of any
                              kind are kept, too; aggregateId and aggregateVersion
                              and the metatable at the top are left out           */
  TIDE_ENCODE_SHOWN = 3    /* something to look at that may have a state in it    */
} tide_encoding;

/* Makes the metatables and the encoder of this state: [-0, +0]. Once. */
void tide__value_open(lua_State *L);

/* Pushes the table at `index` as a BSON string. What cannot be stored exactly raises
** InvalidArgumentError, its argument the path of the field ("items[2].price"; `what`
** for the table itself); too much of it LimitError. [-0, +1] */
void tide__value_encode(lua_State *L, int index, tide_encoding encoding, const char *what);

/* Pushes the document as a new table; arrays get the mark. Bytes that are no sound
** BSON raise StoreError. The bytes must stay valid also if it raises. [-0, +1] */
void tide__value_decode(lua_State *L, const uint8_t *data, size_t size, tide_encoding encoding);

/* Replaces the plain table on the top by a read-only view of it, and the tables in it
** too. The caller gives the table up. [-1, +1] */
void tide__value_freeze(lua_State *L);

/* Pushes a copy of the table at `index` that shares no table with it; tables that are
** met twice are copied once. Metatables are kept. [-0, +1] */
void tide__value_copy(lua_State *L, int index);

/* Marks the table on the top as an array. [-0, +0] */
void tide__value_mark_array(lua_State *L);

/* 1 if the table at `index` is marked as an array; read-only views are looked through. */
int tide__value_is_array(lua_State *L, int index);

/* ---- BSON writing, shared with the commit's body -------------------------- */

/* A growing buffer that the Lua state owns: an error in between leaks nothing. */
typedef struct tide_writer {
  lua_State *L;
  uint8_t *data;
  size_t size, capacity;
} tide_writer;

/* The state's own writer, emptied. There is one: do not nest its uses. */
tide_writer *tide__writer(lua_State *L);

void tide__write_bytes(tide_writer *writer, const void *data, size_t size);
void tide__write_key(tide_writer *writer, uint8_t type, const char *key, size_t size);
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
void tide__writer_push(tide_writer *writer);

#define TIDE_BSON_DOUBLE   0x01
#define TIDE_BSON_TEXT     0x02
#define TIDE_BSON_DOCUMENT 0x03
#define TIDE_BSON_ARRAY    0x04
#define TIDE_BSON_BINARY   0x05
#define TIDE_BSON_BOOL     0x08
#define TIDE_BSON_NULL     0x0A
#define TIDE_BSON_INT32    0x10
#define TIDE_BSON_INT64    0x12

#endif
