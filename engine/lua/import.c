/* import.c - carrying commits from one store to another: bodies go from a scan to the
** import as they are, and never become Lua values. */
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "lua/arguments.h"
#include "lua/lua_error.h"
#include "lua/store_handle.h"

#define BATCH_TYPE "tidelog.Batch"
#define NOTHING    SIZE_MAX /* the offset of a text that is NULL */

/* A commit of a batch, with offsets into the batch's bytes for pointers. */
typedef struct batched {
  size_t type, id, command_id, body;
} batched;

/* Commits that were read and are yet to be imported; in the care of the collector. */
typedef struct batch {
  tide_commit *commits;
  batched *offsets;
  size_t count, capacity;
  uint8_t *bytes;
  size_t used, room;
} batch;

static void drop(batch *b) {
  free(b->commits);
  free(b->offsets);
  free(b->bytes);
  memset(b, 0, sizeof *b);
}

static int batch_gc(lua_State *L) {
  drop(luaL_checkudata(L, 1, BATCH_TYPE));
  return 0;
}

/* Copies bytes into the batch. 0: no memory. */
static int keep(batch *b, const void *data, size_t size, size_t *offset) {
  if (size > b->room - b->used) {
    size_t room = b->room == 0 ? 64 * 1024 : b->room * 2;
    if (room < b->used + size) room = b->used + size;
    uint8_t *grown = realloc(b->bytes, room);
    if (grown == NULL) return 0;
    b->bytes = grown;
    b->room = room;
  }
  memcpy(b->bytes + b->used, data, size);
  *offset = b->used;
  b->used += size;
  return 1;
}

static int keep_text(batch *b, const char *text, size_t *offset) {
  *offset = NOTHING;
  return text == NULL || keep(b, text, strlen(text) + 1, offset);
}

/* Makes room for one more commit. 0: no memory. */
static int grow(batch *b) {
  if (b->count < b->capacity) return 1;
  const size_t capacity = b->capacity == 0 ? 64 : b->capacity * 2;
  tide_commit *commits = realloc(b->commits, capacity * sizeof *commits);
  if (commits == NULL) return 0;
  b->commits = commits;
  batched *offsets = realloc(b->offsets, capacity * sizeof *offsets);
  if (offsets == NULL) return 0;
  b->offsets = offsets;
  b->capacity = capacity;
  return 1;
}

static int add(batch *b, const tide_commit *commit) {
  if (!grow(b)) return 0;
  batched *o = &b->offsets[b->count];
  if (!keep_text(b, commit->type, &o->type) || !keep_text(b, commit->id, &o->id) ||
      !keep_text(b, commit->command_id, &o->command_id) ||
      !keep(b, commit->body, commit->body_size, &o->body))
    return 0;
  b->commits[b->count++] = *commit;
  return 1;
}

/* Points the commits to their bytes, which stay where they are from now on. */
static void settle(batch *b) {
  const char *text = (const char *)b->bytes;
  for (size_t i = 0; i < b->count; i++) {
    const batched *o = &b->offsets[i];
    tide_commit *c = &b->commits[i];
    c->type = text + o->type;
    c->id = text + o->id;
    c->command_id = o->command_id == NOTHING ? NULL : text + o->command_id;
    c->body = b->bytes + o->body;
  }
}

/* import(store, tenant, scan, commits, bytes) -> how many commits and events were taken from
** the scan: at most `commits`, and none behind the one that fills `bytes` bytes. 0 at the
** scan's end. */
static int import(lua_State *L) {
  tide_error error = {0};
  int64_t events = 0;
  tide_store *store = tide__store_argument(L, 1);
  const char *tenant = tide__tenant_argument(L, 2);
  tide_scan_handle *scan = tide__scan_argument(L, 3);
  size_t most = (size_t)tide__integer_argument(L, 4, "commits", 1, INT32_MAX);
  size_t bytes = (size_t)tide__integer_argument(L, 5, "bytes", 1, INT32_MAX);
  batch *b = lua_newuserdatauv(L, sizeof *b, 0);
  memset(b, 0, sizeof *b);
  luaL_setmetatable(L, BATCH_TYPE);
  while (b->count < most && b->used < bytes) {
    const tide_commit *commit = tide__scan_advance(L, scan);
    if (commit == NULL) break;
    if (!add(b, commit)) {
      tide__fail_memory(&error);
      return tide__lua_raise(L, &error);
    }
    events += commit->count;
  }
  scan->commit = NULL;
  if (b->count > 0) {
    settle(b);
    tide__lua_check(L, tide__store_import(store, tenant, b->commits, b->count, &error), &error);
  }
  lua_pushinteger(L, (lua_Integer)b->count);
  lua_pushinteger(L, events);
  drop(b); /* the collector does not know how much it holds */
  return 2;
}

/* nextCommit(scan) -> position of its first event, how many it has, its hash; nil at the end */
static int next_commit(lua_State *L) {
  tide_scan_handle *scan = tide__scan_argument(L, 1);
  const tide_commit *commit = tide__scan_advance(L, scan);
  scan->commit = NULL; /* step() begins with the one behind it */
  if (commit == NULL) return 0;
  lua_pushinteger(L, commit->position);
  lua_pushinteger(L, commit->count);
  lua_pushlstring(L, (const char *)commit->hash, TIDE_HASH_SIZE);
  return 3;
}

void tide__import_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"import", import}, {"nextCommit", next_commit}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  luaL_newmetatable(L, BATCH_TYPE);
  lua_pushcfunction(L, batch_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}
