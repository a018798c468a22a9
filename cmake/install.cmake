# What `cmake --install build` puts where, below the prefix (default /usr/local).
# Everything finds its neighbours relative to itself, so that the tree may be
# installed under any prefix (--prefix, DESTDIR) and moved.
include(CMakePackageConfigHelpers)

# Lua's own paths: those of Debian's lua5.4 under /usr/local, not the multiarch ones.
set(TIDELOG_LUA_DIR share/lua/5.4 CACHE STRING "Where Lua files go")
set(TIDELOG_LUA_CDIR lib/lua/5.4 CACHE STRING "Where the Lua module goes")

install(DIRECTORY lua/tidelog DESTINATION ${TIDELOG_LUA_DIR} FILES_MATCHING PATTERN "*.lua")
install(TARGETS tidelog_module LIBRARY DESTINATION ${TIDELOG_LUA_CDIR}/tidelog)
if(TIDELOG_ROCK)
  return()
endif()

file(RELATIVE_PATH module_to_lib /${TIDELOG_LUA_CDIR}/tidelog /${CMAKE_INSTALL_LIBDIR})
file(RELATIVE_PATH pc_to_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" pc_to_prefix ${pc_to_prefix})
set_target_properties(tidelog_module PROPERTIES INSTALL_RPATH "$ORIGIN/${module_to_lib}")
install(TARGETS tidelog_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

install(TARGETS tidelog EXPORT tidelogTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES engine/tidelog.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

configure_file(cmake/tidelog.pc.in tidelog.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/tidelog.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/tidelog)
configure_package_config_file(cmake/tidelogConfig.cmake.in
  ${CMAKE_BINARY_DIR}/tidelogConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/tidelogConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(EXPORT tidelogTargets NAMESPACE tidelog:: DESTINATION ${package_dir})
install(FILES ${CMAKE_BINARY_DIR}/tidelogConfig.cmake ${CMAKE_BINARY_DIR}/tidelogConfigVersion.cmake
  DESTINATION ${package_dir})

install(FILES man/tidelog.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES man/tidelog.3 man/tidelog-lua.3 DESTINATION ${CMAKE_INSTALL_MANDIR}/man3)
install(FILES README.md CHANGELOG.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY aggregates handlers examples DESTINATION share/tidelog
  FILES_MATCHING PATTERN "*.lua")
