/* arguments.c - checking what Lua passes to the engine's functions. */
#include "lua/arguments.h"

#include <lauxlib.h>
#include <string.h>

#include "core/error.h"
#include "core/names.h"
#include "lua/lua_error.h"

static void wrong_type(lua_State *L, int index, const char *argument, const char *wanted) {
  tide_error error = {0};
  if (lua_isnoneornil(L, index))
    tide__fail(&error, TIDE_MISSING_ARGUMENT, argument, "%s is missing", argument);
  else
    tide__fail(&error, TIDE_INVALID_ARGUMENT, argument, "%s is a %s, not %s", argument,
               luaL_typename(L, index), wanted);
  tide__lua_raise(L, &error);
}

const char *tide__text_argument(lua_State *L, int index, const char *argument, size_t *size) {
  tide_error error = {0};
  size_t length = 0;
  if (lua_type(L, index) != LUA_TSTRING) wrong_type(L, index, argument, "a string");
  const char *text = lua_tolstring(L, index, &length);
  if (length == 0) {
    tide__fail(&error, TIDE_MISSING_ARGUMENT, argument, "%s is missing", argument);
    tide__lua_raise(L, &error);
  }
  if (size != NULL) {
    *size = length;
  } else if (strlen(text) != length) {
    tide__fail(&error, TIDE_INVALID_ARGUMENT, argument, "%s holds a NUL byte", argument);
    tide__lua_raise(L, &error);
  }
  return text;
}

const char *tide__tenant_argument(lua_State *L, int index) {
  tide_error error = {0};
  size_t size;
  const char *tenant = tide__text_argument(L, index, "tenant", &size);
  if (tide__check_tenant(tenant, size, &error) != TIDE_OK) tide__lua_raise(L, &error);
  return tenant;
}

const char *tide__name_argument(lua_State *L, int index, const char *argument) {
  tide_error error = {0};
  size_t size;
  const char *name = tide__text_argument(L, index, argument, &size);
  if (tide__check_name(argument, name, size, &error) != TIDE_OK) tide__lua_raise(L, &error);
  return name;
}

int64_t tide__integer_argument(lua_State *L, int index, const char *argument, int64_t low,
                               int64_t high) {
  tide_error error = {0};
  int integral = 0;
  lua_Integer value = 0;
  if (lua_type(L, index) == LUA_TNUMBER)
    value = lua_tointegerx(L, index, &integral);
  else
    wrong_type(L, index, argument, "an integer");
  if (integral && value >= low && value <= high) return value;
  if (!integral)
    tide__fail(&error, TIDE_INVALID_ARGUMENT, argument, "%s %.17g is not an integer", argument,
               (double)lua_tonumber(L, index));
  else if (high == INT64_MAX)
    tide__fail(&error, TIDE_INVALID_ARGUMENT, argument, "%s %lld is less than %lld", argument,
               (long long)value, (long long)low);
  else
    tide__fail(&error, TIDE_INVALID_ARGUMENT, argument, "%s %lld is not from %lld to %lld",
               argument, (long long)value, (long long)low, (long long)high);
  return tide__lua_raise(L, &error);
}

int64_t tide__integer_option(lua_State *L, int index, const char *argument, int64_t low,
                             int64_t high, int64_t absent) {
  if (lua_isnoneornil(L, index)) return absent;
  return tide__integer_argument(L, index, argument, low, high);
}

void tide__table_argument(lua_State *L, int index, const char *argument) {
  if (lua_type(L, index) != LUA_TTABLE) wrong_type(L, index, argument, "a table");
}
