# Writes OUTPUT, a C file with every Lua file below ROOT/tidelog as an entry of
# tide__lua_sources (engine/lua/lua_sources.h), sorted by module name:
#
#   cmake -D ROOT=lua -D OUTPUT=lua_sources.c -P embed_lua.cmake
#
# tidelog/init.lua is the module "tidelog", tidelog/cli/main.lua is
# "tidelog.cli.main". Files that only hold types for editors (their first line
# begins with ---@meta) are left out.
cmake_minimum_required(VERSION 3.18)

file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/tidelog/*.lua)
list(SORT files)
set(arrays "")
set(entries "")
set(n 0)
foreach(file IN LISTS files)
  file(READ ${ROOT}/${file} hex HEX)
  if(hex MATCHES "^2d2d2d406d657461") # ---@meta
    continue()
  endif()
  string(REGEX REPLACE "\\.lua$" "" module ${file})
  string(REGEX REPLACE "/init$" "" module ${module})
  string(REPLACE "/" "." module ${module})
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  # Not string literals: C compilers need only take 4095 bytes of those.
  string(APPEND arrays "static const unsigned char source_${n}[] = {${bytes}0};\n")
  string(APPEND entries
    "    {\"${module}\", (const char *)source_${n}, sizeof source_${n} - 1},\n")
  math(EXPR n "${n} + 1")
endforeach()
file(WRITE ${OUTPUT}
  "/* Made by cmake/embed_lua.cmake from lua/tidelog. */\n"
  "#include \"lua/lua_sources.h\"\n\n${arrays}\n"
  "const tide__lua_source tide__lua_sources[] = {\n${entries}    {NULL, NULL, 0},\n};\n")
