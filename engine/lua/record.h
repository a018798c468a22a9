/* record.h - the body of a commit: made from what a command decided, and read back as
** events. docs/format.md describes it field by field. */
#ifndef TIDE_LUA_RECORD_H
#define TIDE_LUA_RECORD_H

#include <bson/bson.h>
#include <lua.h>

#include "lua/store_handle.h"

/* Adds body, step, event, commit and fold to the module table on the top: [-0, +0]. */
void tide__record_open(lua_State *L);

/* What a fold and an event need of a body: the command's payload and the events. */
typedef struct tide_record {
  const uint8_t *payload; /* of the command, BSON */
  uint32_t payload_size;
  bson_iter_t events; /* before the first */
} tide_record;

/* One stored event; points into the body. */
typedef struct tide_record_event {
  const char *name;
  uint32_t name_size;
  int32_t version; /* of its schema */
  const uint8_t *payload;
  uint32_t payload_size;
} tide_record_event;

/* Both raise StoreError where the body is damaged. */
void tide__record_read(lua_State *L, const tide_commit *commit, tide_record *record);
void tide__record_next(lua_State *L, tide_record *record, tide_record_event *event);

/* fold(scan, state, events, upcast or nil, ignore or nil, toVersion, toPosition, toTime)
** (fold.c): applies the scan's events, in order, to the state, as far as the limits (nil:
** none) allow. */
int tide__fold(lua_State *L);

/* upcast(upcast, name, version, payload) -> payload, version (fold.c) */
int tide__upcast(lua_State *L);

#endif
