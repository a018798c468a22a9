# The tests, for ctest. Each has a label (its kind) and a timeout:
#
#   unit      tests/c/test_*.c, one executable each, with every internal function
#   contract  tests/contract/*.c, one suite, run once for every store
#   mongodb   tests/mongodb: a server that fails, and what the engine makes of it
#   lua       tests/lua/*_spec.lua, run by tests/lua/run
#   fault     tests/fault: crashes, full disks, damaged files, ...
#   valgrind  unit and contract again, under valgrind
#   lint      tests/lint/*: what can be told without running the library
#   install   tests/install/*: an installed tree and a rock, used from outside
#
# A test that lacks its tool exits with 77 and counts as skipped; with CI=true it
# fails. A sanitized build (TIDELOG_SANITIZE) has only the tests that run the
# library: all of them with address, unit and contract with thread.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
find_program(VALGRIND valgrind)

set(test_environment TIDELOG_SOURCE=${CMAKE_SOURCE_DIR} TIDELOG_BUILD=${CMAKE_BINARY_DIR}
  LUA54=${tidelog_lua} BUSTED=${BUSTED}
  MONGOC_DISABLE_SHM=1) # its file stays when a process is killed, and the next of its number warns
if(TIDELOG_SANITIZE STREQUAL "address")
  # No detect_stack_use_after_return: its stack does not align a bson_iter_t.
  list(APPEND test_environment TIDELOG_TEST_QUICK=1
    ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1)
elseif(TIDELOG_SANITIZE STREQUAL "thread")
  list(APPEND test_environment TIDELOG_TEST_QUICK=1
    TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1)
endif()
function(tidelog_test name)
  cmake_parse_arguments(PARSE_ARGV 1 test "SERIAL" "LABEL;TIMEOUT;PROCESSORS" "COMMAND;ENVIRONMENT")
  add_test(NAME ${name} COMMAND ${test_COMMAND} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT test_PROCESSORS)
    set(test_PROCESSORS 1)
  endif()
  set_tests_properties(${name} PROPERTIES
    LABELS ${test_LABEL} TIMEOUT ${test_TIMEOUT} PROCESSORS ${test_PROCESSORS}
    RUN_SERIAL ${test_SERIAL} SKIP_RETURN_CODE 77
    ENVIRONMENT "${test_environment};${test_ENVIRONMENT}")
endfunction()

function(tidelog_c_test target)
  add_executable(${target} ${ARGN})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${target} PRIVATE tidelog_internal PkgConfig::CMOCKA)
endfunction()

# Runs the test as it is and, in the normal build, once more under valgrind. That is
# for memory that was never initialised; leaks are AddressSanitizer's (which, other
# than valgrind, does not take a forked child's copies for leaks).
function(tidelog_run_test name)
  cmake_parse_arguments(PARSE_ARGV 1 test "" "LABEL;TIMEOUT" "COMMAND")
  tidelog_test(${name} COMMAND ${test_COMMAND} LABEL ${test_LABEL} TIMEOUT ${test_TIMEOUT})
  if(VALGRIND AND NOT TIDELOG_SANITIZE)
    tidelog_test(valgrind.${name} LABEL valgrind TIMEOUT 400 ENVIRONMENT TIDELOG_TEST_QUICK=1
      COMMAND ${VALGRIND} --quiet --error-exitcode=99 --leak-check=no
        --num-callers=30 ${test_COMMAND})
  endif()
endfunction()

# ---- C ------------------------------------------------------------------------

file(GLOB unit_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/c/test_*.c)
foreach(file IN LISTS unit_files)
  get_filename_component(target ${file} NAME_WE)
  string(REGEX REPLACE "^test_" "" name ${target})
  tidelog_c_test(${target} ${file})
  tidelog_run_test(unit.${name} COMMAND $<TARGET_FILE:${target}> LABEL unit TIMEOUT 120)
endforeach()

file(GLOB contract_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/contract/*.c)
set(mongodb ${CMAKE_SOURCE_DIR}/tests/mongodb)
tidelog_c_test(contract ${contract_files} ${mongodb}/databases.c)
target_include_directories(contract PRIVATE ${CMAKE_SOURCE_DIR}/tests)
foreach(store memory sqlite)
  tidelog_run_test(contract.${store} COMMAND $<TARGET_FILE:contract> ${store} LABEL contract TIMEOUT 240)
endforeach()
tidelog_test(contract.mongodb LABEL contract TIMEOUT 300
  COMMAND ${mongodb}/with_server -- $<TARGET_FILE:contract> mongodb)
# Once more where documents and cursors are apart, and nothing wakes.
tidelog_test(contract.mongodb_forward LABEL contract TIMEOUT 300
  COMMAND ${mongodb}/with_server --own --proxy --
    ${mongodb}/pretending no_transactions,no_change_streams $<TARGET_FILE:contract> mongodb)

if(TIDELOG_SANITIZE STREQUAL "thread")
  return()
endif()

add_subdirectory(tests/fault)
add_subdirectory(tests/mongodb)

# ---- Lua ----------------------------------------------------------------------------

file(GLOB specs CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/lua/*_spec.lua)
foreach(spec IN LISTS specs)
  get_filename_component(name ${spec} NAME_WE)
  string(REGEX REPLACE "_spec$" "" name ${name})
  tidelog_test(lua.${name} COMMAND ${CMAKE_SOURCE_DIR}/tests/lua/run ${spec} LABEL lua TIMEOUT 180)
endforeach()

# Those that try every store once more, on MongoDB.
tidelog_test(lua.mongodb LABEL lua TIMEOUT 300
  COMMAND ${mongodb}/with_server -- ${CMAKE_SOURCE_DIR}/tests/lua/run_on_mongodb)

tidelog_test(demo COMMAND ${CMAKE_SOURCE_DIR}/tests/install/demo LABEL lua TIMEOUT 60)

if(TIDELOG_SANITIZE)
  return()
endif()

# ---- Lint and install --------------------------------------------------------------

set(lint ${CMAKE_SOURCE_DIR}/tests/lint)
tidelog_test(lint.includes COMMAND ${lint}/includes LABEL lint TIMEOUT 60)
tidelog_test(lint.includes_selftest COMMAND ${lint}/includes --self-test LABEL lint TIMEOUT 60)
tidelog_test(lint.exports COMMAND ${lint}/exports $<TARGET_FILE:tidelog> LABEL lint TIMEOUT 60)
tidelog_test(lint.headers COMMAND ${lint}/headers LABEL lint TIMEOUT 120)
tidelog_test(lint.guarantees COMMAND ${lint}/guarantees LABEL lint TIMEOUT 60)
tidelog_test(lint.guarantees_selftest COMMAND ${lint}/guarantees --self-test LABEL lint TIMEOUT 60)
tidelog_test(lint.luacheck COMMAND ${lint}/luacheck LABEL lint TIMEOUT 120)
tidelog_test(lint.format COMMAND ${lint}/format LABEL lint TIMEOUT 120)
tidelog_test(lint.tidy COMMAND ${lint}/tidy LABEL lint TIMEOUT 600 PROCESSORS 2)
tidelog_test(lint.clang COMMAND ${lint}/clang LABEL lint TIMEOUT 300 PROCESSORS 2)
tidelog_test(install.tree COMMAND ${CMAKE_SOURCE_DIR}/tests/install/tree LABEL install TIMEOUT 300)
tidelog_test(install.rock COMMAND ${CMAKE_SOURCE_DIR}/tests/install/rock LABEL install TIMEOUT 300)
