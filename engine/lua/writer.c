/* writer.c - writing BSON (bsonspec.org, version 1.1). */
#include "lua/writer.h"

#include <lauxlib.h>
#include <stdbool.h>
#include <string.h>

#include "core/commit.h"
#include "core/error.h"
#include "lua/lua_error.h"

static const char writer_key = 'w'; /* its address is the registry's key */

#define WRITER_TYPE "tidelog.writer"
#define WRITER_KEEP ((size_t)64 * 1024) /* a larger buffer is not kept */

static void writer_resize(tide_writer *writer, size_t capacity) {
  void *context;
  lua_Alloc allocate = lua_getallocf(writer->L, &context);
  void *data = allocate(context, writer->data, writer->capacity, capacity);
  if (data == NULL && capacity > 0) luaL_error(writer->L, "not enough memory");
  writer->data = data;
  writer->capacity = capacity;
}

static int writer_gc(lua_State *L) {
  tide_writer *writer = luaL_checkudata(L, 1, WRITER_TYPE);
  writer->L = L;
  writer_resize(writer, 0);
  return 0;
}

tide_writer *tide__writer_push(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &writer_key);
  tide_writer *writer = lua_touserdata(L, -1);
  if (writer->busy) { /* or a rare error, as of memory, left it so */
    lua_pop(L, 1);
    tide__writer_open(L);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &writer_key);
    writer = lua_touserdata(L, -1);
  }
  writer->L = L;
  writer->busy = true;
  writer->size = 0;
  if (writer->capacity > WRITER_KEEP) writer_resize(writer, 0);
  return writer;
}

void tide__write_bytes(tide_writer *writer, const void *data, size_t size) {
  if (size > writer->capacity - writer->size) {
    /* what is larger than any commit is refused at once, not first built */
    if (size > TIDE_BODY_MAX || writer->size > TIDE_BODY_MAX - size) {
      tide_error error = {0};
      writer->busy = false;
      tide__fail(&error, TIDE_LIMIT, NULL, "the value takes more than %d bytes", TIDE_BODY_MAX);
      tide__lua_raise(writer->L, &error);
    }
    size_t capacity = writer->capacity < 512 ? 1024 : writer->capacity * 2;
    while (capacity < writer->size + size)
      capacity *= 2;
    writer_resize(writer, capacity);
  }
  if (size > 0) memcpy(writer->data + writer->size, data, size);
  writer->size += size;
}

static void put_int(uint8_t *to, int bytes, uint64_t value) {
  for (int i = 0; i < bytes; i++)
    to[i] = (uint8_t)(value >> (8 * i));
}

static void write_number(tide_writer *writer, int bytes, uint64_t value) {
  uint8_t raw[8];
  put_int(raw, bytes, value);
  tide__write_bytes(writer, raw, (size_t)bytes);
}

void tide__write_key(tide_writer *writer, uint8_t type, const char *key) {
  tide__write_bytes(writer, &type, 1);
  tide__write_bytes(writer, key, strlen(key) + 1);
}

void tide__write_text(tide_writer *writer, const char *key, const char *text, size_t size) {
  tide__write_key(writer, TIDE_BSON_TEXT, key);
  /* what is longer is refused below; its size with the NUL need not fit 32 bits */
  if (size < TIDE_BODY_MAX) write_number(writer, 4, size + 1);
  tide__write_bytes(writer, text, size);
  tide__write_bytes(writer, "", 1);
}

void tide__write_int(tide_writer *writer, const char *key, int64_t value) {
  bool small = value >= INT32_MIN && value <= INT32_MAX;
  tide__write_key(writer, small ? TIDE_BSON_INT32 : TIDE_BSON_INT64, key);
  write_number(writer, small ? 4 : 8, (uint64_t)value);
}

void tide__write_int64(tide_writer *writer, const char *key, int64_t value) {
  tide__write_key(writer, TIDE_BSON_INT64, key);
  write_number(writer, 8, (uint64_t)value);
}

void tide__write_double(tide_writer *writer, const char *key, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  tide__write_key(writer, TIDE_BSON_DOUBLE, key);
  write_number(writer, 8, bits);
}

void tide__write_bool(tide_writer *writer, const char *key, int value) {
  tide__write_key(writer, TIDE_BSON_BOOL, key);
  tide__write_bytes(writer, value ? "\1" : "", 1);
}

void tide__write_binary(tide_writer *writer, const char *key, const void *data, size_t size) {
  tide__write_key(writer, TIDE_BSON_BINARY, key);
  write_number(writer, 4, size);
  tide__write_bytes(writer, "", 1); /* subtype: generic */
  tide__write_bytes(writer, data, size);
}

void tide__write_document(tide_writer *writer, uint8_t type, const char *key, const void *data,
                          size_t size) {
  tide__write_key(writer, type, key);
  tide__write_bytes(writer, data, size);
}

size_t tide__write_begin(tide_writer *writer, uint8_t type, const char *key) {
  if (key != NULL) tide__write_key(writer, type, key);
  size_t begin = writer->size;
  write_number(writer, 4, 0);
  return begin;
}

void tide__write_end(tide_writer *writer, size_t begin) {
  tide__write_bytes(writer, "", 1);
  put_int(writer->data + begin, 4, writer->size - begin);
}

void tide__writer_text(tide_writer *writer) {
  lua_pushlstring(writer->L, (const char *)writer->data, writer->size);
  writer->size = 0;
  writer->busy = false;
}

void tide__writer_open(lua_State *L) {
  tide_writer *writer = lua_newuserdatauv(L, sizeof *writer, 0);
  memset(writer, 0, sizeof *writer);
  writer->L = L;
  if (luaL_newmetatable(L, WRITER_TYPE)) {
    lua_pushcfunction(L, writer_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &writer_key);
}
