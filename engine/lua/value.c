/* value.c - Lua values as BSON and back, exactly. The format: bsonspec.org 1.1. */
#include "lua/value.h"

#include <bson/bson.h>
#include <lauxlib.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/bson_check.h"
#include "core/commit.h"
#include "core/error.h"
#include "core/names.h"
#include "lua/lua_error.h"

/* Their addresses are keys of the registry and of metatables. */
static const char array_key = 'a', writer_key = 'w', view_key = 'v';

#define WRITER_TYPE "tidelog.writer"
#define WRITER_KEEP ((size_t)64 * 1024) /* a larger buffer is not kept */

/* ---- writing BSON --------------------------------------------------------- */

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

tide_writer *tide__writer(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &writer_key);
  tide_writer *writer = lua_touserdata(L, -1);
  lua_pop(L, 1); /* the registry keeps it */
  writer->L = L;
  writer->size = 0;
  if (writer->capacity > WRITER_KEEP) writer_resize(writer, 0);
  return writer;
}

void tide__write_bytes(tide_writer *writer, const void *data, size_t size) {
  if (size > writer->capacity - writer->size) {
    /* what is larger than any commit is refused at once, not first built */
    if (size > TIDE_BODY_MAX || writer->size > TIDE_BODY_MAX - size) {
      tide_error error = {0};
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

void tide__write_key(tide_writer *writer, uint8_t type, const char *key, size_t size) {
  tide__write_bytes(writer, &type, 1);
  tide__write_bytes(writer, key, size);
  tide__write_bytes(writer, "", 1);
}

static void write_text(tide_writer *writer, const char *text, size_t size) {
  /* checked here because the size with its NUL must fit 32 bits */
  if (size < TIDE_BODY_MAX) write_number(writer, 4, size + 1);
  tide__write_bytes(writer, text, size);
  tide__write_bytes(writer, "", 1);
}

void tide__write_text(tide_writer *writer, const char *key, const char *text, size_t size) {
  tide__write_key(writer, TIDE_BSON_TEXT, key, strlen(key));
  write_text(writer, text, size);
}

void tide__write_int(tide_writer *writer, const char *key, int64_t value) {
  bool small = value >= INT32_MIN && value <= INT32_MAX;
  tide__write_key(writer, small ? TIDE_BSON_INT32 : TIDE_BSON_INT64, key, strlen(key));
  write_number(writer, small ? 4 : 8, (uint64_t)value);
}

void tide__write_int64(tide_writer *writer, const char *key, int64_t value) {
  tide__write_key(writer, TIDE_BSON_INT64, key, strlen(key));
  write_number(writer, 8, (uint64_t)value);
}

static void write_double(tide_writer *writer, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  write_number(writer, 8, bits);
}

void tide__write_double(tide_writer *writer, const char *key, double value) {
  tide__write_key(writer, TIDE_BSON_DOUBLE, key, strlen(key));
  write_double(writer, value);
}

void tide__write_bool(tide_writer *writer, const char *key, int value) {
  tide__write_key(writer, TIDE_BSON_BOOL, key, strlen(key));
  tide__write_bytes(writer, value ? "\1" : "", 1);
}

void tide__write_binary(tide_writer *writer, const char *key, const void *data, size_t size) {
  tide__write_key(writer, TIDE_BSON_BINARY, key, strlen(key));
  write_number(writer, 4, size);
  tide__write_bytes(writer, "", 1); /* subtype: generic */
  tide__write_bytes(writer, data, size);
}

void tide__write_document(tide_writer *writer, uint8_t type, const char *key, const void *data,
                          size_t size) {
  tide__write_key(writer, type, key, strlen(key));
  tide__write_bytes(writer, data, size);
}

size_t tide__write_begin(tide_writer *writer, uint8_t type, const char *key) {
  if (key != NULL) tide__write_key(writer, type, key, strlen(key));
  size_t begin = writer->size;
  write_number(writer, 4, 0);
  return begin;
}

void tide__write_end(tide_writer *writer, size_t begin) {
  tide__write_bytes(writer, "", 1);
  put_int(writer->data + begin, 4, writer->size - begin);
}

void tide__writer_push(tide_writer *writer) {
  lua_pushlstring(writer->L, (const char *)writer->data, writer->size);
  writer->size = 0;
}

/* ---- marks ------------------------------------------------------------------ */

static int view_refuses(lua_State *L) {
  tide_error error = {0};
  size_t size;
  const char *key = luaL_tolstring(L, 2, &size);
  tide__fail(&error, TIDE_INVALID_ARGUMENT, key, "%s is read-only", key);
  return tide__lua_raise(L, &error);
}

/* The views' metamethods have the table that is looked at as their upvalue. */
static int view_length(lua_State *L) {
  lua_pushinteger(L, luaL_len(L, lua_upvalueindex(1)));
  return 1;
}

static int view_next(lua_State *L) {
  lua_settop(L, 2);
  if (lua_next(L, lua_upvalueindex(1))) return 2;
  lua_pushnil(L);
  return 1;
}

static int view_pairs(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, view_next, 1);
  return 1;
}

static void set_method(lua_State *L, int table, const char *name, lua_CFunction function,
                       int target) {
  lua_pushvalue(L, target);
  lua_pushcclosure(L, function, 1);
  lua_setfield(L, table, name);
}

void tide__value_freeze(lua_State *L) {
  int target = lua_gettop(L);
  luaL_checkstack(L, 8, "for a read-only view");
  lua_pushnil(L);
  while (lua_next(L, target)) { /* Stack: target, key, value */
    if (lua_type(L, -1) == LUA_TTABLE) {
      tide__value_freeze(L);
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, target); /* an existing key: the traversal may go on */
    } else {
      lua_pop(L, 1);
    }
  }
  lua_createtable(L, 0, 0); /* the view */
  lua_createtable(L, 0, 6); /* its metatable */
  int metatable = lua_gettop(L);
  lua_pushvalue(L, target);
  lua_setfield(L, metatable, "__index");
  lua_pushvalue(L, target);
  lua_rawsetp(L, metatable, &view_key);
  lua_pushcfunction(L, view_refuses);
  lua_setfield(L, metatable, "__newindex");
  set_method(L, metatable, "__len", view_length, target);
  set_method(L, metatable, "__pairs", view_pairs, target);
  lua_pushliteral(L, "read-only");
  lua_setfield(L, metatable, "__metatable");
  lua_setmetatable(L, -2);
  lua_replace(L, target);
}

/* Replaces the table on the top by what it is a view of, if it is one. */
static bool look_through(lua_State *L) {
  if (!lua_getmetatable(L, -1)) return false;
  bool view = lua_rawgetp(L, -1, &view_key) == LUA_TTABLE;
  lua_replace(L, -2); /* Stack: table, target or nil */
  if (view)
    lua_replace(L, -2);
  else
    lua_pop(L, 1);
  return view;
}

typedef enum mark { PLAIN, ARRAY, OTHER } mark;

static mark mark_of(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return PLAIN;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return same ? ARRAY : OTHER;
}

void tide__value_mark_array(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
  lua_setmetatable(L, -2);
}

int tide__value_is_array(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TTABLE) return 0;
  lua_pushvalue(L, index);
  look_through(L);
  int array = mark_of(L, -1) == ARRAY;
  lua_pop(L, 1);
  return array;
}

