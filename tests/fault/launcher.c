/* launcher.c - a Lua interpreter with the module `process`, which Lua itself lacks: it
** starts, reads, stops and kills child processes, so that the fault tests can be Lua.
**
**   fault_launcher SCRIPT ARGUMENT...
**
** process.spawn{argument, ..., fileSize = bytes, env = { "NAME=value" }, traced = true,
**   unprivileged = true} starts a child whose standard input and output are pipes here. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <lauxlib.h>
#include <lualib.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#endif

#define CHILD  "fault.process"
#define NOBODY 65534
#define FAILED 127 /* the child's exit status where it could not be started */

typedef struct child {
  pid_t pid; /* 0: none, or waited for */
  int input, output;
  bool traced;
} child;

static child *check_child(lua_State *L) {
  return luaL_checkudata(L, 1, CHILD);
}

static int64_t now(void) {
  struct timespec time;
  (void)clock_gettime(CLOCK_MONOTONIC, &time); /* cannot fail for this clock */
  return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void close_end(int *file) {
  if (*file >= 0) (void)close(*file); /* a pipe has nothing to lose */
  *file = -1;
}

/* ---- Starting -------------------------------------------------------------------------- */

typedef struct start {
  char **arguments, **environment;
  lua_Integer file_size; /* -1: no limit */
  bool traced, unprivileged;
} start;

static int limit_file_size(lua_Integer bytes) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0) return -1;
  limit.rlim_cur = bytes < 0 ? limit.rlim_max : (rlim_t)bytes;
  (void)signal(SIGXFSZ, bytes < 0 ? SIG_DFL : SIG_IGN); /* then write() fails with EFBIG */
  return setrlimit(RLIMIT_FSIZE, &limit);
}

static int drop_root(void) {
  if (geteuid() != 0) return 0;
  if (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0) return -1;
  return setuid(NOBODY);
}

/* In the child. */
static void run(const start *s, int input, int output) {
  static const int defaults[] = {SIGPIPE, SIGINT, SIGTERM};
  for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
    (void)signal(defaults[i], SIG_DFL);
#ifdef __linux__
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* elsewhere a broken pipe ends it a little later */
#endif
  bool ready = dup2(input, 0) == 0 && dup2(output, 1) == 1;
  for (char **e = s->environment; *e != NULL; e++)
    ready = ready && putenv(*e) == 0;
  if (s->file_size >= 0) ready = ready && limit_file_size(s->file_size) == 0;
  if (s->unprivileged) ready = ready && drop_root() == 0;
#ifdef __linux__
  if (s->traced) ready = ready && ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0;
#else
  ready = ready && !s->traced;
#endif
  if (ready) (void)execvp(s->arguments[0], s->arguments);
  (void)fprintf(stderr, "launcher: cannot start %s: %s\n", s->arguments[0], strerror(errno));
  _exit(FAILED);
}

/* The texts of the list on top of the stack, which keeps them, ended by a NULL; pushes
** what owns the array. */
static char **texts(lua_State *L) {
  const lua_Integer count = lua_istable(L, -1) ? luaL_len(L, -1) : 0;
  const int list = lua_gettop(L);
  char **array = lua_newuserdatauv(L, (size_t)(count + 1) * sizeof *array, 0);
  for (lua_Integer i = 0; i < count; i++) {
    lua_geti(L, list, i + 1);
    array[i] = (char *)(uintptr_t)luaL_checkstring(L, -1); /* exec and putenv only read it */
    lua_pop(L, 1);
  }
  array[count] = NULL;
  return array;
}

static bool flag(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  const bool set = lua_toboolean(L, -1) != 0;
  lua_pop(L, 1);
  return set;
}

