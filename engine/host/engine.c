/* engine.c - the engine for host applications: tidelog.h's functions, over one Lua state
** that a mutex guards.
**
** Every call is one lua_pcall of a C function that calls lua/tidelog/host.lua; nothing is
** held by C meanwhile that a Lua error could leak. */
#include <lauxlib.h>
#include <lua.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bson_check.h"
#include "core/error.h"
#include "core/json.h"
#include "lua/lua_error.h"
#include "lua/state.h"
#include "tidelog.h"

struct tide_engine {
  pthread_mutex_t mutex;
  lua_State *L;
  int host; /* registry: what Host.open returned */
};

struct tide_reader {
  tide_engine *engine;
  int next, close; /* registry: Host.read's functions */
};

/* What goes into a protected call and comes out of it; all owned by the caller. */
typedef struct call {
  tide_engine *engine;
  const char *function; /* of host.lua */
  const char *uri;
  const tide_options *options;
  const tide_actor *actor;
  const char *tenant, *name, *id;
  const void *bson; /* an argument, or NULL */
  size_t bson_size;
  const tide_at *at;
  int limit, flag;
  tide_reader *reader;
  char *answer; /* malloc'ed BSON, or NULL */
  size_t answer_size;
  tide_error *error;
} call;

void tide_free(tide_buffer *buffer) {
  if (buffer == NULL) return;
  free(buffer->data);
  buffer->data = NULL;
  buffer->size = 0;
}

static int missing(const char *argument, tide_error *error) {
  return tide__fail(error, TIDE_MISSING_ARGUMENT, argument, "%s is missing", argument);
}

/* Runs `body` in protected mode with the call as its argument. */
static int protect(tide_engine *engine, lua_CFunction body, call *c, tide_error *error) {
  lua_State *L = engine->L;
  int code = TIDE_OK;
  pthread_mutex_lock(&engine->mutex);
  int top = lua_gettop(L);
  lua_pushcfunction(L, body);
  lua_pushlightuserdata(L, c);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) code = tide__lua_caught(L, -1, error);
  lua_settop(L, top);
  pthread_mutex_unlock(&engine->mutex);
  return code;
}

/* Pushes host.lua's function and the host. */
static void push_function(lua_State *L, const call *c) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "tidelog.host");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, c->function);
  lua_remove(L, -2);
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->engine->host);
}

/* The string on the top, or nil, becomes the answer. Its memory is taken last, after all
** that may raise. */
static void take_answer(lua_State *L, call *c) {
  size_t size;
  if (lua_isnil(L, -1)) return;
  const char *text = luaL_checklstring(L, -1, &size);
  c->answer = malloc(size);
  if (c->answer == NULL) luaL_error(L, "not enough memory");
  memcpy(c->answer, text, size);
  c->answer_size = size;
}

/* ---- data in and out ------------------------------------------------------------- */

/* The caller's data as BSON. *owned is to be freed in any case. */
static int read_data(const char *argument, const tide_data *data, call *c, uint8_t **owned,
                     tide_error *error) {
  *owned = NULL;
  if (data == NULL) return TIDE_OK;
  if (data->data == NULL) return missing(argument, error);
  if (data->format == TIDE_JSON) {
    size_t size = data->size > 0 ? data->size : strlen(data->data);
    int code = tide__json_read(data->data, size, owned, &c->bson_size, error);
    if (code != TIDE_OK && code != TIDE_NO_MEMORY && error != NULL)
      snprintf(error->argument, sizeof error->argument, "%s", argument);
    c->bson = *owned;
    return code;
  }
  if (data->format != TIDE_BSON)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "format", "format %d is none of JSON and BSON",
                      (int)data->format);
  const char *why = tide__bson_check(data->data, data->size, TIDE_DEPTH_MAX);
  if (why != NULL)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, argument, "%s cannot be read: %s", argument,
                      why);
  c->bson = data->data;
  c->bson_size = data->size;
  return TIDE_OK;
}

/* Gives the answer to the caller in the format that it wants; frees it otherwise. */
static int give(call *c, tide_format format, tide_buffer *out, int code, tide_error *error) {
  if (code == TIDE_OK && c->answer != NULL && format == TIDE_JSON) {
    code = tide__json_write((const uint8_t *)c->answer, c->answer_size, 0, &out->data, &out->size,
                            error);
  } else if (code == TIDE_OK) {
    out->data = c->answer;
    out->size = c->answer_size;
    c->answer = NULL;
  }
  free(c->answer);
  return code;
}

static int check_out(tide_format format, const char *argument, tide_buffer *out,
                     tide_error *error) {
  if (out == NULL) return missing(argument, error);
  out->data = NULL;
  out->size = 0;
  if (format == TIDE_JSON || format == TIDE_BSON) return TIDE_OK;
  return tide__fail(error, TIDE_INVALID_ARGUMENT, "format", "format %d is none of JSON and BSON",
                    (int)format);
}

/* ---- open and close --------------------------------------------------------------- */

