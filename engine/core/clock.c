/* clock.c - time in milliseconds, and its ISO 8601 text.
**
** Days are counted by Howard Hinnant's "chrono-Compatible Low-Level Date
** Algorithms" (proleptic Gregorian calendar, years that begin in March). */
#include "core/clock.h"

#include <stdbool.h>
#include <time.h>

#define DAY INT64_C(86400000)

int64_t tide__now(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return 0; /* cannot fail for this clock */
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t tide__monotonic(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) return 0; /* cannot fail for this clock */
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t days_from_civil(int64_t year, int month, int day) {
  year -= month <= 2;
  int64_t era = (year >= 0 ? year : year - 399) / 400;
  int64_t of_era = year - era * 400;
  int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static void put_digits(char *text, int digits, int64_t value) {
  for (int i = digits - 1; i >= 0; i--, value /= 10)
    text[i] = (char)('0' + value % 10);
}

void tide__time_format(int64_t time, char text[TIDE_TIME_TEXT]) {
  if (time < TIDE_TIME_MIN) time = TIDE_TIME_MIN;
  if (time > TIDE_TIME_MAX) time = TIDE_TIME_MAX;
  int64_t days = time / DAY, ms = time % DAY;
  if (ms < 0) {
    ms += DAY;
    days--;
  }
  days += 719468;
  int64_t era = (days >= 0 ? days : days - 146096) / 146097;
  int64_t of_era = days - era * 146097;
  int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  int64_t shifted = (5 * of_year + 2) / 153;
  int64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
  put_digits(text, 4, year_of_era + era * 400 + (month <= 2));
  text[4] = '-';
  put_digits(text + 5, 2, month);
  text[7] = '-';
  put_digits(text + 8, 2, of_year - (153 * shifted + 2) / 5 + 1);
  text[10] = 'T';
  put_digits(text + 11, 2, ms / 3600000);
  text[13] = ':';
  put_digits(text + 14, 2, ms / 60000 % 60);
  text[16] = ':';
  put_digits(text + 17, 2, ms / 1000 % 60);
  text[19] = '.';
  put_digits(text + 20, 3, ms % 1000);
  text[23] = 'Z';
  text[24] = '\0';
}

typedef struct input {
  const char *at, *end;
} input;

/* Exactly `digits` digits, within [low, high]. */
static bool take_number(input *in, int digits, int low, int high, int *value) {
  int n = 0;
  for (int i = 0; i < digits; i++, in->at++) {
    if (in->at >= in->end || *in->at < '0' || *in->at > '9') return false;
    n = n * 10 + (*in->at - '0');
  }
  *value = n;
  return n >= low && n <= high;
}

static bool take(input *in, char c) {
  if (in->at >= in->end || *in->at != c) return false;
  in->at++;
  return true;
}

static bool take_fraction(input *in, int *ms) {
  if (!take(in, '.')) return true;
  int digits = 0;
  *ms = 0;
  for (; in->at < in->end && *in->at >= '0' && *in->at <= '9'; in->at++, digits++)
    if (digits < 3) *ms = *ms * 10 + (*in->at - '0');
  for (int i = digits; i < 3; i++)
    *ms *= 10;
  return digits > 0;
}

static bool take_zone(input *in, int *minutes) {
  if (in->at == in->end || take(in, 'Z')) return true;
  int sign = take(in, '+') ? 1 : take(in, '-') ? -1 : 0, hours = 0, rest = 0;
  if (sign == 0 || !take_number(in, 2, 0, 23, &hours)) return false;
  if (!take(in, ':') || !take_number(in, 2, 0, 59, &rest)) return false;
  *minutes = sign * (hours * 60 + rest);
  return true;
}

int tide__time_parse(const char *text, size_t size, int64_t *time) {
  static const int month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  input in = {text, text + size};
  int year, month, day, hour = 0, minute = 0, second = 0, ms = 0, zone = 0;
  if (!take_number(&in, 4, 0, 9999, &year) || !take(&in, '-') ||
      !take_number(&in, 2, 1, 12, &month) || !take(&in, '-') || !take_number(&in, 2, 1, 31, &day))
    return 0;
  bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  if (day > month_days[month - 1] + (month == 2 && leap)) return 0;
  if (take(&in, 'T')) {
    if (!take_number(&in, 2, 0, 23, &hour) || !take(&in, ':') ||
        !take_number(&in, 2, 0, 59, &minute))
      return 0;
    if (take(&in, ':') && (!take_number(&in, 2, 0, 59, &second) || !take_fraction(&in, &ms)))
      return 0;
  }
  if (!take_zone(&in, &zone) || in.at != in.end) return 0;
  int64_t result = days_from_civil(year, month, day) * DAY +
                   ((int64_t)hour * 60 + minute - zone) * 60000 + second * 1000 + ms;
  if (result < TIDE_TIME_MIN || result > TIDE_TIME_MAX) return 0;
  *time = result;
  return 1;
}
