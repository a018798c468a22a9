/* value.c - Lua values as BSON and back, exactly. The format: bsonspec.org 1.1. */
#include "lua/value.h"

#include <bson/bson.h>
#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/bson_check.h"
#include "core/commit.h"
#include "core/error.h"
#include "core/names.h"
#include "lua/lua_error.h"
#include "lua/tables.h"
#include "lua/writer.h"

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
  e->writer->busy = false;
  tide__lua_raise(e->L, &error);
}

typedef struct key {
  int type; /* LUA_TNUMBER, LUA_TSTRING or LUA_TBOOLEAN */
  bool is_integer;
  lua_Integer integer;
  lua_Number number;
  const char *text; /* anchored: see look */
  size_t size;
  int place; /* see look */
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

static bool encode_table(encoder *e, const step *at, const step *up, int depth);

/* Writes the value on the top under the key; leaves the stack as it was. */
static void encode_value(encoder *e, const char *name, const step *at, int depth) {
  lua_State *L = e->L;
  tide_writer *w = e->writer;
  switch (lua_type(L, -1)) {
  case LUA_TNUMBER:
    if (lua_isinteger(L, -1)) {
      tide__write_int(w, name, lua_tointeger(L, -1));
    } else {
      lua_Number value = lua_tonumber(L, -1);
      if (!isfinite(value) && !e->lenient)
        refuse(e, at, TIDE_INVALID_ARGUMENT, isnan(value) ? "it is NaN" : "it is infinite");
      tide__write_double(w, name, value);
    }
    break;
  case LUA_TSTRING: {
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    if (length >= TIDE_BODY_MAX)
      refuse(e, at, TIDE_LIMIT, "the text is longer than a commit may be");
    if (!tide__is_utf8(text, length))
      refuse(e, at, TIDE_INVALID_ARGUMENT, "the text is not valid UTF-8");
    tide__write_text(w, name, text, length);
    break;
  }
  case LUA_TBOOLEAN:
    tide__write_bool(w, name, lua_toboolean(L, -1));
    break;
  case LUA_TLIGHTUSERDATA:
    if (lua_touserdata(L, -1) != NULL) refuse(e, at, TIDE_INVALID_ARGUMENT, "it is a userdata");
    tide__write_key(w, TIDE_BSON_NULL, name);
    break;
  case LUA_TTABLE: {
    size_t place = w->size; /* the type is known only after a look at the table */
    tide__write_key(w, TIDE_BSON_DOCUMENT, name);
    lua_pushvalue(L, -1);
    tide__look_through(L);
    if (encode_table(e, at, at, depth + 1)) w->data[place] = TIDE_BSON_ARRAY;
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

/* The table whose entries are written. Its keys are held apart from it: what is pushed may
** make the collector run finalizers, which may change the table. */
typedef struct source {
  int table;   /* index */
  int anchors; /* index of a list of the keys, or 0: they are on the stack behind the table */
  key *keys;
  size_t count;
} source;

static void push_key(lua_State *L, const source *from, const key *k) {
  if (from->anchors != 0)
    lua_rawgeti(L, from->anchors, k->place);
  else
    lua_pushvalue(L, from->table + k->place);
}

/* A table that BSON has no form for, in a state: { "": [key, value, key, value, ...] }. */
static void encode_pairs(encoder *e, const source *from, const step *at, int depth) {
  lua_State *L = e->L;
  char digits[16];
  size_t begin = tide__write_begin(e->writer, TIDE_BSON_ARRAY, "");
  for (size_t i = 0; i < from->count; i++) {
    push_key(L, from, &from->keys[i]);
    snprintf(digits, sizeof digits, "%zu", 2 * i);
    encode_value(e, digits, at, depth);
    lua_rawget(L, from->table);
    snprintf(digits, sizeof digits, "%zu", 2 * i + 1);
    encode_value(e, digits, at, depth);
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
    bson_uint32_to_string((uint32_t)(i - 1), &name, digits, sizeof digits);
    encode_value(e, name, &at, depth);
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

static void encode_document(encoder *e, const source *from, const step *up, int depth) {
  lua_State *L = e->L;
  step at = {.up = up, .table = lua_topointer(L, from->table)};
  for (size_t i = 0; i < from->count; i++) {
    const key *k = &from->keys[i];
    at.key = k->text;
    at.size = k->size;
    if (left_out(e, k, depth)) continue;
    if (memchr(k->text, 0, k->size) != NULL)
      refuse(e, &at, TIDE_INVALID_ARGUMENT, "its key holds a NUL byte");
    if (!tide__is_utf8(k->text, k->size))
      refuse(e, &at, TIDE_INVALID_ARGUMENT, "its key is not valid UTF-8");
    push_key(L, from, k);
    lua_rawget(L, from->table);
    encode_value(e, k->text, &at, depth);
    lua_pop(L, 1);
  }
}

typedef struct shape {
  size_t count, texts, integers, others;
  lua_Integer largest;
  bool empty_key, odd_integer;
} shape;

/* Looks at the table; fills keys where there is room for `room` of them. The key at place i
** stays at anchors[i], or where that is 0 on the stack, i behind the table. */
static shape look(encoder *e, const step *up, const source *from, size_t room) {
  lua_State *L = e->L;
  shape s = {0};
  lua_pushnil(L);
  while (lua_next(L, from->table)) { /* Stack: key, value */
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
    lua_pop(L, 1);
    if (s.count < room) {
      k.place = (int)s.count + 1;
      from->keys[s.count] = k;
      lua_pushvalue(L, -1);
      if (from->anchors != 0) lua_rawseti(L, from->anchors, k.place);
    }
    s.count++;
  }
  return s;
}

static bool is_sequence(const shape *s) {
  return s->integers == s->count && !s->odd_integer && (size_t)s->largest == s->count;
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

/* Writes the table on the top as a document or array, without a key; returns whether it is
** an array. */
static bool encode_table(encoder *e, const step *at, const step *up, int depth) {
  lua_State *L = e->L;
  key few[FEW_KEYS];
  source from = {.table = lua_gettop(L), .keys = few};
  if (depth > TIDE_DEPTH_MAX)
    refuse(e, at, TIDE_INVALID_ARGUMENT, "it is nested more than 64 levels deep");
  luaL_checkstack(L, FEW_KEYS + 10, "for a nested table");
  check_again(e, up);
  tide_mark marked = tide__mark_of(L, -1);
  if (marked == TIDE_MARK_OTHER && !(depth == 1 && e->lenient))
    refuse(e, at, TIDE_INVALID_ARGUMENT, "it has a metatable: only plain tables can be stored");
  size_t begin = tide__write_begin(e->writer, TIDE_BSON_DOCUMENT, NULL);
  shape s = look(e, at, &from, FEW_KEYS);
  if (s.count > FEW_KEYS && !is_sequence(&s)) {
    size_t room = s.count;
    lua_settop(L, from.table);
    if (room > INT_MAX) refuse(e, at, TIDE_LIMIT, "it has too many keys");
    from.keys = lua_newuserdatauv(L, room * sizeof *from.keys, 0); /* an error leaks nothing */
    lua_createtable(L, (int)room, 0);
    from.anchors = from.table + 2;
    s = look(e, at, &from, room);
    if (s.count > room) refuse(e, at, TIDE_INVALID_ARGUMENT, "a finalizer has changed it");
  }
  from.count = s.count;
  bool sequence = is_sequence(&s);
  bool array = sequence && (marked == TIDE_MARK_ARRAY || s.count > 0);
  bool document = s.texts == s.count && marked != TIDE_MARK_ARRAY;
  if (e->lenient) {
    if (document && s.empty_key) document = false;
    if (depth == 1) array = false;
  } else if (!array && !document) {
    if (marked == TIDE_MARK_ARRAY)
      refuse(e, at, TIDE_INVALID_ARGUMENT, "the array has other keys than 1 to n");
    if (s.integers == s.count)
      refuse(e, at, TIDE_INVALID_ARGUMENT, "the list has gaps or keys below 1");
    if (s.others > 0)
      refuse(e, at, TIDE_INVALID_ARGUMENT, "a key is neither a name nor a whole number");
    refuse(e, at, TIDE_INVALID_ARGUMENT, "the table mixes names and numbers as keys");
  }
  if (array) {
    lua_settop(L, from.table);
    encode_array(e, (lua_Integer)s.count, up, depth);
  } else {
    qsort(from.keys, from.count, sizeof *from.keys, compare_keys);
    if (document)
      encode_document(e, &from, up, depth);
    else if (marked == TIDE_MARK_ARRAY)
      refuse(e, at, TIDE_INVALID_ARGUMENT, "the array has gaps");
    else
      encode_pairs(e, &from, at, depth);
  }
  lua_settop(L, from.table);
  tide__write_end(e->writer, begin);
  return array;
}

void tide__value_encode(lua_State *L, int index, tide_encoding encoding, const char *what) {
  encoder e = {.L = L, .what = what, .encoding = encoding};
  e.lenient = encoding == TIDE_ENCODE_STATE || encoding == TIDE_ENCODE_SHOWN;
  index = lua_absindex(L, index);
  luaL_checkstack(L, 10, "for a value");
  e.writer = tide__writer_push(L);
  if (encoding == TIDE_ENCODE_STATE) {
    lua_newtable(L);
    e.seen = lua_gettop(L);
  }
  lua_pushvalue(L, index);
  if (lua_type(L, -1) != LUA_TTABLE) refuse(&e, NULL, TIDE_INVALID_ARGUMENT, "it is not a table");
  tide__look_through(L);
  if (encode_table(&e, NULL, NULL, 1))
    refuse(&e, NULL, TIDE_INVALID_ARGUMENT, "it is a list, where a table with names is needed");
  tide__writer_text(e.writer);
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
  if (how.array) tide__mark_array(L);
}

void tide__value_decode(lua_State *L, const uint8_t *data, size_t size, tide_encoding encoding) {
  decode_table(L, data, size, (reading){false, encoding == TIDE_ENCODE_STATE, 1});
}
