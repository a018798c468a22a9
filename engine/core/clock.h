/* clock.h - wall-clock time in milliseconds with its ISO 8601 text, and a clock to measure
** with. */
#ifndef TIDE_CORE_CLOCK_H
#define TIDE_CORE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#define TIDE_TIME_TEXT 25 /* "2026-11-23T09:00:00.000Z" and its NUL */

/* Years 0000 to 9999, the range that the text can show. */
#define TIDE_TIME_MIN INT64_C(-62167219200000)
#define TIDE_TIME_MAX INT64_C(253402300799999)

/* Milliseconds since 1970-01-01T00:00:00Z by the system's clock. */
int64_t tide__now(void);

/* Milliseconds since some moment, by a clock that nobody sets: to measure waiting with. */
int64_t tide__monotonic(void);

/* Writes the time as UTC text; a time out of range is clamped. */
void tide__time_format(int64_t time, char text[TIDE_TIME_TEXT]);

/* Reads YYYY-MM-DD[THH:MM[:SS[.fraction]]][Z|+HH:MM|-HH:MM] (no zone: UTC;
** digits of the fraction past milliseconds are dropped). 1 if it is a valid
** time, 0 if not. */
int tide__time_parse(const char *text, size_t size, int64_t *time);

#endif
