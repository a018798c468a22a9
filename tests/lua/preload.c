/* preload.c - preloaded into lua5.4 in a sanitized build, behind the sanitizer's runtime:
** keeps LD_PRELOAD from the processes that a spec starts. A shell under LeakSanitizer
** fails by leaks of its own. (build-asan/bin/lua5.4 sets LD_PRELOAD again for Lua.) */
#include <stdlib.h>

__attribute__((constructor)) static void keep_it_to_ourselves(void) {
  unsetenv("LD_PRELOAD");
}