/* ---- encoding ---------------------------------------------------------------- */

/* The way from the top to a value, on the C stack. */
typedef struct step {
  const struct step *up;
  const char *key; /* NULL: the array element `index` */
  size_t size;
  lua_Integer index;
  const void *table; /* the table whose entry it is */
} step;

typedef struct encoder {
  lua_State *L;
  tide_writer *writer;
  const char *what;
  tide_encoding encoding;
  bool lenient; /* a state, or something with a state in it */
  int seen;     /* index of the tables met so far, or 0 */
} encoder;

static void put_path(const encoder *e, const step *s, char *path, size_t size) {
  if (s == NULL) {
    path[0] = '\0';
    return;
  }
  put_path(e, s->up, path, size);
  size_t used = strlen(path);
  if (s->key == NULL)
    snprintf(path + used, size - used, "[%lld]", (long long)s->index);
  else
    snprintf(path + used, size - used, "%s%.*s", used > 0 ? "." : "",
             (int)(s->size < 64 ? s->size : 64), s->key);
}

static void refuse(const encoder *e, const step *at, int code, const char *why) {
  char path[128];
  tide_error error = {0};
  put_path(e, at, path, sizeof path);
  if (path[0] == '\0') snprintf(path, sizeof path, "%s", e->what);
  if (strcmp(path, e->what) == 0)
    tide__fail(&error, code, path, "%s cannot be stored: %s", path, why);
  else
    tide__fail(&error, code, path, "%s in the %s cannot be stored: %s", path, e->what, why);
  tide__lua_raise(e->L, &error);
}

