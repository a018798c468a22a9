# Lua and busted for this build, in build/bin, which `eval "$(./dev env)"` and the tests
# put at the head of PATH.
find_program(LUA54 NAMES lua5.4 lua54 lua)
find_program(BUSTED busted PATHS /usr/bin /usr/local/bin NO_DEFAULT_PATH)

set(tidelog_lua ${LUA54})
if(TIDELOG_SANITIZE STREQUAL "address")
  execute_process(COMMAND ${CMAKE_C_COMPILER} -print-file-name=libasan.so
    OUTPUT_VARIABLE libasan OUTPUT_STRIP_TRAILING_WHITESPACE)
  add_library(test_preload MODULE tests/lua/preload.c)
  configure_file(cmake/lua5.4.in bin/lua5.4 @ONLY)
  set(tidelog_lua ${CMAKE_BINARY_DIR}/bin/lua5.4)
endif()
if(BUSTED)
  configure_file(cmake/busted.in bin/busted @ONLY)
endif()
