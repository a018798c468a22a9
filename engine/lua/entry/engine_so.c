/* engine_so.c - the shared object that `require "tidelog.engine"` finds: one door into
** libtidelog, which does all the work. */
#include <lua.h>

#include "tidelog.h"

TIDE_API int luaopen_tidelog_engine(lua_State *L);

int luaopen_tidelog_engine(lua_State *L) {
  return tide_luaopen(L);
}
