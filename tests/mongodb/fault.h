/* fault.h - what the MongoDB tests share: the contract's cases and helpers on a server that
** fails, and ways to make it fail.
**
** Texts of JSON are written with ' for ". */
#ifndef TIDE_TESTS_MONGODB_FAULT_H
#define TIDE_TESTS_MONGODB_FAULT_H

#include <stdio.h>
#include <stdlib.h>

#include "contract/contract.h"
#include "mongodb/databases.h"

#define PATIENT 10000 /* ms: the store's default; longer than any failure here lasts */
#define HASTY   400   /* ms */

/* Runs the cases of one file; 77 where there is no server. */
int fault_run(const char *name, const struct CMUnitTest *cases, size_t count);
#define RUN(name, cases) fault_run(name, cases, COUNT(cases))

/* Opens the case's store anew, with further URI options ("&…" or "") and this patience. */
void fault_open(contract *c, const char *options, int patience);

/* As OK and REFUSED: the call fails with a StoreError that may be tried again, or must not;
** the error stays in c->error for a look at its text. */
#define FAILS(c, transient, call)                                                                  \
  fault_expect((call), (transient), &(c)->error, #call, __FILE__, __LINE__)
void fault_expect(int got, bool transient, const tide_error *error, const char *call,
                  const char *file, int line);

/* ---- The server ---------------------------------------------------------------- */

/* Lets commands of the engine (not those of databases_client) fail: `mode` and `data` of
** configureFailPoint failCommand. */
void fault_failpoint(const char *mode, const char *data);
void fault_failpoint_off(void);

/* Says a line to tests/mongodb/control. false: it could not be done. */
bool fault_control(const char *line);

/* Documents of a collection of the case's first tenant that match a filter; all: "{}". */
int64_t fault_count(const contract *c, const char *collection, const char *filter);
/* One command to the database of the case's first tenant; the reply is the caller's. */
bson_t *fault_command(const contract *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Writes a document into a collection of it, past the engine. */
void fault_plant(const contract *c, const char *collection, const char *json);

/* ---- The proxy ------------------------------------------------------------------- */

/* One command to the proxy (proxy.py); the answer is the caller's. */
bson_t *fault_proxy(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Adds a rule, its fields without the braces; gives its number. */
int64_t fault_rule(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* How often a rule fired. */
int64_t fault_fired(int64_t rule);
void fault_pretend(const char *as);
/* A number in a document, by its dotted path; -1: it is not there. */
int64_t fault_number(const bson_t *bson, const char *path);

/* setup and teardown of a case with a proxy, which has no rules then. */
int fault_proxy_setup(void **state);
int fault_proxy_teardown(void **state);
#define PROXY_CASE(f) cmocka_unit_test_setup_teardown(f, fault_proxy_setup, fault_proxy_teardown)

/* ---- The log ------------------------------------------------------------------------ */

/* Appends, as one group, commits of one event each on `id`, from `version` on; all must get in. */
void fault_append_some(contract *c, const char *id, int64_t version, size_t count);

/* The log is whole and has just so many events in as many commits, for this handle, for a new
** one, and in the database. */
void fault_log_is(contract *c, int64_t events, int64_t commits);

/* A field of tide__store_describe; "" where it is missing. */
void fault_described(contract *c, const char *field, char *text, size_t size);

#endif
