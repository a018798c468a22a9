/* error.h - filling the caller's tide_error. */
#ifndef TIDE_CORE_ERROR_H
#define TIDE_CORE_ERROR_H

#include "tidelog.h"

#if defined(__GNUC__)
#define TIDE__PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define TIDE__PRINTF(f, a)
#endif

/* Each fills *error (NULL is allowed) and returns its code, so that a failing
** function can say `return tide__fail(...)`. Messages that are too long are
** cut at a whole UTF-8 character. */
int tide__fail(tide_error *error, int code, const char *argument, const char *format, ...)
    TIDE__PRINTF(4, 5);

/* A TIDE_STORE error; transient: 1 where the same call may succeed later. */
int tide__fail_store(tide_error *error, int transient, const char *format, ...) TIDE__PRINTF(3, 4);

int tide__fail_memory(tide_error *error);

#endif
