/* raises.h - for clang-tidy only (-include): these functions of Lua never return, which
** lauxlib.h does not tell the analyzer. */
struct lua_State;
int lua_error(struct lua_State *L) __attribute__((analyzer_noreturn));
int luaL_error(struct lua_State *L, const char *format, ...) __attribute__((analyzer_noreturn));
int luaL_argerror(struct lua_State *L, int argument, const char *message)
    __attribute__((analyzer_noreturn));
int luaL_typeerror(struct lua_State *L, int argument, const char *type)
    __attribute__((analyzer_noreturn));
