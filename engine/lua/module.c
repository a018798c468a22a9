/* module.c - the Lua module tidelog.engine: the C functions that lua/tidelog is built on.
** They are its own: users have tidelog.open and what it returns. */
#include "lua/module.h"

#include <dirent.h>
#include <errno.h>
#include <lauxlib.h>
#include <math.h>
#include <openssl/evp.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/error.h"
#include "core/id.h"
#include "core/json.h"
#include "lua/arguments.h"
#include "lua/bytes.h"
#include "lua/lua_error.h"
#include "lua/record.h"
#include "lua/store_handle.h"
#include "lua/tables.h"
#include "lua/value.h"
#include "lua/writer.h"
#include "tidelog.h"

/* ---- values ------------------------------------------------------------------- */

/* encode(table, what, "value" | "payload" | "state" | "shown") -> BSON */
static int encode(lua_State *L) {
  static const char *const names[] = {"value", "payload", "state", "shown", NULL};
  const char *what = luaL_checkstring(L, 2);
  tide_encoding encoding = (tide_encoding)luaL_checkoption(L, 3, "value", names);
  lua_settop(L, 2);
  tide__value_encode(L, 1, encoding, what);
  return 1;
}

/* decode(BSON, state) -> table; state: true where the BSON is an aggregate's state */
static int decode(lua_State *L) {
  size_t size;
  const char *data = luaL_checklstring(L, 1, &size);
  tide__value_decode(L, (const uint8_t *)data, size,
                     lua_toboolean(L, 2) ? TIDE_ENCODE_STATE : TIDE_ENCODE_VALUE);
  return 1;
}

/* freeze(table) -> read-only view; the caller gives the table up */
static int freeze(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  tide__freeze(L);
  return 1;
}

/* copy(table) -> deep copy */
static int copy(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  tide__copy(L, 1);
  return 1;
}

/* array(table or nil) -> the same table, or a new one, marked as an array */
static int array(lua_State *L) {
  lua_settop(L, 1);
  if (lua_isnil(L, 1)) {
    lua_newtable(L);
    lua_replace(L, 1);
  }
  tide__table_argument(L, 1, "array");
  if (tide__is_array(L, 1)) return 1;
  if (lua_getmetatable(L, 1)) {
    tide_error error = {0};
    tide__fail(&error, TIDE_INVALID_ARGUMENT, "array", "array has a metatable of its own");
    return tide__lua_raise(L, &error);
  }
  tide__mark_array(L);
  return 1;
}

/* isArray(value) -> boolean */
static int is_array(lua_State *L) {
  lua_pushboolean(L, lua_gettop(L) >= 1 && tide__is_array(L, 1));
  return 1;
}

/* toJson(BSON, indent) -> text */
static int to_json(lua_State *L) {
  tide_error error = {0};
  size_t size;
  const char *bson = luaL_checklstring(L, 1, &size);
  int indent = (int)luaL_optinteger(L, 2, 0);
  tide_bytes *text = tide__bytes_push(L);
  char *written = NULL;
  int code = tide__json_write((const uint8_t *)bson, size, indent, &written, &text->size, &error);
  text->data = (uint8_t *)written;
  if (code != TIDE_OK) return tide__lua_raise(L, &error);
  tide__bytes_text(L, text);
  return 1;
}

/* fromJson(text) -> the value, of any type */
static int from_json(lua_State *L) {
  tide_error error = {0};
  size_t size;
  const char *text = luaL_checklstring(L, 1, &size);
  tide_bytes *bson = tide__bytes_push(L);
  if (tide__json_read_value(text, size, &bson->data, &bson->size, &error) != TIDE_OK)
    return tide__lua_raise(L, &error);
  tide__value_decode(L, bson->data, bson->size, TIDE_ENCODE_VALUE);
  lua_getfield(L, -1, "value");
  return 1;
}

/* ---- ids, time, chance, hashes --------------------------------------------------- */

/* id() -> a new, sortable id */
static int new_id(lua_State *L) {
  tide_error error = {0};
  char id[TIDE_ID_SIZE + 1];
  if (tide__id_new(id, &error) != TIDE_OK) return tide__lua_raise(L, &error);
  lua_pushlstring(L, id, TIDE_ID_SIZE);
  return 1;
}

/* random() -> a float in [0, 1) with 53 random bits */
static int random_float(lua_State *L) {
  tide_error error = {0};
  uint64_t bits;
  if (tide__random(&bits, &error) != TIDE_OK) return tide__lua_raise(L, &error);
  lua_pushnumber(L, (lua_Number)(bits >> 11) * 0x1p-53);
  return 1;
}

/* now() -> ms since 1970 */
static int now(lua_State *L) {
  lua_pushinteger(L, tide__now());
  return 1;
}

/* clock() -> ms that have passed since some moment, as a float, to measure with */
static int elapsed(lua_State *L) {
  struct timespec time;
  if (clock_gettime(CLOCK_MONOTONIC, &time) != 0) return luaL_error(L, "the system has no clock");
  lua_pushnumber(L, (lua_Number)time.tv_sec * 1e3 + (lua_Number)time.tv_nsec / 1e6);
  return 1;
}