static int spawn(lua_State *L) {
  int in[2], out[2];
  start s = {.file_size = -1};
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  s.traced = flag(L, "traced");
  s.unprivileged = flag(L, "unprivileged");
  if (lua_getfield(L, 1, "fileSize") != LUA_TNIL) s.file_size = luaL_checkinteger(L, -1);
  lua_getfield(L, 1, "env");
  s.environment = texts(L);
  lua_pushvalue(L, 1);
  s.arguments = texts(L);
  luaL_argcheck(L, s.arguments[0] != NULL, 1, "no program");
  child *c = lua_newuserdatauv(L, sizeof *c, 0);
  *c = (child){.input = -1, .output = -1, .traced = s.traced};
  luaL_setmetatable(L, CHILD);
  if (pipe(in) != 0) return luaL_error(L, "pipe: %s", strerror(errno));
  c->input = in[1];
  if (pipe(out) != 0) {
    (void)close(in[0]);
    return luaL_error(L, "pipe: %s", strerror(errno));
  }
  c->output = out[0];
  (void)fcntl(c->input, F_SETFD, FD_CLOEXEC); /* cannot fail for an open file */
  (void)fcntl(c->output, F_SETFD, FD_CLOEXEC);
  (void)fcntl(in[0], F_SETFD, FD_CLOEXEC);
  (void)fcntl(out[1], F_SETFD, FD_CLOEXEC);
  (void)fflush(NULL); /* or the child would print it again */
  const pid_t pid = fork();
  if (pid == 0) run(&s, in[0], out[1]);
  if (pid > 0) c->pid = pid;
  (void)close(in[0]);
  (void)close(out[1]);
  if (pid < 0) return luaL_error(L, "fork: %s", strerror(errno));
#ifdef __linux__
  if (c->traced) { /* it stops when it has called exec */
    int status = 0;
    const bool stopped = waitpid(pid, &status, 0) == pid && WIFSTOPPED(status);
    if (!stopped) c->pid = 0;
    if (!stopped || ptrace(PTRACE_SETOPTIONS, pid, NULL,
                           (void *)(uintptr_t)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL |
                                               PTRACE_O_TRACEEXEC)) != 0) {
      lua_pushnil(L);
      lua_pushliteral(L, "tracing is not permitted here");
      return 2;
    }
  }
#endif
  return 1;
}

/* ---- Talking ---------------------------------------------------------------------------- */

/* child:receive(ms) -> what it has written since, or false at the timeout, nil at the end */
static int child_receive(lua_State *L) {
  child *c = check_child(L);
  const int64_t until = now() + luaL_optinteger(L, 2, 0);
  char bytes[65536];
  for (;;) {
    int64_t left = until - now();
    struct pollfd wait = {.fd = c->output, .events = POLLIN};
    if (c->output < 0) return 0;
    const int ready = poll(&wait, 1, left > 0 ? (int)left : 0);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      lua_pushboolean(L, 0);
      return 1;
    }
    const ssize_t size = read(c->output, bytes, sizeof bytes);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) {
      close_end(&c->output);
      return 0;
    }
    lua_pushlstring(L, bytes, (size_t)size);
    return 1;
  }
}

/* child:send(text) -> whether it could be written; child:send() closes its input */
static int child_send(lua_State *L) {
  child *c = check_child(L);
  size_t size = 0, done = 0;
  const char *text = luaL_optlstring(L, 2, NULL, &size);
  while (text != NULL && done < size) {
    const ssize_t wrote = write(c->input, text + done, size - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) break;
    done += (size_t)wrote;
  }
  if (text == NULL) close_end(&c->input);
  lua_pushboolean(L, done == size);
  return 1;
}

/* ---- Stopping and waiting --------------------------------------------------------------- */

static int child_signal(lua_State *L) {
  static const char *const names[] = {"KILL", "STOP", "CONT", "TERM", NULL};
  static const int signals[] = {SIGKILL, SIGSTOP, SIGCONT, SIGTERM};
  child *c = check_child(L);
  const int which = luaL_checkoption(L, 2, NULL, names);
  lua_pushboolean(L, c->pid > 0 && kill(c->pid, signals[which]) == 0);
  return 1;
}

