/* tidelog.h - the public API of Tidelog, an event-sourcing engine whose
** domain logic is written in Lua.
**
** This header is the specification: every function says who owns what, which
** threads may call it, and how it fails.
**
** Conventions
**   - A function that can fail returns TIDE_OK (0) or a tide_code, and fills
**     the caller's tide_error where one is given (NULL is allowed).
**   - Strings are NUL-terminated UTF-8 and are copied, never kept.
**   - The library has no globals, prints nothing, installs no signal handler
**     and never calls exit().
*/
#ifndef TIDELOG_H
#define TIDELOG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TIDE_API __attribute__((visibility("default")))
#else
#define TIDE_API
#endif

#define TIDE_VERSION_MAJOR 0
#define TIDE_VERSION_MINOR 1
#define TIDE_VERSION_PATCH 0
#define TIDE_VERSION       "0.1.0"

/* ---- Errors ------------------------------------------------------------ */

typedef enum tide_code {
  TIDE_OK = 0,
  TIDE_INVALID_ARGUMENT = 1, /* an argument breaks its rule            */
  TIDE_MISSING_ARGUMENT = 2, /* a required argument was not given      */
  TIDE_NOT_IMPLEMENTED = 3,  /* the domain code lacks a function       */
  TIDE_CONCURRENCY = 4,      /* another writer was first: a unique key
                                or a lost lease proved it              */
  TIDE_PRECONDITION = 5,     /* the domain refused the command         */
  TIDE_ACCESS_DENIED = 6,    /* the actor has none of the roles        */
  TIDE_LIMIT = 7,            /* a size, time or memory limit was hit   */
  TIDE_STORE = 8,            /* the database failed or is not ours     */
  TIDE_NO_MEMORY = 9,        /* an allocation failed                   */
  TIDE_DOMAIN = 10           /* domain code raised an error of its own */
} tide_code;

/* Owned by the caller, of fixed size, valid until the caller's next use of it.
** Set it to zero first; a function that succeeds leaves it alone. */
typedef struct tide_error {
  int code;           /* a tide_code                                       */
  int transient;      /* 1: the same call may succeed when it is repeated  */
  char argument[128]; /* the argument, field or method at fault, or ""     */
  char message[512];  /* one line for a person, without a trailing newline */
} tide_error;

/* The error's name as Lua shows it ("ConcurrencyError"), a static string.
** Any thread. An unknown code gives "Error". */
TIDE_API const char *tide_error_name(int code);

/* The version of the library that runs, "0.1.0"; a static string. */
TIDE_API const char *tide_version(void);

/* ---- The engine ---------------------------------------------------------- */

/* A store and a domain of aggregates and handlers, for a host application.
** Any thread may use it; calls are served one after the other. After fork() the
** child must not use it, nor close it. */
typedef struct tide_engine tide_engine;

typedef struct tide_options {
  const char *domain; /* the folder with aggregates/ and handlers/; NULL: "."    */
  int busy_timeout;   /* ms to wait for another process that writes; 0: 10,000   */
  int cache_size;     /* aggregates kept in memory; 0: the default, 1,000        */
} tide_options;

/* Bytes that the library hands out, freed by tide_free. JSON is UTF-8 and ended by a
** NUL that `size` does not count. Numbers in it are exact: integers are written
** without, floats with a point or exponent. */
typedef struct tide_buffer {
  char *data;
  size_t size;
} tide_buffer;

/* Twice is harmless, and so is NULL. Any thread. */
TIDE_API void tide_free(tide_buffer *buffer);

typedef enum tide_format { TIDE_JSON = 0, TIDE_BSON = 1 } tide_format;

/* What a caller passes in: JSON text or one BSON document. Only read. */
typedef struct tide_data {
  tide_format format;
  const void *data;
  size_t size; /* of JSON: 0 means up to its NUL */
} tide_data;

/* Who sends a command. Copied. */
typedef struct tide_actor {
  const char *id;
  const char *tenant;       /* [a-z0-9][a-z0-9_-]{0,37}        */
  const char *name;         /* may be NULL                     */
  const char *const *roles; /* may be NULL if role_count is 0  */
  size_t role_count;
} tide_actor;

/* Opens the store at `uri` ("sqlite:FOLDER", "mongodb://…", "mongodb+srv://…" or "memory:") and
** loads the domain. The first one on MongoDB in a process switches libmongoc's log off, which
** would be written to standard error.
** options may be NULL. On success *engine is the caller's, ended by tide_close; on
** failure it is NULL.
** Errors: TIDE_MISSING_ARGUMENT, TIDE_INVALID_ARGUMENT ("uri", "domain"),
** TIDE_NOT_IMPLEMENTED (an aggregate without commands or events), TIDE_STORE,
** TIDE_DOMAIN (a domain file raised an error), TIDE_NO_MEMORY. */
TIDE_API int tide_open(const char *uri, const tide_options *options, tide_engine **engine,
                       tide_error *error);

