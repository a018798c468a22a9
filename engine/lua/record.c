/* record.c - the body of a commit: made from what a command decided, and read back as
** events.
**
** The body's fields, in this order:
**   payload        the command's payload
**   events         array of { name, version, payload }; an event without a payload has
**                  the command's
**   command        its name
**   actor          who sent it: { id, tenant, roles, ... }
**   commandId, correlationId, causationId (or none)
**   idempotent     true where the commandId is the sender's own
**   time, random   what the command was given of either, if it asked
**   code           hash of the domain code that decided */
#include "lua/record.h"

#include <lauxlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/error.h"
#include "lua/arguments.h"
#include "lua/lua_error.h"
#include "lua/value.h"
#include "lua/writer.h"

/* ---- writing ------------------------------------------------------------------- */

/* Raises unless the string at `index` is a BSON document, by its frame: it came out of
** encode. */
static void check_document(lua_State *L, int index, const char *argument) {
  size_t size = 0;
  const char *data = lua_type(L, index) == LUA_TSTRING ? lua_tolstring(L, index, &size) : NULL;
  if (size < 5) luaL_error(L, "%s is not a BSON document", argument);
  const uint8_t *b = (const uint8_t *)data;
  uint32_t framed =
      (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
  if (framed != size) luaL_error(L, "%s is not a BSON document", argument);
}

static void write_events(lua_State *L, tide_writer *writer, int events, int payload) {
  char digits[16];
  size_t array = tide__write_begin(writer, TIDE_BSON_ARRAY, "events");
  lua_Integer count = (lua_Integer)lua_rawlen(L, events) / 3;
  for (lua_Integer i = 0; i < count; i++) {
    size_t size;
    const char *name;
    bson_uint32_to_string((uint32_t)i, &name, digits, sizeof digits);
    size_t document = tide__write_begin(writer, TIDE_BSON_DOCUMENT, name);
    lua_rawgeti(L, events, 3 * i + 1);
    lua_rawgeti(L, events, 3 * i + 2);
    lua_rawgeti(L, events, 3 * i + 3);
    name = luaL_checklstring(L, -3, &size);
    tide__write_text(writer, "name", name, size);
    tide__write_int(writer, "version", luaL_checkinteger(L, -2));
    if (!lua_rawequal(L, -1, payload)) {
      check_document(L, -1, "an event's payload");
      const char *data = lua_tolstring(L, -1, &size);
      tide__write_document(writer, TIDE_BSON_DOCUMENT, "payload", data, size);
    }
    lua_pop(L, 3);
    tide__write_end(writer, document);
  }
  tide__write_end(writer, array);
}

static void write_option(lua_State *L, tide_writer *writer, int index, const char *key) {
  size_t size;
  if (lua_isnoneornil(L, index)) return;
  const char *text = luaL_checklstring(L, index, &size);
  tide__write_text(writer, key, text, size);
}

/* body(command, payload, events, actor, code, commandId, correlationId, causationId or nil,
**      idempotent, time or nil, random or nil) -> BSON
** events is a flat list of name, schema version, payload; payloads and actor are BSON;
** random is the list of the numbers that were drawn. The writer is the state's: an error
** in between leaks nothing. */
static int body(lua_State *L) {
  size_t size;
  lua_settop(L, 11);
  luaL_checktype(L, 3, LUA_TTABLE);
  check_document(L, 2, "payload");
  check_document(L, 4, "actor");
  tide_writer *writer = tide__writer_push(L);
  size_t begin = tide__write_begin(writer, TIDE_BSON_DOCUMENT, NULL);
  const char *data = lua_tolstring(L, 2, &size);
  tide__write_document(writer, TIDE_BSON_DOCUMENT, "payload", data, size);
  write_events(L, writer, 3, 2);
  write_option(L, writer, 1, "command");
  data = lua_tolstring(L, 4, &size);
  tide__write_document(writer, TIDE_BSON_DOCUMENT, "actor", data, size);
  write_option(L, writer, 6, "commandId");
  write_option(L, writer, 7, "correlationId");
  write_option(L, writer, 8, "causationId");
  if (lua_toboolean(L, 9)) tide__write_bool(writer, "idempotent", 1);
  if (!lua_isnil(L, 10)) tide__write_int64(writer, "time", luaL_checkinteger(L, 10));
  if (!lua_isnil(L, 11)) {
    char digits[16];
    size_t array = tide__write_begin(writer, TIDE_BSON_ARRAY, "random");
    lua_Integer count = luaL_len(L, 11);
    for (lua_Integer i = 1; i <= count; i++) {
      const char *name;
      bson_uint32_to_string((uint32_t)(i - 1), &name, digits, sizeof digits);
      lua_rawgeti(L, 11, i);
      tide__write_double(writer, name, luaL_checknumber(L, -1));
      lua_pop(L, 1);
    }
    tide__write_end(writer, array);
  }
  data = luaL_checklstring(L, 5, &size);
  tide__write_binary(writer, "code", data, size);
  tide__write_end(writer, begin);
  tide__writer_text(writer);
  return 1;
}

/* ---- reading ------------------------------------------------------------------- */

static void damaged(lua_State *L, const tide_commit *commit, const char *why) {
  tide_error error = {0};
  tide__fail_store(&error, 0, "the commit at position %lld of %s '%s' is damaged: %s",
                   (long long)commit->position, commit->type, commit->id, why);
  tide__lua_raise(L, &error);
}

void tide__record_read(lua_State *L, const tide_commit *commit, tide_record *record) {
  bson_iter_t iter;
  memset(record, 0, sizeof *record);
  if (!bson_iter_init_from_data(&iter, commit->body, commit->body_size))
    damaged(L, commit, "its body is not BSON");
  if (!bson_iter_next(&iter) || !BSON_ITER_HOLDS_DOCUMENT(&iter) ||
      strcmp(bson_iter_key_unsafe(&iter), "payload") != 0)
    damaged(L, commit, "the payload is not where it should be");
  bson_iter_document(&iter, &record->payload_size, &record->payload);
  if (!bson_iter_next(&iter) || !BSON_ITER_HOLDS_ARRAY(&iter) ||
      strcmp(bson_iter_key_unsafe(&iter), "events") != 0 ||
      !bson_iter_recurse(&iter, &record->events))
    damaged(L, commit, "the events are not where they should be");
}

/* Raises: the caller only has the commit's bytes, which the scan owns. */
static void event_damaged(lua_State *L) {
  tide_error error = {0};
  tide__fail_store(&error, 0, "a stored event is damaged");
  tide__lua_raise(L, &error);
}

void tide__record_next(lua_State *L, tide_record *record, tide_record_event *event) {
  bson_iter_t iter;
  event->name = NULL;
  event->version = 0;
  event->payload = record->payload;
  event->payload_size = record->payload_size;
  if (!bson_iter_next(&record->events) || !BSON_ITER_HOLDS_DOCUMENT(&record->events) ||
      !bson_iter_recurse(&record->events, &iter))
    event_damaged(L);
  while (bson_iter_next(&iter)) {
    switch (bson_iter_key_unsafe(&iter)[0]) { /* name, version, payload */
    case 'n':
      if (BSON_ITER_HOLDS_UTF8(&iter)) event->name = bson_iter_utf8(&iter, &event->name_size);
      break;
    case 'v':
      if (BSON_ITER_HOLDS_INT32(&iter)) event->version = bson_iter_int32_unsafe(&iter);
      break;
    case 'p':
      if (!BSON_ITER_HOLDS_DOCUMENT(&iter)) event_damaged(L);
      bson_iter_document(&iter, &event->payload_size, &event->payload);
      break;
    default:
      break;
    }
  }
  if (event->name == NULL || iter.err_off != 0) event_damaged(L);
}

/* The event at handle->at of handle->commit. */
static void current_event(lua_State *L, const tide_scan_handle *handle, tide_record *record,
                          tide_record_event *event) {
  tide__record_read(L, handle->commit, record);
  for (int32_t i = 0; i <= handle->at; i++)
    tide__record_next(L, record, event);
}

/* step(scan) -> position, name, time in ms of the scan's next event; nil at the end */
static int step(lua_State *L) {
  tide_record record;
  tide_record_event event = {0};
  tide_scan_handle *handle = tide__scan_argument(L, 1);
  if (handle->commit != NULL) {
    handle->at += handle->step;
    if (handle->at < 0 || handle->at >= handle->commit->count) handle->commit = NULL;
  }
  if (handle->commit == NULL) {
    const tide_commit *commit = tide__scan_advance(L, handle);
    if (commit == NULL) return 0;
    handle->at = handle->step > 0 ? 0 : commit->count - 1;
  }
  current_event(L, handle, &record, &event);
  lua_pushinteger(L, handle->commit->position + handle->at);
  lua_pushlstring(L, event.name, event.name_size);
  lua_pushinteger(L, handle->commit->time);
  return 3;
}

static void set_time(lua_State *L, const char *key, int64_t time) {
  char text[TIDE_TIME_TEXT];
  tide__time_format(time, text);
  lua_pushstring(L, text);
  lua_setfield(L, -2, key);
}

/* Adds to the table on the top what all events of a commit have in common. */
static void set_commit_fields(lua_State *L, const tide_commit *commit) {
  bson_iter_t iter;
  set_time(L, "time", commit->time);
  lua_pushstring(L, commit->type);
  lua_setfield(L, -2, "aggregateType");
  lua_pushstring(L, commit->id);
  lua_setfield(L, -2, "aggregateId");
  if (!bson_iter_init_from_data(&iter, commit->body, commit->body_size))
    damaged(L, commit, "its body is not BSON");
  while (bson_iter_next(&iter)) {
    const char *key = bson_iter_key_unsafe(&iter);
    uint32_t size;
    if (BSON_ITER_HOLDS_UTF8(&iter) &&
        (strcmp(key, "command") == 0 || strcmp(key, "commandId") == 0 ||
         strcmp(key, "correlationId") == 0 || strcmp(key, "causationId") == 0)) {
      const char *text = bson_iter_utf8(&iter, &size);
      lua_pushlstring(L, text, size);
      lua_setfield(L, -2, key);
    } else if (BSON_ITER_HOLDS_DOCUMENT(&iter) && strcmp(key, "actor") == 0) {
      const uint8_t *data;
      bson_iter_document(&iter, &size, &data);
      tide__value_decode(L, data, size, TIDE_ENCODE_VALUE);
      lua_setfield(L, -2, "actor");
    }
  }
  if (iter.err_off != 0) damaged(L, commit, "its body is cut off");
}

/* event(scan) -> the event that step gave last, as handlers and iterators see it: a new
** table */
static int event_table(lua_State *L) {
  tide_record record;
  tide_record_event event = {0};
  tide_scan_handle *handle = tide__scan_argument(L, 1);
  if (handle->commit == NULL) return 0;
  current_event(L, handle, &record, &event);
  lua_createtable(L, 0, 14);
  lua_pushlstring(L, event.name, event.name_size);
  lua_setfield(L, -2, "name");
  lua_pushinteger(L, event.version);
  lua_setfield(L, -2, "version");
  tide__value_decode(L, event.payload, event.payload_size, TIDE_ENCODE_VALUE);
  lua_setfield(L, -2, "payload");
  lua_pushinteger(L, handle->commit->position + handle->at);
  lua_setfield(L, -2, "position");
  lua_pushinteger(L, handle->commit->version + handle->at);
  lua_setfield(L, -2, "aggregateVersion");
  set_commit_fields(L, handle->commit);
  return 1;
}

void tide__record_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"body", body},           {"step", step},
                                       {"event", event_table},   {"fold", tide__fold},
                                       {"upcast", tide__upcast}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