typedef struct key {
  int type; /* LUA_TNUMBER, LUA_TSTRING or LUA_TBOOLEAN */
  bool is_integer;
  lua_Integer integer;
  lua_Number number;
  const char *text; /* anchored by the table */
  size_t size;
} key;

static int compare_texts(const key *a, const key *b) {
  int order = memcmp(a->text, b->text, a->size < b->size ? a->size : b->size);
  return order != 0 ? order : (a->size > b->size) - (a->size < b->size);
}

static int compare_keys(const void *x, const void *y) {
  const key *a = x, *b = y;
  if (a->type != b->type) return a->type < b->type ? -1 : 1;
  if (a->type == LUA_TSTRING) return compare_texts(a, b);
  if (a->is_integer && b->is_integer) return (a->integer > b->integer) - (a->integer < b->integer);
  if (a->is_integer != b->is_integer) return a->is_integer ? -1 : 1;
  return (a->number > b->number) - (a->number < b->number);
}

static void encode_table(encoder *e, const step *at, const step *up, int depth);

/* Writes the value on the top under the key; leaves the stack as it was. */
static void encode_value(encoder *e, const char *name, size_t size, const step *at, int depth) {
  lua_State *L = e->L;
  tide_writer *w = e->writer;
  switch (lua_type(L, -1)) {
  case LUA_TNUMBER:
    if (lua_isinteger(L, -1)) {
      lua_Integer value = lua_tointeger(L, -1);
      bool small = value >= INT32_MIN && value <= INT32_MAX;
      tide__write_key(w, small ? TIDE_BSON_INT32 : TIDE_BSON_INT64, name, size);
      write_number(w, small ? 4 : 8, (uint64_t)value);
    } else {
      lua_Number value = lua_tonumber(L, -1);
      if (!isfinite(value) && !e->lenient)
        refuse(e, at, TIDE_INVALID_ARGUMENT, isnan(value) ? "it is NaN" : "it is infinite");
      tide__write_key(w, TIDE_BSON_DOUBLE, name, size);
      write_double(w, value);
    }
    break;
  case LUA_TSTRING: {
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    if (length >= TIDE_BODY_MAX)
      refuse(e, at, TIDE_LIMIT, "the text is longer than a commit may be");
    if (!tide__is_utf8(text, length))
      refuse(e, at, TIDE_INVALID_ARGUMENT, "the text is not valid UTF-8");
    tide__write_key(w, TIDE_BSON_TEXT, name, size);
    write_text(w, text, length);
    break;
  }
  case LUA_TBOOLEAN:
    tide__write_key(w, TIDE_BSON_BOOL, name, size);
    tide__write_bytes(w, lua_toboolean(L, -1) ? "\1" : "", 1);
    break;
  case LUA_TLIGHTUSERDATA:
    if (lua_touserdata(L, -1) != NULL) refuse(e, at, TIDE_INVALID_ARGUMENT, "it is a userdata");
    tide__write_key(w, TIDE_BSON_NULL, name, size);
    break;
  case LUA_TTABLE: {
    size_t place = w->size; /* the type is known only after a look at the table */
    tide__write_key(w, TIDE_BSON_DOCUMENT, name, size);
    lua_pushvalue(L, -1);
    look_through(L);
    size_t begin = w->size;
    encode_table(e, at, at, depth + 1);
    if (w->data[begin] == 'A') w->data[place] = TIDE_BSON_ARRAY;
    put_int(w->data + begin, 4, w->size - begin);
    lua_pop(L, 1);
    break;
  }
  default: {
    char why[64];
    snprintf(why, sizeof why, "it is a %s", luaL_typename(L, -1));
    refuse(e, at, TIDE_INVALID_ARGUMENT, why);
  }
  }
}

