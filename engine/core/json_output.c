/* json_output.c - what reading and writing JSON have in common. */
#include "core/json_output.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"

void *tide__output_grow(void *data, size_t *capacity, size_t need, size_t each) {
  size_t larger = *capacity < 64 ? 64 : *capacity;
  if (need > SIZE_MAX / 2 / each) return NULL;
  while (larger < need)
    larger *= 2;
  data = realloc(data, larger * each);
  if (data != NULL) *capacity = larger;
  return data;
}

bool tide__output_no_memory(tide_output *out) {
  out->code = tide__fail_memory(out->error);
  return false;
}

bool tide__output_put(tide_output *out, const void *data, size_t size) {
  if (size > out->most - out->size) {
    out->code = tide__fail(out->error, TIDE_LIMIT, "json",
                           "the JSON takes more than %zu bytes as BSON", out->most);
    return false;
  }
  if (size > out->capacity - out->size) {
    uint8_t *larger = tide__output_grow(out->data, &out->capacity, out->size + size, 1);
    if (larger == NULL) return tide__output_no_memory(out);
    out->data = larger;
  }
  if (size > 0) memcpy(out->data + out->size, data, size);
  out->size += size;
  return true;
}

bool tide__c_locale_begin(tide_c_locale *locale) {
  locale->ours = newlocale(LC_ALL_MASK, "C", (locale_t)0);
  if (locale->ours == (locale_t)0) return false;
  locale->before = uselocale(locale->ours);
  return true;
}

void tide__c_locale_end(tide_c_locale *locale) {
  uselocale(locale->before);
  freelocale(locale->ours);
}
