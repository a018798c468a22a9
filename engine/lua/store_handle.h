/* store_handle.h - a store and its scans as Lua userdata, which the collector closes. */
#ifndef TIDE_LUA_STORE_HANDLE_H
#define TIDE_LUA_STORE_HANDLE_H

#include <lua.h>

#include "stores/store.h"

/* Makes the metatables and adds the functions on stores and scans to the module table
** on the top: [-0, +0]. */
void tide__store_handle_open(lua_State *L);

/* The open store at `index`; raises where it is none (InvalidArgumentError "store") or is
** closed (StoreError). */
tide_store *tide__store_argument(lua_State *L, int index);

/* The first arguments of what is about one aggregate: store, tenant, type, id. */
typedef struct tide_aggregate_arguments {
  tide_store *store;
  const char *tenant, *type, *id;
} tide_aggregate_arguments;

tide_aggregate_arguments tide__aggregate_arguments(lua_State *L);

typedef struct tide_scan_handle {
  tide_scan *scan; /* NULL: closed */
  struct tide_store_handle *owner;
  const tide_commit *commit; /* the one that scan_next gave last, or NULL */
  int32_t at;                /* the event of it that tide__event_step gave last */
  int32_t step;              /* 1 or -1: backwards */
} tide_scan_handle;

tide_scan_handle *tide__scan_argument(lua_State *L, int index);

/* store_state.c: adds the functions on snapshots, threads and documents to the module table
** on the top: [-0, +0]. */
void tide__store_state_open(lua_State *L);

/* import.c: the same for those that carry commits from one store to another. */
void tide__import_open(lua_State *L);

/* The scan's next commit or NULL at the end; raises StoreError. */
const tide_commit *tide__scan_advance(lua_State *L, tide_scan_handle *handle);

#endif
