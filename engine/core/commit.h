/* commit.h - the commit, the unit of the log: all events of one command on one
** aggregate, and the SHA-256 that chains it to the commit before it.
**
** docs/format.md has the record field by field. Positions and versions count
** events, from 0, without a gap. */
#ifndef TIDE_CORE_COMMIT_H
#define TIDE_CORE_COMMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tidelog.h"

#define TIDE_HASH_SIZE 32

/* The most bytes a body may have: what fits a 16 MiB document of the strictest
** database with room for the rest of the record. */
#define TIDE_BODY_MAX (16 * 1024 * 1024 - 64 * 1024)

/* The strings are NUL-terminated; who fills the struct owns what it points to. */
typedef struct tide_commit {
  /* Given by the writer, never changed: */
  const char *type;       /* aggregate type, for example "Calculator"         */
  const char *id;         /* aggregate id                                     */
  const char *command_id; /* unique in its aggregate where not NULL: a second
                             commit with the same id is a duplicate           */
  int64_t version;        /* of the first event: the aggregate's next version */
  int32_t count;          /* events in it, 1 or more                          */
  const uint8_t *body;    /* BSON: command, payload, actor, ids, events       */
  size_t body_size;       /* in bytes, at most TIDE_BODY_MAX                  */

  /* Set by the store when it appends: */
  int64_t position;             /* of the first event in the tenant's order   */
  int64_t time;                 /* ms since 1970 UTC; never less than the time
                                   of the commit before it                    */
  uint8_t hash[TIDE_HASH_SIZE]; /* of the previous hash and all of the above  */
} tide_commit;

/* Where a tenant's log ends. An empty log is all zero. */
typedef struct tide_head {
  int64_t position; /* of the next event: the number of events so far */
  int64_t time;     /* of the last commit                             */
  uint8_t hash[TIDE_HASH_SIZE];
} tide_head;

/* Checks what the writer gives (names, version, count, body size and shape).
** A store calls it for each commit before it writes any. */
int tide__commit_check(const tide_commit *commit, tide_error *error);

/* Makes `commit` the one that follows `head`: sets its position, its time (now,
** or the head's time if that is later) and its hash, then moves the head behind
** it. Fails (TIDE_LIMIT) when positions run out, (TIDE_STORE) when libcrypto
** fails; then neither is changed. */
int tide__commit_seal(tide_commit *commit, tide_head *head, int64_t now, tide_error *error);

/* Checks that a commit which was read follows `head` in position, time and hash,
** and moves the head behind it. TIDE_STORE with a message that says what differs
** and at which position. */
int tide__commit_verify(const tide_commit *commit, tide_head *head, tide_error *error);

/* Aggregate types that begin so are the engine's own: they are not appended by users. */
#define TIDE_OWN_TYPES "tidelog."
/* A commit of this type closes a hole in the order. */
#define TIDE_TOMBSTONE TIDE_OWN_TYPES "tombstone"
bool tide__commit_is_tombstone(const tide_commit *commit);

/* As tide__commit_verify for the commit behind a tombstone, which was hashed over what was
** lost: its position and time are checked, its hash is taken as it is. */
int tide__commit_verify_torn(const tide_commit *commit, tide_head *head, tide_error *error);

#endif