/* Pushes "exit", status or "signal", number. */
static int push_status(lua_State *L, child *c, int status) {
  c->pid = 0;
  lua_pushstring(L, WIFSIGNALED(status) ? "signal" : "exit");
  lua_pushinteger(L, WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  return 2;
}

/* child:wait(ms) -> "exit", status or "signal", number, or nil at the timeout */
static int child_wait(lua_State *L) {
  child *c = check_child(L);
  const int64_t until = now() + luaL_checkinteger(L, 2);
  const struct timespec pause = {0, 500000};
  while (c->pid > 0) {
    int status = 0;
    const pid_t ended = waitpid(c->pid, &status, WNOHANG);
    if (ended == c->pid && (WIFEXITED(status) || WIFSIGNALED(status)))
      return push_status(L, c, status);
    if (ended < 0 && errno != EINTR) return luaL_error(L, "waitpid: %s", strerror(errno));
    if (now() >= until) break;
    (void)nanosleep(&pause, NULL); /* cut short: asks again sooner */
  }
  return 0;
}

static int child_close(lua_State *L) {
  child *c = check_child(L);
  int status;
  close_end(&c->input);
  close_end(&c->output);
  if (c->pid > 0 && kill(c->pid, SIGKILL) == 0) {
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
      continue;
  }
  c->pid = 0;
  return 0;
}

static int child_pid(lua_State *L) {
  lua_pushinteger(L, check_child(L)->pid);
  return 1;
}

/* ---- Step by step (Linux) ---------------------------------------------------------------- */

#ifdef __linux__
/* The calls that change files, or say something. */
static const char *call_name(uint64_t number) {
  switch (number) {
  case SYS_write:
    return "write";
  case SYS_pwrite64:
    return "pwrite";
  case SYS_ftruncate:
    return "ftruncate";
  case SYS_fsync:
  case SYS_fdatasync:
    return "fsync";
#ifdef SYS_unlink
  case SYS_unlink:
#endif
  case SYS_unlinkat:
    return "unlink";
#ifdef SYS_mkdir
  case SYS_mkdir:
#endif
  case SYS_mkdirat:
    return "mkdir";
  case SYS_fallocate:
    return "fallocate";
  case SYS_fcntl: /* locks */
    return "fcntl";
  case SYS_openat:
    return "open";
  default:
    return NULL;
  }
}

/* child:step() -> the name of the next call that it is about to make and the call's first
** argument (a file); or nil, and what wait() says, when it has ended. It does not return
** where the child waits for ever: traced children are given all that they read. */
static int child_step(lua_State *L) {
  child *c = check_child(L);
  int status = 0, forward = 0;
  luaL_argcheck(L, c->pid > 0 && c->traced, 1, "not a traced process that runs");
  for (;;) {
    if (ptrace(PTRACE_SYSCALL, c->pid, NULL, (void *)(intptr_t)forward) != 0 ||
        waitpid(c->pid, &status, 0) < 0)
      return luaL_error(L, "ptrace: %s", strerror(errno));
    if (!WIFSTOPPED(status)) {
      lua_pushnil(L);
      return 1 + push_status(L, c, status);
    }
    forward = 0;
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
      forward = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status); /* it called exec again */
      continue;
    }
    struct __ptrace_syscall_info info;
    memset(&info, 0, sizeof info);
    if (ptrace(PTRACE_GET_SYSCALL_INFO, c->pid, (void *)sizeof info, &info) <= 0)
      return luaL_error(L, "ptrace: this kernel does not tell system calls");
    const char *name = info.op == PTRACE_SYSCALL_INFO_ENTRY ? call_name(info.entry.nr) : NULL;
    if (name == NULL) continue;
    lua_pushstring(L, name);
    lua_pushinteger(L, (lua_Integer)info.entry.args[0]);
    return 2;
  }
}
#else
static int child_step(lua_State *L) {
  return luaL_error(L, "tracing is for Linux");
}
#endif

/* ---- This process -------------------------------------------------------------------------- */

static int clock_now(lua_State *L) {
  lua_pushinteger(L, now());
  return 1;
}

static int pause_for(lua_State *L) {
  const int64_t until = now() + luaL_checkinteger(L, 1);
  for (int64_t left; (left = until - now()) > 0;) {
    const struct timespec time = {(time_t)(left / 1000), (long)(left % 1000) * 1000000};
    (void)nanosleep(&time, NULL); /* cut short: goes on */
  }
  return 0;
}