/* A table that BSON has no form for, in a state: { "": [key, value, key, value, ...] }. */
static void encode_pairs(encoder *e, const key *keys, size_t count, const step *at, int depth) {
  lua_State *L = e->L;
  char digits[16];
  int table = lua_gettop(L);
  tide__write_key(e->writer, TIDE_BSON_ARRAY, "", 0);
  size_t begin = tide__write_begin(e->writer, TIDE_BSON_ARRAY, NULL);
  for (size_t i = 0; i < count; i++) {
    if (keys[i].type == LUA_TSTRING)
      lua_pushlstring(L, keys[i].text, keys[i].size);
    else if (keys[i].type == LUA_TBOOLEAN)
      lua_pushboolean(L, (int)keys[i].integer);
    else if (keys[i].is_integer)
      lua_pushinteger(L, keys[i].integer);
    else
      lua_pushnumber(L, keys[i].number);
    int length = snprintf(digits, sizeof digits, "%zu", 2 * i);
    encode_value(e, digits, (size_t)length, at, depth);
    lua_rawget(L, table);
    length = snprintf(digits, sizeof digits, "%zu", 2 * i + 1);
    encode_value(e, digits, (size_t)length, at, depth);
    lua_pop(L, 1);
  }
  tide__write_end(e->writer, begin);
}

static void encode_array(encoder *e, lua_Integer count, const step *up, int depth) {
  lua_State *L = e->L;
  char digits[16];
  step at = {.up = up, .table = lua_topointer(L, -1)};
  for (lua_Integer i = 1; i <= count; i++) {
    at.index = i;
    lua_rawgeti(L, -1, i);
    /* bson_uint32_to_string has the small ones ready */
    const char *name;
    size_t size = bson_uint32_to_string((uint32_t)(i - 1), &name, digits, sizeof digits);
    encode_value(e, name, size, &at, depth);
    lua_pop(L, 1);
  }
}

static bool left_out(const encoder *e, const key *k, int depth) {
  static const char *const control[] = {"aggregateId", "expectedVersion", "commandId", NULL};
  static const char *const identity[] = {"aggregateId", "aggregateVersion", NULL};
  if (depth > 1 || e->encoding == TIDE_ENCODE_VALUE || e->encoding == TIDE_ENCODE_SHOWN)
    return false;
  const char *const *names = e->encoding == TIDE_ENCODE_PAYLOAD ? control : identity;
  for (; *names != NULL; names++)
    if (strcmp(*names, k->text) == 0) return true;
  return false;
}

static void encode_document(encoder *e, const key *keys, size_t count, const step *up, int depth) {
  lua_State *L = e->L;
  step at = {.up = up, .table = lua_topointer(L, -1)};
  for (size_t i = 0; i < count; i++) {
    at.key = keys[i].text;
    at.size = keys[i].size;
    if (left_out(e, &keys[i], depth)) continue;
    if (memchr(keys[i].text, 0, keys[i].size) != NULL)
      refuse(e, &at, TIDE_INVALID_ARGUMENT, "its key holds a NUL byte");
    if (!tide__is_utf8(keys[i].text, keys[i].size))
      refuse(e, &at, TIDE_INVALID_ARGUMENT, "its key is not valid UTF-8");
    lua_pushlstring(L, keys[i].text, keys[i].size);
    lua_rawget(L, -2);
    encode_value(e, keys[i].text, keys[i].size, &at, depth);
    lua_pop(L, 1);
  }
}

typedef struct shape {
  size_t count, texts, integers, others;
  lua_Integer largest;
  bool empty_key, odd_integer;
} shape;