/* Closes; NULL is harmless. No other call may be under way, and all readers must
** be closed before. Everything that was acknowledged is durable already. */
TIDE_API void tide_close(tide_engine *engine);

/* Runs a command and returns when its events are durable. The payload (NULL: empty)
** may have aggregateId, expectedVersion and commandId, which are taken out. *result
** (NULL: not wanted) gets a document in `format`:
**   { aggregateType, aggregateId, aggregateVersion, command, commandId, duplicate,
**     events: [ { name, version, payload, position, time, aggregateVersion } ] }
** Errors: TIDE_MISSING_ARGUMENT, TIDE_INVALID_ARGUMENT, TIDE_CONCURRENCY (a stale
** expectedVersion, or too many conflicts), TIDE_PRECONDITION, TIDE_ACCESS_DENIED,
** TIDE_LIMIT, TIDE_STORE, TIDE_DOMAIN (the domain code failed), TIDE_NO_MEMORY; then
** nothing was written, except that TIDE_NO_MEMORY, and a TIDE_STORE whose message says
** that the outcome is not known, want to be sent again with the same commandId. */
TIDE_API int tide_command(tide_engine *engine, const tide_actor *actor, const char *command,
                          const tide_data *payload, tide_format format, tide_buffer *result,
                          tide_error *error);

/* Which moment of an aggregate's history. */
typedef enum tide_at_kind {
  TIDE_NOW = 0,
  TIDE_AT_VERSION,
  TIDE_AT_POSITION,
  TIDE_AT_TIME
} tide_at_kind;

typedef struct tide_at {
  tide_at_kind kind;
  int64_t value; /* version, position, or ms since 1970 UTC */
} tide_at;

/* Gives the state of an aggregate as a document:
**   { aggregateType, aggregateId, aggregateVersion, state: { ... } }
** `aggregate` is its name ("Calculator") or path ("calculators"). An aggregate without
** events (then) is at version -1. at may be NULL: now. NaN and infinities, which a
** state may hold, are { "$double": "NaN" } and so on in JSON.
** Errors: TIDE_MISSING_ARGUMENT, TIDE_INVALID_ARGUMENT (also a version or position that
** is not reached, and a state that cannot be shown: with a function in it, or nested over
** 64 levels), TIDE_LIMIT (a state over 16 MB), TIDE_STORE, TIDE_DOMAIN, TIDE_NO_MEMORY. */
TIDE_API int tide_load(tide_engine *engine, const char *tenant, const char *aggregate,
                       const char *id, const tide_at *at, tide_format format, tide_buffer *state,
                       tide_error *error);

/* A reader of a tenant's history. For one thread at a time. */
typedef struct tide_reader tide_reader;

/* Opens a reader. filter (NULL: everything, forwards) may have from, to, since, till,
** aggregateType, aggregateId, name, backwards, limit, as store:events in Lua. On
** success *reader is the caller's, ended by tide_read_close before the engine. */
TIDE_API int tide_read(tide_engine *engine, const char *tenant, const tide_data *filter,
                       tide_reader **reader, tide_error *error);

/* The next event: { name, version, payload, position, time, aggregateType, aggregateId,
** aggregateVersion, command, actor, commandId, correlationId, causationId }; at the end
** event->data is NULL and the result TIDE_OK. */
TIDE_API int tide_read_next(tide_reader *reader, tide_format format, tide_buffer *event,
                            tide_error *error);

/* NULL is harmless. */
TIDE_API void tide_read_close(tide_reader *reader);

/* Shows the domain's handlers the tenant's next events, at most `limit` (0: 10), under
** the thread's cursors. *more (may be NULL) tells whether another call would find
** something to do. A handler that fails keeps its cursor; then the result is TIDE_DOMAIN
** with the first failure's message, and the other handlers went on. */
TIDE_API int tide_poll(tide_engine *engine, const char *tenant, const char *thread, int limit,
                       int *more, tide_error *error);

/* A document that a handler wrote, by its path ("/counters/counter1"); body->data is NULL
** where there is none. */
TIDE_API int tide_doc(tide_engine *engine, const char *tenant, const char *path, tide_format format,
                      tide_buffer *body, tide_error *error);

/* ---- Lua ----------------------------------------------------------------- */

struct lua_State;

/* Opens the module tidelog.engine in a Lua 5.4 state of the caller's own, as a
** lua_CFunction: pushes the module's table and returns 1, or raises a Lua error.
** The module is what `require "tidelog"` is built on; call that instead. */
TIDE_API int tide_luaopen(struct lua_State *L);

#ifdef __cplusplus
}
#endif

#endif
