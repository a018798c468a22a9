/* contract.h - the suite that every store passes: what its cases share.
**
** Each case gets a fresh, empty store. A persistent one can be opened again by its URI,
** in the middle of a case and by a second handle; for "memory:" contract_reopen keeps
** the handle, so that a case reads the same for every store. */
#ifndef TIDE_TESTS_CONTRACT_H
#define TIDE_TESTS_CONTRACT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/clock.h"
#include "core/names.h"
#include "stores/store.h"

#define T "tenant1" /* the tenant of cases that need just one */

typedef struct contract {
  tide_store *store;
  bool persistent;
  char uri[512];
  tide_error error; /* for OK and REFUSED, which leave it zero */
  void **bodies;    /* bson_t of contract_body, freed at the end */
  size_t bodies_count;
} contract;

/* Chooses the store of all further cases: "memory", "sqlite", "mongodb". false: unknown,
** or no server for it. */
bool contract_choose(const char *name);

int contract_setup(void **state);
int contract_teardown(void **state);
#define CASE(f) cmocka_unit_test_setup_teardown(f, contract_setup, contract_teardown)

/* Closes the store and opens it again by its URI (memory: keeps it). */
void contract_reopen(contract *c);
/* The two halves of it, for persistent stores; and a handle of the caller's own. */
void contract_close(contract *c);
void contract_open(contract *c);
tide_store *contract_open_second(contract *c);
/* Leaves the case where the store forgets what it had when it is closed. */
void contract_needs_persistence(const contract *c);

/* OK: the call succeeds and leaves the error alone. REFUSED: it fails with this code, a
** message and (unless NULL) this argument. */
#define OK(c, call) contract_expect((call), TIDE_OK, "", &(c)->error, #call, __FILE__, __LINE__)
#define REFUSED(c, code, argument, call)                                                           \
  contract_expect((call), code, argument, &(c)->error, #call, __FILE__, __LINE__)
void contract_expect(int got, int code, const char *argument, tide_error *error, const char *call,
                     const char *file, int line);

/* A small BSON document that differs for each n; lives as long as the case. */
tide_bytes contract_body(contract *c, int64_t n);
/* A BSON document of exactly `size` bytes (32 or more). */
tide_bytes contract_body_of_size(contract *c, size_t size);

/* A commit with a body that is its own. */
tide_commit contract_commit(contract *c, const char *type, const char *id, int64_t version,
                            int32_t count, const char *command_id);

/* Appends one commit and says what became of it; `put` expects that it is appended. */
tide_outcome contract_append(contract *c, const char *tenant, tide_commit *commit);
tide_commit contract_put(contract *c, const char *tenant, const char *type, const char *id,
                         int64_t version, int32_t count);

/* All that the writer gave and the store set is the same. */
void contract_same(const tide_commit *expected, const tide_commit *got);

/* Reads the scan's next commit and expects this one, or (NULL) the end. */
void contract_next_is(contract *c, tide_scan *scan, const tide_commit *expected);

/* Scans by the query and expects exactly these commits, in this order. */
void contract_scan_gives(contract *c, const char *tenant, const tide_query *query,
                         const tide_commit *const *expected, size_t count);

/* The whole log holds together: positions, versions, times, hashes, head. Gives the
** number of events. */
int64_t contract_verify(contract *c, const char *tenant);

void contract_document_is(contract *c, const char *tenant, const char *path,
                          const tide_bytes *expected); /* NULL: it is not there */
/* Takes the lease and expects to get it; the cursors are freed. Gives the token. */
int64_t contract_lease(contract *c, const char *thread, const char *owner, int64_t duration);
void contract_sleep(int ms);

/* A group of cases. */
typedef struct contract_group {
  const char *name;
  const struct CMUnitTest *tests;
  size_t count;
} contract_group;
#define GROUP(group, tests)                                                                        \
  const contract_group contract_##group = {#group, tests, sizeof(tests) / sizeof *(tests)}
#define COUNT(array) (sizeof(array) / sizeof *(array))

extern const contract_group contract_append_cases, contract_scan_cases, contract_tenant_cases,
    contract_snapshot_cases, contract_lease_cases, contract_document_cases, contract_name_cases,
    contract_argument_cases, contract_model_cases, contract_thread_cases, contract_process_cases,
    contract_wait_cases, contract_import_cases, contract_reader_cases;

#endif