/* Looks at the table on the top; fills keys where there is room for `room` of them. */
static shape look(encoder *e, const step *up, key *keys, size_t room) {
  lua_State *L = e->L;
  shape s = {0};
  lua_pushnil(L);
  while (lua_next(L, -2)) { /* Stack: table, key, value */
    key k = {.type = lua_type(L, -2)};
    if (k.type == LUA_TSTRING) {
      k.text = lua_tolstring(L, -2, &k.size);
      s.texts++;
      if (k.size == 0) s.empty_key = true;
    } else if (lua_isinteger(L, -2)) {
      k.is_integer = true;
      k.integer = lua_tointeger(L, -2);
      s.integers++;
      if (k.integer < 1) s.odd_integer = true;
      if (k.integer > s.largest) s.largest = k.integer;
    } else if (k.type == LUA_TNUMBER) {
      k.number = lua_tonumber(L, -2);
      s.others++;
    } else if (k.type == LUA_TBOOLEAN) {
      k.integer = lua_toboolean(L, -2);
      s.others++;
    } else {
      refuse(e, up, TIDE_INVALID_ARGUMENT, "it has a key that is neither text nor number");
    }
    if (s.count < room) keys[s.count] = k;
    s.count++;
    lua_pop(L, 1);
  }
  return s;
}

/* A table may not contain itself; in a state, whose snapshot must come back the same,
** no table may be met twice. */
static void check_again(encoder *e, const step *up) {
  lua_State *L = e->L;
  const void *table = lua_topointer(L, -1);
  for (const step *s = up; s != NULL; s = s->up)
    if (s->table == table) refuse(e, up, TIDE_INVALID_ARGUMENT, "the table contains itself");
  if (e->seen == 0) return;
  if (lua_rawgetp(L, e->seen, table) != LUA_TNIL)
    refuse(e, up, TIDE_INVALID_ARGUMENT, "the same table is in two places");
  lua_pop(L, 1);
  lua_pushboolean(L, 1);
  lua_rawsetp(L, e->seen, table);
}

#define FEW_KEYS 24

/* Writes the table on the top as a document without its first key: size (first byte 'A'
** for an array), entries, NUL. The caller sets the size. */
static void encode_table(encoder *e, const step *at, const step *up, int depth) {
  lua_State *L = e->L;
  key few[FEW_KEYS], *keys = few;
  if (depth > TIDE_DEPTH_MAX)
    refuse(e, at, TIDE_INVALID_ARGUMENT, "it is nested more than 64 levels deep");
  luaL_checkstack(L, 10, "for a nested table");
  check_again(e, up);
  mark marked = mark_of(L, -1);
  if (marked == OTHER && !(depth == 1 && e->lenient))
    refuse(e, at, TIDE_INVALID_ARGUMENT, "it has a metatable: only plain tables can be stored");
  size_t begin = e->writer->size;
  tide__write_bytes(e->writer, "D\0\0\0", 4);
  shape s = look(e, at, few, FEW_KEYS);
  bool sequence = s.integers == s.count && !s.odd_integer && (size_t)s.largest == s.count;
  bool array = sequence && (marked == ARRAY || s.count > 0);
  bool document = s.texts == s.count && marked != ARRAY;
  if (e->lenient) {
    if (document && s.empty_key) document = false;
    if (depth == 1) array = false;
  } else if (!array && !document) {
    if (marked == ARRAY)
      refuse(e, at, TIDE_INVALID_ARGUMENT, "the array has other keys than 1 to n");
    if (s.integers == s.count)
      refuse(e, at, TIDE_INVALID_ARGUMENT, "the list has gaps or keys below 1");
    refuse(e, at, TIDE_INVALID_ARGUMENT, "the table mixes names and numbers as keys");
  }
  if (array) {
    e->writer->data[begin] = 'A';
    encode_array(e, (lua_Integer)s.count, up, depth);
  } else {
    bool many = s.count > FEW_KEYS;
    if (many) { /* owned by the state, so that an error leaks nothing */
      keys = lua_newuserdatauv(L, s.count * sizeof *keys, 0);
      lua_insert(L, -2);
      look(e, at, keys, s.count);
    }
    qsort(keys, s.count, sizeof *keys, compare_keys);
    if (document)
      encode_document(e, keys, s.count, up, depth);
    else if (marked == ARRAY)
      refuse(e, at, TIDE_INVALID_ARGUMENT, "the array has gaps");
    else
      encode_pairs(e, keys, s.count, at, depth);
    if (many) lua_remove(L, -2);
  }
  tide__write_bytes(e->writer, "", 1);
}

