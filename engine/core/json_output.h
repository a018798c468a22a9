/* json_output.h - what reading and writing JSON have in common: a growing output, and the
** C locale. Private to core/json_*.c. */
#ifndef TIDE_CORE_JSON_OUTPUT_H
#define TIDE_CORE_JSON_OUTPUT_H

#include <locale.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tidelog.h"
#if defined(__APPLE__)
#include <xlocale.h>
#endif

/* Functions that write into it return false once it failed, with `code` set and
** `error` filled. */
typedef struct tide_output {
  uint8_t *data;
  size_t size, capacity, most;
  tide_error *error;
  int code;
} tide_output;

/* `data` with room for `need` items of `each` bytes or more; NULL where there is no
** memory, and `data` stays as it was. */
void *tide__output_grow(void *data, size_t *capacity, size_t need, size_t each);
bool tide__output_no_memory(tide_output *out);
bool tide__output_put(tide_output *out, const void *data, size_t size);

/* strtod and printf take the decimal point from the locale, which the process or the
** thread may have set to anything. Every use of them is between these two. */
typedef struct tide_c_locale {
  locale_t ours, before;
} tide_c_locale;

bool tide__c_locale_begin(tide_c_locale *locale);
void tide__c_locale_end(tide_c_locale *locale);

#endif
