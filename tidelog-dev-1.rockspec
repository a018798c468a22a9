-- The Lua module alone: the library is inside tidelog/engine.so. For the C library,
-- the tidelog command and the man pages, install with CMake (README.md).
-- tests/install/rock keeps this file true.
rockspec_format = "3.0"
package = "tidelog"
version = "dev-1"
source = { url = "git+file://." } -- luarocks make, in a checkout
description = {
  summary = "Event sourcing with a C core and Lua domain logic",
  license = "MIT",
}
supported_platforms = { "unix" }
dependencies = { "lua >= 5.4, < 5.5" }
build = {
  type = "cmake",
  variables = {
    CMAKE_BUILD_TYPE = "RelWithDebInfo",
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    TIDELOG_ROCK = "ON",
    TIDELOG_TESTS = "OFF",
    TIDELOG_LUA_DIR = "$(LUADIR)",
    TIDELOG_LUA_CDIR = "$(LIBDIR)",
  },
}