/* sleep(ms) */
static int sleep_ms(lua_State *L) {
  lua_Number ms = luaL_checknumber(L, 1);
  if (!(ms > 0)) return 0;
  if (ms > 60000) ms = 60000;
  struct timespec time = {(time_t)(ms / 1e3), (long)(fmod(ms, 1e3) * 1e6)};
  nanosleep(&time, NULL); /* a signal may cut it short: no harm */
  return 0;
}

/* formatTime(ms) -> "2026-11-23T09:00:00.000Z" */
static int format_time(lua_State *L) {
  char text[TIDE_TIME_TEXT];
  tide__time_format(luaL_checkinteger(L, 1), text);
  lua_pushstring(L, text);
  return 1;
}

/* parseTime(text) -> ms, or nil where it is no time */
static int parse_time(lua_State *L) {
  size_t size;
  int64_t time;
  const char *text = luaL_checklstring(L, 1, &size);
  if (!tide__time_parse(text, size, &time)) return 0;
  lua_pushinteger(L, time);
  return 1;
}

/* sha256(text) -> 32 bytes */
static int sha256(lua_State *L) {
  size_t size;
  unsigned char hash[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  const char *text = luaL_checklstring(L, 1, &size);
  if (EVP_Digest(text, size, hash, &length, EVP_sha256(), NULL) != 1)
    return luaL_error(L, "libcrypto could not compute a SHA-256");
  lua_pushlstring(L, (const char *)hash, length);
  return 1;
}

/* ---- checks ----------------------------------------------------------------------- */

/* checkTenant(value), checkName(value, argument): raise where it is none */
static int check_tenant(lua_State *L) {
  tide__tenant_argument(L, 1);
  return 0;
}

static int check_name(lua_State *L) {
  tide__name_argument(L, 1, luaL_checkstring(L, 2));
  return 0;
}

/* checkInteger(value, argument, low, high or nil) -> integer; raises where it is none */
static int check_integer(lua_State *L) {
  const char *argument = luaL_checkstring(L, 2);
  lua_Integer low = luaL_checkinteger(L, 3), high = luaL_optinteger(L, 4, LUA_MAXINTEGER);
  lua_pushinteger(L, tide__integer_argument(L, 1, argument, low, high));
  return 1;
}

/* ---- folders, terminals -----------------------------------------------------------------------
 */

static int folder_gc(lua_State *L) {
  DIR **folder = luaL_checkudata(L, 1, "tidelog.Folder");
  if (*folder != NULL) closedir(*folder);
  *folder = NULL;
  return 0;
}

/* isTerminal() -> whether standard error is one, where progress can be shown */
static int is_terminal(lua_State *L) {
  lua_pushboolean(L, isatty(STDERR_FILENO));
  return 1;
}

/* listFolder(path) -> list of the names in it, without those that begin with a dot; or nil
** and why not */
static int list_folder(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  DIR **folder = lua_newuserdatauv(L, sizeof(DIR *), 0);
  *folder = NULL;
  if (luaL_newmetatable(L, "tidelog.Folder")) {
    lua_pushcfunction(L, folder_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  *folder = opendir(path);
  if (*folder == NULL) {
    lua_pushnil(L);
    lua_pushstring(L, strerror(errno));
    return 2;
  }
  lua_newtable(L);
  const struct dirent *entry;
  while ((entry = readdir(*folder)) != NULL) {
    if (entry->d_name[0] == '.') continue;
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  }
  closedir(*folder);
  *folder = NULL;
  return 1;
}

int tide__module_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"encode", encode},
                                       {"decode", decode},
                                       {"freeze", freeze},
                                       {"copy", copy},
                                       {"array", array},
                                       {"isArray", is_array},
                                       {"toJson", to_json},
                                       {"fromJson", from_json},
                                       {"id", new_id},
                                       {"random", random_float},
                                       {"now", now},
                                       {"clock", elapsed},
                                       {"sleep", sleep_ms},
                                       {"formatTime", format_time},
                                       {"parseTime", parse_time},
                                       {"sha256", sha256},
                                       {"checkTenant", check_tenant},
                                       {"checkName", check_name},
                                       {"checkInteger", check_integer},
                                       {"listFolder", list_folder},
                                       {"isTerminal", is_terminal},
                                       {NULL, NULL}};
  lua_getglobal(L, "require");
  lua_pushliteral(L, "tidelog.err");
  lua_call(L, 1, 1);
  tide__lua_error_open(L, lua_gettop(L));
  lua_pop(L, 1);
  tide__tables_open(L);
  tide__writer_open(L);
  tide__bytes_open(L);
  luaL_newlib(L, functions);
  tide__store_handle_open(L);
  tide__store_state_open(L);
  tide__import_open(L);
  tide__record_open(L);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  lua_pushstring(L, TIDE_VERSION);
  lua_setfield(L, -2, "version");
  lua_pushinteger(L, TIDE_LEASE_MAX);
  lua_setfield(L, -2, "leaseMax"); /* ms */
  return 1;
}

int tide_luaopen(struct lua_State *L) {
  return tide__module_open(L);
}
