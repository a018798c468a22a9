/* json_write.c - BSON as JSON text (RFC 8259; bsonspec.org, version 1.1). libbson's writer
** cuts deep documents off. */
#include "core/json.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bson_check.h"
#include "core/commit.h"
#include "core/error.h"
#include "core/json_output.h"
#include "core/names.h"

/* The documents that are open; their bytes are checked, so that every size holds. */
typedef struct writer {
  tide_output out;
  int indent, open;
  struct {
    const uint8_t *end; /* at its NUL */
    bool array, filled;
  } levels[TIDE_BODY_DEPTH_MAX];
} writer;

static uint64_t get_int(const uint8_t *at, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; i++)
    value |= (uint64_t)at[i] << (8 * i);
  return value;
}

static bool put_line(writer *w) {
  static const char spaces[] = "                                ";
  if (w->indent == 0) return true;
  if (!tide__output_put(&w->out, "\n", 1)) return false;
  for (size_t left = (size_t)w->indent * (size_t)w->open, n; left > 0; left -= n) {
    n = left < sizeof spaces - 1 ? left : sizeof spaces - 1;
    if (!tide__output_put(&w->out, spaces, n)) return false;
  }
  return true;
}

static bool put_escape(writer *w, unsigned char c) {
  static const char meant[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
  const char *found = memchr(meant, c, sizeof meant - 1);
  char text[8];
  if (found != NULL)
    snprintf(text, sizeof text, "\\%c", letters[found - meant]);
  else
    snprintf(text, sizeof text, "\\u%04x", c);
  return tide__output_put(&w->out, text, strlen(text));
}

static bool put_string(writer *w, const uint8_t *text, size_t size) {
  size_t run = 0;
  if (!tide__output_put(&w->out, "\"", 1)) return false;
  for (size_t i = 0; i < size; i++) {
    if (text[i] >= 0x20 && text[i] != '"' && text[i] != '\\' && text[i] != 0x7F) continue;
    if (!tide__output_put(&w->out, text + run, i - run) || !put_escape(w, text[i])) return false;
    run = i + 1;
  }
  return tide__output_put(&w->out, text + run, size - run) && tide__output_put(&w->out, "\"", 1);
}

/* What JSON has no form for, `text` without quotes. */
static bool put_named(writer *w, const char *name, const char *text, size_t size) {
  char head[32];
  snprintf(head, sizeof head, "{\"%s\":%s\"", name, w->indent > 0 ? " " : "");
  return tide__output_put(&w->out, head, strlen(head)) && tide__output_put(&w->out, text, size) &&
         tide__output_put(&w->out, "\"}", 2);
}

static bool write_double(writer *w, double value) {
  char text[40]; /* %.17g has at most 24 characters */
  if (!isfinite(value)) {
    const char *name = isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
    return put_named(w, "$double", name, strlen(name));
  }
  /* What has up to 15 digits, %.15g gives back as it was, except for a subnormal number. */
  for (int digits = fabs(value) < DBL_MIN ? 1 : 15; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    if (digits == 17 || strtod(text, NULL) == value) break;
  }
  if (!tide__output_put(&w->out, text, strlen(text))) return false;
  return strpbrk(text, ".e") != NULL || tide__output_put(&w->out, ".0", 2);
}

static bool write_binary(writer *w, const uint8_t *data, size_t size) {
  static const char digits[] = "0123456789abcdef";
  if (!put_named(w, "$binary", "", 0)) return false;
  w->out.size -= 2; /* the hex goes in front of the quote and the brace */
  for (size_t i = 0; i < size; i++) {
    const char hex[2] = {digits[data[i] >> 4], digits[data[i] & 15]};
    if (!tide__output_put(&w->out, hex, sizeof hex)) return false;
  }
  return tide__output_put(&w->out, "\"}", 2);
}

static bool open_document(writer *w, const uint8_t *at, bool array) {
  w->levels[w->open].end = at + get_int(at, 4) - 1;
  w->levels[w->open].array = array;
  w->levels[w->open].filled = false;
  w->open++;
  return tide__output_put(&w->out, array ? "[" : "{", 1);
}

static bool close_document(writer *w) {
  w->open--;
  if (w->levels[w->open].filled && !put_line(w)) return false;
  return tide__output_put(&w->out, w->levels[w->open].array ? "]" : "}", 1);
}

/* Writes the value and returns where the next byte is read, behind the value or the
** size of a document that it has opened; NULL where it fails. */
static const uint8_t *write_value(writer *w, uint8_t type, const uint8_t *at) {
  char digits[24];
  uint64_t bits;
  size_t size;
  double number;
  bool good;
  switch (type) {
  case TIDE_BSON_DOCUMENT:
  case TIDE_BSON_ARRAY:
    return open_document(w, at, type == TIDE_BSON_ARRAY) ? at + 4 : NULL;
  case TIDE_BSON_TEXT:
    size = (size_t)get_int(at, 4);
    return put_string(w, at + 4, size - 1) ? at + 4 + size : NULL;
  case TIDE_BSON_BINARY:
    size = (size_t)get_int(at, 4);
    return write_binary(w, at + 5, size) ? at + 5 + size : NULL;
  case TIDE_BSON_INT32:
  case TIDE_BSON_INT64:
    bits = get_int(at, type == TIDE_BSON_INT32 ? 4 : 8);
    snprintf(digits, sizeof digits, "%" PRId64,
             type == TIDE_BSON_INT32 ? (int32_t)bits : (int64_t)bits);
    return tide__output_put(&w->out, digits, strlen(digits))
               ? at + (type == TIDE_BSON_INT32 ? 4 : 8)
               : NULL;
  case TIDE_BSON_DOUBLE:
    bits = get_int(at, 8);
    memcpy(&number, &bits, sizeof number);
    return write_double(w, number) ? at + 8 : NULL;
  case TIDE_BSON_BOOL:
    good = *at != 0 ? tide__output_put(&w->out, "true", 4) : tide__output_put(&w->out, "false", 5);
    return good ? at + 1 : NULL;
  default: /* null: tide__bson_check lets no other type through */
    return tide__output_put(&w->out, "null", 4) ? at : NULL;
  }
}

static bool write_document(writer *w, const uint8_t *bson) {
  const uint8_t *at = bson + 4;
  if (!open_document(w, bson, false)) return false;
  while (w->open > 0) {
    if (at == w->levels[w->open - 1].end) {
      at++;
      if (!close_document(w)) return false;
      continue;
    }
    if (w->levels[w->open - 1].filled && !tide__output_put(&w->out, ",", 1)) return false;
    w->levels[w->open - 1].filled = true;
    if (!put_line(w)) return false;
    uint8_t type = *at++;
    size_t key_size = strlen((const char *)at);
    if (!w->levels[w->open - 1].array) {
      size_t colon = w->indent > 0 ? 2 : 1;
      if (!put_string(w, at, key_size) || !tide__output_put(&w->out, ": ", colon)) return false;
    }
    at = write_value(w, type, at + key_size + 1);
    if (at == NULL) return false;
  }
  return tide__output_put(&w->out, "", 1);
}

int tide__json_write(const uint8_t *bson, size_t size, int indent, char **text, size_t *text_size,
                     tide_error *error) {
  tide_c_locale locale;
  writer w = {.out = {.most = SIZE_MAX, .error = error},
              .indent = indent < 0                      ? 0
                        : indent > TIDE_JSON_INDENT_MAX ? TIDE_JSON_INDENT_MAX
                                                        : indent};
  *text = NULL;
  *text_size = 0;
  const char *why = tide__bson_check(bson, size, TIDE_BODY_DEPTH_MAX);
  if (why != NULL) return tide__fail_store(error, 0, "a stored value is damaged: %s", why);
  if (!tide__c_locale_begin(&locale)) return tide__fail_memory(error);
  bool good = write_document(&w, bson);
  tide__c_locale_end(&locale);
  if (!good) {
    free(w.out.data);
    return w.out.code;
  }
  *text = (char *)w.out.data;
  *text_size = w.out.size - 1;
  return TIDE_OK;
}