/* fileSize(bytes): this process's files may not grow beyond it; fileSize(): lifts it */
static int set_file_size(lua_State *L) {
  if (limit_file_size(luaL_optinteger(L, 1, -1)) != 0)
    return luaL_error(L, "setrlimit: %s", strerror(errno));
  return 0;
}

static int is_root(lua_State *L) {
  lua_pushboolean(L, geteuid() == 0);
  return 1;
}

static int process_id(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

static int temporary(lua_State *L) {
  const char *base = getenv("TMPDIR");
  lua_pushfstring(L, "%s/tidelog-fault-XXXXXX", base != NULL && base[0] != '\0' ? base : "/tmp");
  size_t size;
  const char *pattern = lua_tolstring(L, -1, &size);
  char *path = lua_newuserdatauv(L, size + 1, 0);
  memcpy(path, pattern, size + 1);
  if (mkdtemp(path) == NULL) return luaL_error(L, "%s: %s", path, strerror(errno));
  lua_pushstring(L, path);
  return 1;
}

static int open_process(lua_State *L) {
  static const luaL_Reg methods[] = {{"receive", child_receive}, {"send", child_send},
                                     {"signal", child_signal},   {"wait", child_wait},
                                     {"close", child_close},     {"pid", child_pid},
                                     {"step", child_step},       {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", child_close}, {"__close", child_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"spawn", spawn},         {"clock", clock_now},
                                       {"sleep", pause_for},     {"fileSize", set_file_size},
                                       {"isRoot", is_root},      {"id", process_id},
                                       {"temporary", temporary}, {NULL, NULL}};
  luaL_newmetatable(L, CHILD);
  luaL_setfuncs(L, meta, 0);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}

/* ---- main ----------------------------------------------------------------------------------- */

static int traceback(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

/* Under lua_pcall: the script's name and arguments are on the stack. */
static int run_script(lua_State *L) {
  const int count = lua_gettop(L);
  luaL_openlibs(L);
  luaL_requiref(L, "process", open_process, 0);
  lua_createtable(L, count, 0);
  for (int i = 1; i <= count; i++) {
    lua_pushvalue(L, i);
    lua_rawseti(L, -2, i - 1);
  }
  lua_setglobal(L, "arg");
  lua_pushcfunction(L, traceback);
  if (luaL_loadfile(L, lua_tostring(L, 1)) != LUA_OK) return lua_error(L);
  for (int i = 2; i <= count; i++)
    lua_pushvalue(L, i);
  if (lua_pcall(L, count - 1, 0, -count - 1) != LUA_OK) return lua_error(L);
  return 0;
}

/* As ctest says where they are: the library's Lua files and the build, for this process
** and its children. Otherwise: eval "$(./dev env)". */
static void find_library(void) {
  const char *source = getenv("TIDELOG_SOURCE"), *build = getenv("TIDELOG_BUILD");
  char path[8192];
  if (source == NULL || build == NULL) return;
  (void)snprintf(path, sizeof path, "%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;;", source, source,
                 source);
  (void)setenv("LUA_PATH", path, 1);
  (void)snprintf(path, sizeof path, "%s/lua/?.so;;", build);
  (void)setenv("LUA_CPATH", path, 1);
  (void)unsetenv("LUA_PATH_5_4");
  (void)unsetenv("LUA_CPATH_5_4");
  (void)unsetenv("LUA_INIT");
}

int main(int count, char **arguments) {
  find_library();
  lua_State *L = luaL_newstate();
  if (count < 2 || L == NULL) {
    (void)fputs("usage: fault_launcher SCRIPT ARGUMENT...\n", stderr);
    return 2;
  }
  (void)signal(SIGPIPE, SIG_IGN); /* a killed child's input */
  lua_pushcfunction(L, run_script);
  for (int i = 1; i < count; i++)
    lua_pushstring(L, arguments[i]);
  const int result = lua_pcall(L, count - 1, 0, 0);
  if (result != LUA_OK) (void)fprintf(stderr, "%s\n", lua_tostring(L, -1));
  lua_close(L);
  return result == LUA_OK ? 0 : 1;
}