void tide__value_encode(lua_State *L, int index, tide_encoding encoding, const char *what) {
  encoder e = {.L = L, .what = what, .encoding = encoding};
  e.lenient = encoding == TIDE_ENCODE_STATE || encoding == TIDE_ENCODE_SHOWN;
  index = lua_absindex(L, index);
  luaL_checkstack(L, 10, "for a value");
  e.writer = tide__writer(L);
  if (encoding == TIDE_ENCODE_STATE) {
    lua_newtable(L);
    e.seen = lua_gettop(L);
  }
  lua_pushvalue(L, index);
  if (lua_type(L, -1) != LUA_TTABLE) refuse(&e, NULL, TIDE_INVALID_ARGUMENT, "it is not a table");
  look_through(L);
  encode_table(&e, NULL, NULL, 1);
  if (e.writer->data[0] == 'A')
    refuse(&e, NULL, TIDE_INVALID_ARGUMENT, "it is a list, where a table with names is needed");
  put_int(e.writer->data, 4, e.writer->size);
  tide__writer_push(e.writer);
  lua_insert(L, index + 1);
  lua_settop(L, index + 1);
}

/* ---- decoding ---------------------------------------------------------------- */

static void damaged(lua_State *L, const char *why) {
  tide_error error = {0};
  tide__fail_store(&error, 0, "a stored value is damaged: %s", why);
  tide__lua_raise(L, &error);
}

/* How a document is to be read. */
typedef struct reading {
  bool array;
  bool state; /* may have the entry of encode_pairs */
  int depth;
} reading;

static void decode_into(lua_State *L, bson_iter_t *iter, reading how);

static void decode_table(lua_State *L, const uint8_t *data, size_t size, reading how) {
  bson_iter_t iter;
  if (how.depth > TIDE_BODY_DEPTH_MAX) damaged(L, "it is nested too deeply");
  if (!bson_iter_init_from_data(&iter, data, size)) damaged(L, "a document's size is wrong");
  luaL_checkstack(L, 6, "for a nested value");
  lua_createtable(L, 0, how.array ? 0 : 4);
  decode_into(L, &iter, how);
}

/* The pairs of encode_pairs, at `data`, as entries of the table on the top. */
static void decode_pairs(lua_State *L, const uint8_t *data, size_t size, int depth) {
  decode_table(L, data, size, (reading){true, true, depth + 1}); /* Stack: table, list */
  lua_Unsigned count = lua_rawlen(L, -1);
  for (lua_Unsigned i = 1; i + 1 <= count; i += 2) {
    lua_rawgeti(L, -1, (lua_Integer)i);
    int type = lua_type(L, -1);
    if (type != LUA_TSTRING && type != LUA_TNUMBER && type != LUA_TBOOLEAN)
      damaged(L, "a key of a table is none");
    if (type == LUA_TNUMBER && isnan((double)lua_tonumber(L, -1)))
      damaged(L, "a key of a table is NaN");
    lua_rawgeti(L, -2, (lua_Integer)i + 1);
    lua_rawset(L, -4);
  }
  lua_pop(L, 1);
}