static int open_host(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  const tide_options *options = c->options;
  lua_getglobal(L, "require");
  lua_pushliteral(L, "tidelog.host");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "open");
  lua_createtable(L, 0, 4);
  lua_pushstring(L, c->uri);
  lua_setfield(L, -2, "uri");
  lua_pushstring(L, options == NULL || options->domain == NULL ? "." : options->domain);
  lua_setfield(L, -2, "domain");
  if (options != NULL && options->busy_timeout != 0) {
    lua_pushinteger(L, options->busy_timeout);
    lua_setfield(L, -2, "busyTimeout");
  }
  if (options != NULL && options->cache_size != 0) {
    lua_pushinteger(L, options->cache_size);
    lua_setfield(L, -2, "cacheSize");
  }
  lua_call(L, 1, 1);
  c->engine->host = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

int tide_open(const char *uri, const tide_options *options, tide_engine **engine,
              tide_error *error) {
  if (engine == NULL) return missing("engine", error);
  *engine = NULL;
  if (uri == NULL || uri[0] == '\0') return missing("uri", error);
  tide_engine *opened = calloc(1, sizeof *opened);
  if (opened == NULL) return tide__fail_memory(error);
  int code = TIDE_NO_MEMORY;
  if (pthread_mutex_init(&opened->mutex, NULL) != 0) {
    free(opened);
    return tide__fail_memory(error);
  }
  opened->host = LUA_NOREF;
  tide_error problem = {0};
  opened->L = tide__state_new(&problem);
  if (opened->L == NULL) {
    code = tide__fail(error, problem.code, NULL, "%s", problem.message);
    goto fail;
  }
  call c = {.engine = opened, .uri = uri, .options = options};
  code = protect(opened, open_host, &c, error);
  if (code != TIDE_OK) goto fail;
  *engine = opened;
  return TIDE_OK;
fail:
  tide_close(opened);
  return code;
}

static int close_host(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  if (c->engine->host == LUA_NOREF) return 0;
  push_function(L, c);
  lua_call(L, 1, 0);
  return 0;
}

void tide_close(tide_engine *engine) {
  if (engine == NULL) return;
  if (engine->L != NULL) {
    call c = {.engine = engine, .function = "close"};
    protect(engine, close_host, &c, NULL);
    lua_close(engine->L);
  }
  pthread_mutex_destroy(&engine->mutex);
  free(engine);
}

/* ---- commands ----------------------------------------------------------------------- */

static void push_actor(lua_State *L, const tide_actor *actor) {
  lua_createtable(L, 0, 4);
  lua_pushstring(L, actor->id);
  lua_setfield(L, -2, "id");
  lua_pushstring(L, actor->tenant);
  lua_setfield(L, -2, "tenant");
  lua_pushstring(L, actor->name);
  lua_setfield(L, -2, "name");
  lua_createtable(L, (int)actor->role_count, 0);
  for (size_t i = 0; i < actor->role_count; i++) {
    lua_pushstring(L, actor->roles[i] == NULL ? "" : actor->roles[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "roles");
}

static int run_command(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  push_function(L, c);
  push_actor(L, c->actor);
  lua_pushstring(L, c->name);
  if (c->bson != NULL)
    lua_pushlstring(L, c->bson, c->bson_size);
  else
    lua_pushnil(L);
  lua_call(L, 4, 1);
  if (c->flag) take_answer(L, c);
  return 0;
}

int tide_command(tide_engine *engine, const tide_actor *actor, const char *command,
                 const tide_data *payload, tide_format format, tide_buffer *result,
                 tide_error *error) {
  uint8_t *owned = NULL;
  tide_buffer unwanted;
  if (engine == NULL) return missing("engine", error);
  if (actor == NULL) return missing("actor", error);
  if (actor->roles == NULL && actor->role_count > 0) return missing("roles", error);
  if (command == NULL || command[0] == '\0') return missing("command", error);
  int code = check_out(format, "result", result == NULL ? &unwanted : result, error);
  if (code != TIDE_OK) return code;
  call c = {.engine = engine, .function = "command", .actor = actor, .name = command};
  c.flag = result != NULL;
  code = read_data("payload", payload, &c, &owned, error);
  if (code == TIDE_OK) code = protect(engine, run_command, &c, error);
  free(owned);
  return give(&c, format, result == NULL ? &unwanted : result, code, error);
}

/* ---- reading -------------------------------------------------------------------------- */

static int load_state(lua_State *L) {
  static const char *const kinds[] = {NULL, "version", "position", "time"};
  call *c = lua_touserdata(L, 1);
  push_function(L, c);
  lua_pushstring(L, c->tenant);
  lua_pushstring(L, c->name);
  lua_pushstring(L, c->id);
  lua_pushstring(L, c->at == NULL ? NULL : kinds[c->at->kind]);
  lua_pushinteger(L, c->at == NULL ? 0 : c->at->value);
  lua_call(L, 6, 1);
  take_answer(L, c);
  return 0;
}

int tide_load(tide_engine *engine, const char *tenant, const char *aggregate, const char *id,
              const tide_at *at, tide_format format, tide_buffer *state, tide_error *error) {
  if (engine == NULL) return missing("engine", error);
  if (tenant == NULL) return missing("tenant", error);
  if (aggregate == NULL) return missing("aggregate", error);
  if (id == NULL) return missing("id", error);
  if (at != NULL && ((int)at->kind < TIDE_NOW || at->kind > TIDE_AT_TIME))
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "at", "at.kind %d is no kind", (int)at->kind);
  int code = check_out(format, "state", state, error);
  if (code != TIDE_OK) return code;
  call c = {.engine = engine, .function = "load", .tenant = tenant, .name = aggregate, .id = id};
  c.at = at;
  code = protect(engine, load_state, &c, error);
  return give(&c, format, state, code, error);
}

static int open_reader(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  push_function(L, c);
  lua_pushstring(L, c->tenant);
  if (c->bson != NULL)
    lua_pushlstring(L, c->bson, c->bson_size);
  else
    lua_pushnil(L);
  lua_call(L, 3, 2);
  c->reader->close = luaL_ref(L, LUA_REGISTRYINDEX);
  c->reader->next = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

static int close_reader(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->reader->close);
  luaL_unref(L, LUA_REGISTRYINDEX, c->reader->close);
  luaL_unref(L, LUA_REGISTRYINDEX, c->reader->next);
  if (lua_isfunction(L, -1)) lua_call(L, 0, 0);
  return 0;
}

int tide_read(tide_engine *engine, const char *tenant, const tide_data *filter,
              tide_reader **reader, tide_error *error) {
  uint8_t *owned = NULL;
  if (reader == NULL) return missing("reader", error);
  *reader = NULL;
  if (engine == NULL) return missing("engine", error);
  if (tenant == NULL) return missing("tenant", error);
  tide_reader *opened = calloc(1, sizeof *opened);
  if (opened == NULL) return tide__fail_memory(error);
  opened->engine = engine;
  opened->next = opened->close = LUA_NOREF;
  call c = {.engine = engine, .function = "read", .tenant = tenant, .reader = opened};
  int code = read_data("filter", filter, &c, &owned, error);
  if (code == TIDE_OK) code = protect(engine, open_reader, &c, error);
  free(owned);
  if (code == TIDE_OK)
    *reader = opened;
  else
    tide_read_close(opened);
  return code;
}

static int read_event(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->reader->next);
  lua_call(L, 0, 1);
  take_answer(L, c);
  return 0;
}

