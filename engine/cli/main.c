/* main.c - the tidelog command: a Lua state with Tidelog in it, and lua/tidelog/cli, which
** does all the work and returns the exit status. */
#include <errno.h>
#include <lua.h>
#include <stdio.h>
#include <string.h>

#include "lua/lua_error.h"
#include "lua/state.h"
#include "tidelog.h"

typedef struct arguments {
  int count;
  char **values;
} arguments;

/* Runs in protected mode: main(arguments) of tidelog.cli -> exit status. */
static int run(lua_State *L) {
  const arguments *given = lua_touserdata(L, 1);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "tidelog.cli");
  lua_call(L, 1, 1);
  lua_createtable(L, given->count, 0);
  for (int i = 0; i < given->count; i++) {
    lua_pushstring(L, given->values[i]);
    lua_rawseti(L, -2, i); /* the command's own name is at 0, as in lua5.4's arg */
  }
  lua_call(L, 1, 1);
  return 1;
}

int main(int count, char **values) {
  tide_error error = {0};
  arguments given = {count, values};
  int status = 1;
  lua_State *L = tide__state_new(&error);
  if (L == NULL) {
    fprintf(stderr, "tidelog: %s\n", error.message);
    return 1;
  }
  lua_pushcfunction(L, run);
  lua_pushlightuserdata(L, &given);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK) {
    status = (int)lua_tointeger(L, -1);
  } else {
    tide__lua_caught(L, -1, &error);
    fprintf(stderr, "tidelog: %s\n", error.message);
  }
  lua_close(L);
  errno = 0;
  if ((fflush(stdout) != 0 || ferror(stdout)) && status == 0) {
    fprintf(stderr, "tidelog: standard output cannot be written%s%s\n", errno == 0 ? "" : ": ",
            errno == 0 ? "" : strerror(errno));
    status = 1;
  }
  return status;
}