static void decode_into(lua_State *L, bson_iter_t *iter, reading how) {
  lua_Integer next = 1;
  while (bson_iter_next(iter)) {
    uint32_t size;
    const uint8_t *data;
    const char *text;
    size_t key_size = bson_iter_key_len(iter);
    bson_type_t type = bson_iter_type_unsafe(iter);
    if (how.state && key_size == 0 && type == BSON_TYPE_ARRAY && !how.array) {
      bson_iter_array(iter, &size, &data);
      decode_pairs(L, data, size, how.depth);
      continue;
    }
    if (!how.array) lua_pushlstring(L, bson_iter_key_unsafe(iter), key_size);
    switch (type) {
    case BSON_TYPE_INT32:
      lua_pushinteger(L, bson_iter_int32_unsafe(iter));
      break;
    case BSON_TYPE_INT64:
      lua_pushinteger(L, bson_iter_int64_unsafe(iter));
      break;
    case BSON_TYPE_DOUBLE:
      lua_pushnumber(L, bson_iter_double_unsafe(iter));
      break;
    case BSON_TYPE_BOOL:
      lua_pushboolean(L, bson_iter_bool_unsafe(iter));
      break;
    case BSON_TYPE_NULL:
      lua_pushlightuserdata(L, NULL);
      break;
    case BSON_TYPE_UTF8:
      text = bson_iter_utf8(iter, &size);
      lua_pushlstring(L, text, size);
      break;
    case BSON_TYPE_BINARY:
      bson_iter_binary(iter, NULL, &size, &data);
      lua_pushlstring(L, (const char *)data, size);
      break;
    case BSON_TYPE_DOCUMENT:
      bson_iter_document(iter, &size, &data);
      decode_table(L, data, size, (reading){false, how.state, how.depth + 1});
      break;
    case BSON_TYPE_ARRAY:
      bson_iter_array(iter, &size, &data);
      decode_table(L, data, size, (reading){true, how.state, how.depth + 1});
      break;
    default:
      damaged(L, "a value has a type that Tidelog does not store");
    }
    if (how.array)
      lua_rawseti(L, -2, next++);
    else
      lua_rawset(L, -3);
  }
  if (iter->err_off != 0) damaged(L, "a value is cut off");
  if (how.array) tide__value_mark_array(L);
}

void tide__value_decode(lua_State *L, const uint8_t *data, size_t size, tide_encoding encoding) {
  decode_table(L, data, size, (reading){false, encoding == TIDE_ENCODE_STATE, 1});
}

/* ---- copying ------------------------------------------------------------------ */

/* Pushes the copy of the table on the top, made now or before: `memo` maps tables to their
** copies, `queue` lists the tables whose entries are still to be copied. */
static void push_copy(lua_State *L, int memo, int queue) {
  const void *table = lua_topointer(L, -1);
  if (lua_rawgetp(L, memo, table) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_pushvalue(L, -1);
  lua_rawseti(L, queue, (lua_Integer)lua_rawlen(L, queue) + 1);
  lua_createtable(L, 0, 4);
  if (lua_getmetatable(L, -2)) lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, memo, table);
}

/* Copies the entries of the table at `from` into the one at `to`. Returns whether there was
** a table among the values; where memo is 0 it stops there. */
static bool copy_entries(lua_State *L, int from, int to, int memo, int queue) {
  bool nested = false;
  lua_pushnil(L);
  while (lua_next(L, from)) { /* Stack: key, value */
    lua_pushvalue(L, -2);
    if (lua_type(L, -2) == LUA_TTABLE) {
      nested = true;
      if (memo == 0) {
        lua_pop(L, 3);
        return true;
      }
      lua_pushvalue(L, -2);
      push_copy(L, memo, queue);
      lua_remove(L, -2); /* Stack: key, value, key, copy */
    } else {
      lua_pushvalue(L, -2);
    }
    lua_rawset(L, to);
    lua_pop(L, 1);
  }
  return nested;
}

/* Works through a queue and not by recursion: a state may be nested as deeply as it likes. */
void tide__value_copy(lua_State *L, int index) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 12, "for a copy");
  lua_createtable(L, 0, 8);
  int copy = lua_gettop(L);
  if (lua_getmetatable(L, index)) lua_setmetatable(L, copy);
  /* most states have no tables in them, and need no memo */
  if (!copy_entries(L, index, copy, 0, 0)) return;
  lua_newtable(L);
  int memo = copy + 1, queue = copy + 2;
  lua_pushvalue(L, copy);
  lua_rawsetp(L, memo, lua_topointer(L, index));
  lua_newtable(L);
  copy_entries(L, index, copy, memo, queue);
  for (lua_Integer i = 1; i <= (lua_Integer)lua_rawlen(L, queue); i++) {
    lua_rawgeti(L, queue, i);
    lua_rawgetp(L, memo, lua_topointer(L, -1)); /* Stack: table, its copy */
    copy_entries(L, queue + 1, queue + 2, memo, queue);
    lua_settop(L, queue);
  }
  lua_settop(L, copy);
}

/* ---- set-up -------------------------------------------------------------------- */

void tide__value_open(lua_State *L) {
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "tidelog.array");
  lua_setfield(L, -2, "__name");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &array_key);
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