int tide_read_next(tide_reader *reader, tide_format format, tide_buffer *event, tide_error *error) {
  if (reader == NULL) return missing("reader", error);
  int code = check_out(format, "event", event, error);
  if (code != TIDE_OK) return code;
  call c = {.engine = reader->engine, .reader = reader};
  code = protect(reader->engine, read_event, &c, error);
  return give(&c, format, event, code, error);
}

void tide_read_close(tide_reader *reader) {
  if (reader == NULL) return;
  call c = {.engine = reader->engine, .reader = reader};
  protect(reader->engine, close_reader, &c, NULL);
  free(reader);
}

static int run_poll(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  push_function(L, c);
  lua_pushstring(L, c->tenant);
  lua_pushstring(L, c->name);
  if (c->limit > 0)
    lua_pushinteger(L, c->limit);
  else
    lua_pushnil(L);
  lua_call(L, 4, 2);
  c->flag = lua_toboolean(L, -2);
  /* the poll itself is done: its handlers' failure is told beside, not raised */
  if (lua_type(L, -1) == LUA_TSTRING) tide__lua_caught(L, -1, c->error);
  return 0;
}

int tide_poll(tide_engine *engine, const char *tenant, const char *thread, int limit, int *more,
              tide_error *error) {
  if (more != NULL) *more = 0;
  if (engine == NULL) return missing("engine", error);
  if (tenant == NULL) return missing("tenant", error);
  if (thread == NULL) return missing("thread", error);
  if (limit < 0)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "limit", "limit %d is less than 0", limit);
  tide_error failure = {0};
  call c = {.engine = engine, .function = "poll", .tenant = tenant, .name = thread};
  c.limit = limit;
  c.error = &failure;
  int code = protect(engine, run_poll, &c, error);
  if (code != TIDE_OK) return code;
  if (more != NULL) *more = c.flag;
  if (failure.code == TIDE_OK) return TIDE_OK;
  if (error != NULL) *error = failure;
  return failure.code;
}

static int read_document(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  push_function(L, c);
  lua_pushstring(L, c->tenant);
  lua_pushstring(L, c->name);
  lua_call(L, 3, 1);
  take_answer(L, c);
  return 0;
}

int tide_doc(tide_engine *engine, const char *tenant, const char *path, tide_format format,
             tide_buffer *body, tide_error *error) {
  if (engine == NULL) return missing("engine", error);
  if (tenant == NULL) return missing("tenant", error);
  if (path == NULL) return missing("path", error);
  int code = check_out(format, "body", body, error);
  if (code != TIDE_OK) return code;
  call c = {.engine = engine, .function = "document", .tenant = tenant, .name = path};
  code = protect(engine, read_document, &c, error);
  return give(&c, format, body, code, error);
}
