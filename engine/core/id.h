/* id.h - unique ids that sort by the time they were made. */
#ifndef TIDE_CORE_ID_H
#define TIDE_CORE_ID_H

#include "tidelog.h"

#define TIDE_ID_SIZE 26 /* characters, without the NUL */

/* Writes a new id: 128 bits as 26 characters of Crockford's base 32, as a ULID
** has: 48 bits of milliseconds, then 20 bits of the fraction of that
** millisecond, so that one process's ids sort in the order they were made,
** then 60 random bits from the system. Fails only where the system gives no
** random bytes (TIDE_STORE). Any thread. */
int tide__id_new(char id[TIDE_ID_SIZE + 1], tide_error *error);

/* 64 random bits from the system. */
int tide__random(uint64_t *bits, tide_error *error);

#endif
