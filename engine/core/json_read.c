/* json_read.c - JSON text as BSON (RFC 8259; bsonspec.org, version 1.1).
**
** libbson can do this, too, but its reader changes values silently: it wraps integers,
** retypes {"$oid": ...}, takes NaN, -0, duplicate keys and a second document. A check in
** front of it would be a parser already. */
#include "core/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/bson_check.h"
#include "core/commit.h"
#include "core/error.h"
#include "core/json_output.h"
#include "core/names.h"

/* An entry of an object that is not closed yet. Sizes fit: TIDE_BODY_MAX does. */
typedef struct entry {
  size_t place;    /* of its key in the text                            */
  const char *key; /* in the output; set only while the entries are sorted */
  uint32_t at;     /* where it begins in the output, with its type      */
  uint32_t size;   /* in bytes, once its value is complete              */
} entry;

typedef struct level {
  bool array;
  size_t begin;   /* of the document in the output            */
  size_t first;   /* of the object's entries                  */
  uint32_t count; /* of the array's elements                  */
} level;

typedef struct reader {
  const char *text, *at, *end;
  tide_output out;
  size_t type_at; /* where in the output the type of the next value goes, or NO_TYPE */
  entry *entries; /* of all open objects, the innermost's last */
  size_t entry_count, entry_capacity;
  uint8_t *sorted; /* scratch */
  size_t sorted_capacity;
  level levels[TIDE_DEPTH_MAX];
  int open, most;
} reader;

#define NO_TYPE SIZE_MAX
#define SHOWN   40 /* bytes of the text in a message */

static bool refuse(reader *r, const char *at, const char *format, ...) TIDE__PRINTF(3, 4);

static bool refuse(reader *r, const char *at, const char *format, ...) {
  char why[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(why, sizeof why, format, arguments);
  va_end(arguments);
  size_t line = 1, column = 1;
  for (const char *p = r->text; p < at; p++) {
    if (*p == '\n') {
      line++;
      column = 1;
    } else if (((unsigned char)*p & 0xC0) != 0x80) {
      column++;
    }
  }
  r->out.code = tide__fail(r->out.error, TIDE_INVALID_ARGUMENT, "json",
                           "JSON line %zu, column %zu: %s", line, column, why);
  return false;
}

/* Makes UTF-8 text fit for a message: on one line, and not too long. */
static const char *show(char shown[SHOWN + 4], const char *text, size_t size) {
  size_t n = size < SHOWN ? size : SHOWN;
  while (n < size && n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80)
    n--;
  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)text[i];
    shown[i] = c < 0x20 || c == 0x7F ? '?' : text[i];
  }
  memcpy(shown + n, n < size ? "..." : "", n < size ? 4 : 1);
  return shown;
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static bool is_word(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' ||
         c == '+' || c == '-';
}

static bool expected(reader *r, const char *what) {
  const char *at = r->at, *word = at;
  char shown[SHOWN + 4];
  if (at == r->end) return refuse(r, at, "expected %s, found the end of the text", what);
  while (word < r->end && is_word(*word))
    word++;
  if (word == at && *word > 0x20 && *word < 0x7F) word++;
  if (word > at)
    return refuse(r, at, "expected %s, found '%s'", what, show(shown, at, (size_t)(word - at)));
  return refuse(r, at, "expected %s, found the byte 0x%02X", what, (unsigned char)*at);
}

/* The next byte, or NUL at the end; no rule allows a NUL in the text. */
static char next(const reader *r) {
  return r->at < r->end ? *r->at : '\0';
}

static void skip_space(reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
    r->at++;
}

static void set_int(uint8_t *to, int bytes, uint64_t value) {
  for (int i = 0; i < bytes; i++)
    to[i] = (uint8_t)(value >> (8 * i));
}

static bool put_int(reader *r, int bytes, uint64_t value) {
  uint8_t raw[8];
  set_int(raw, bytes, value);
  return tide__output_put(&r->out, raw, (size_t)bytes);
}

static void set_type(reader *r, uint8_t type) {
  if (r->type_at != NO_TYPE) r->out.data[r->type_at] = type;
}

/* The code unit of an escape whose 'u' is at `at`, or -1. */
static int32_t code_unit(const reader *r, const char *at) {
  int32_t unit = 0;
  if (r->end - at < 5) return -1;
  for (int i = 1; i <= 4; i++) {
    char c = at[i];
    int digit = is_digit(c)            ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
    if (digit < 0) return -1;
    unit = unit * 16 + digit;
  }
  return unit;
}

static bool put_character(reader *r, uint32_t c) {
  uint8_t utf8[4];
  if (c < 0x80) {
    utf8[0] = (uint8_t)c;
    return tide__output_put(&r->out, utf8, 1);
  }
  size_t size = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  for (size_t i = size - 1; i > 0; i--, c >>= 6)
    utf8[i] = (uint8_t)(0x80 | (c & 0x3F));
  utf8[0] = (uint8_t)(lead[size] | c);
  return tide__output_put(&r->out, utf8, size);
}

static bool read_escape(reader *r, bool key) {
  static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
  const char *backslash = r->at++;
  if (next(r) != 'u') {
    const char *letter = r->at < r->end ? memchr(letters, *r->at, sizeof letters - 1) : NULL;
    if (letter == NULL) return expected(r, "one of \" \\ / b f n r t u behind the backslash");
    r->at++;
    return tide__output_put(&r->out, meant + (letter - letters), 1);
  }
  int32_t unit = code_unit(r, r->at);
  if (unit < 0) return refuse(r, backslash, "expected four hexadecimal digits behind \\u");
  if (unit == 0 && key) return refuse(r, backslash, "a key may not hold \\u0000");
  r->at += 5;
  if (unit < 0xD800 || unit > 0xDFFF) return put_character(r, (uint32_t)unit);
  int32_t low = -1;
  if (unit < 0xDC00 && r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u')
    low = code_unit(r, r->at + 1);
  if (low < 0xDC00 || low > 0xDFFF)
    return refuse(r, backslash, "\\u%04X is half of a surrogate pair, the other half is missing",
                  (unsigned)unit);
  r->at += 6;
  return put_character(r, 0x10000 + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(low - 0xDC00));
}

static bool refuse_utf8(reader *r, const char *at) {
  size_t size = 1;
  while (size <= 4 && at < r->end) { /* over the characters that are good */
    if ((size_t)(r->end - at) >= size && tide__is_utf8(at, size)) {
      at += size;
      size = 1;
    } else {
      size++;
    }
  }
  return refuse(r, at, "expected UTF-8, found the byte 0x%02X", (unsigned char)*at);
}

/* Puts what the string at the reader's place means, without a NUL. */
static bool read_string(reader *r, bool key) {
  const char *quote = r->at++;
  for (;;) {
    const char *run = r->at;
    while (r->at < r->end && (unsigned char)*r->at >= 0x20 && *r->at != '"' && *r->at != '\\')
      r->at++;
    size_t size = (size_t)(r->at - run);
    if (!tide__is_utf8(run, size)) return refuse_utf8(r, run);
    if (!tide__output_put(&r->out, run, size)) return false;
    if (r->at == r->end) return refuse(r, quote, "the string that begins here has no end");
    if (*r->at == '"') break;
    if (*r->at != '\\')
      return refuse(r, r->at, "the control character 0x%02X must be written as an escape",
                    (unsigned char)*r->at);
    if (!read_escape(r, key)) return false;
  }
  r->at++;
  return true;
}

static bool read_text(reader *r) {
  size_t begin = r->out.size;
  set_type(r, TIDE_BSON_TEXT);
  if (!put_int(r, 4, 0) || !read_string(r, false) || !tide__output_put(&r->out, "", 1))
    return false;
  set_int(r->out.data + begin, 4, r->out.size - begin - 4);
  return true;
}

static bool read_digits(reader *r, const char *what) {
  if (!is_digit(next(r))) return expected(r, what);
  while (is_digit(next(r)))
    r->at++;
  return true;
}

static bool put_double(reader *r, const char *text, size_t size) {
  char few[64], shown[SHOWN + 4], *copy = few; /* strtod needs a NUL */
  if (size >= sizeof few && (copy = malloc(size + 1)) == NULL)
    return tide__output_no_memory(&r->out);
  memcpy(copy, text, size);
  copy[size] = '\0';
  double value = strtod(copy, NULL);
  if (copy != few) free(copy);
  if (isinf(value))
    return refuse(r, text, "the number %s is too large for a double", show(shown, text, size));
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  set_type(r, TIDE_BSON_DOUBLE);
  return put_int(r, 8, bits);
}

static bool read_number(reader *r) {
  const char *start = r->at;
  char shown[SHOWN + 4];
  bool negative = *start == '-';
  if (negative) r->at++;
  const char *digits = r->at;
  if (!read_digits(r, negative ? "a digit behind the minus" : "a digit")) return false;
  if (*digits == '0' && r->at - digits > 1)
    return refuse(r, start, "the number %s has a leading zero",
                  show(shown, start, (size_t)(r->at - start)));
  const char *whole = r->at;
  if (next(r) == '.') {
    r->at++;
    if (!read_digits(r, "a digit behind the decimal point")) return false;
  }
  if (next(r) == 'e' || next(r) == 'E') {
    r->at++;
    if (next(r) == '+' || next(r) == '-') r->at++;
    if (!read_digits(r, "a digit of the exponent")) return false;
  }
  size_t size = (size_t)(r->at - start);
  if (r->at > whole || (negative && *digits == '0')) return put_double(r, start, size);

  uint64_t magnitude = 0, most = (uint64_t)INT64_MAX + negative;
  for (const char *p = digits; p < whole; p++) {
    unsigned digit = (unsigned)(*p - '0');
    if (magnitude > (most - digit) / 10)
      return refuse(r, start, "the integer %s does not fit 64 bits (with .0 it is a double)",
                    show(shown, start, size));
    magnitude = magnitude * 10 + digit;
  }
  bool small = magnitude <= (uint64_t)INT32_MAX + negative;
  set_type(r, small ? TIDE_BSON_INT32 : TIDE_BSON_INT64);
  return put_int(r, small ? 4 : 8, negative ? 0 - magnitude : magnitude);
}

static bool take(reader *r, const char *word, size_t size) {
  if ((size_t)(r->end - r->at) < size || memcmp(r->at, word, size) != 0) return false;
  if ((size_t)(r->end - r->at) > size && is_word(r->at[size])) return false;
  r->at += size;
  return true;
}

static bool read_scalar(reader *r) {
  char c = next(r);
  if (c == '"') return read_text(r);
  if (c == '-' || is_digit(c)) return read_number(r);
  if (take(r, "null", 4)) {
    set_type(r, TIDE_BSON_NULL);
    return true;
  }
  bool yes = take(r, "true", 4);
  if (!yes && !take(r, "false", 5)) return expected(r, "a value");
  set_type(r, TIDE_BSON_BOOL);
  return tide__output_put(&r->out, yes ? "\1" : "", 1);
}

static bool open_level(reader *r) {
  if (r->open == r->most)
    return refuse(r, r->at, "nested more than %d levels deep", TIDE_DEPTH_MAX);
  level *l = &r->levels[r->open++];
  *l = (level){.array = *r->at == '[', .begin = r->out.size, .first = r->entry_count};
  set_type(r, l->array ? TIDE_BSON_ARRAY : TIDE_BSON_DOCUMENT);
  r->at++;
  return put_int(r, 4, 0);
}

static bool begin_element(reader *r, level *l) {
  char index[16];
  int size = snprintf(index, sizeof index, "%" PRIu32, l->count++);
  r->type_at = r->out.size;
  return tide__output_put(&r->out, "", 1) && tide__output_put(&r->out, index, (size_t)size + 1);
}

static bool begin_entry(reader *r) {
  skip_space(r);
  if (next(r) != '"') return expected(r, "a key in double quotes");
  if (r->entry_count == r->entry_capacity) {
    entry *larger =
        tide__output_grow(r->entries, &r->entry_capacity, r->entry_count + 1, sizeof *larger);
    if (larger == NULL) return tide__output_no_memory(&r->out);
    r->entries = larger;
  }
  r->entries[r->entry_count++] =
      (entry){.place = (size_t)(r->at - r->text), .at = (uint32_t)r->out.size};
  r->type_at = r->out.size;
  if (!tide__output_put(&r->out, "", 1) || !read_string(r, true) ||
      !tide__output_put(&r->out, "", 1))
    return false;
  skip_space(r);
  if (next(r) != ':') return expected(r, "':' behind the key");
  r->at++;
  return true;
}

/* By key, then as they are in the text. */
static int compare_entries(const void *x, const void *y) {
  const entry *a = x, *b = y;
  int order = strcmp(a->key, b->key);
  return order != 0 ? order : (a->at > b->at) - (a->at < b->at);
}

static bool sort_object(reader *r, const level *l) {
  size_t count = r->entry_count - l->first;
  if (count < 2) return true;
  entry *entries = r->entries + l->first;
  bool ascending = true;
  for (size_t i = 0; i < count; i++) {
    entries[i].key = (const char *)r->out.data + entries[i].at + 1;
    if (i > 0 && strcmp(entries[i - 1].key, entries[i].key) >= 0) ascending = false;
  }
  if (ascending) return true;
  qsort(entries, count, sizeof *entries, compare_entries);
  for (size_t i = 1; i < count; i++) {
    const char *key = entries[i].key;
    char shown[SHOWN + 4];
    if (strcmp(entries[i - 1].key, key) == 0)
      return refuse(r, r->text + entries[i].place, "the key \"%s\" is in the object twice",
                    show(shown, key, strlen(key)));
  }
  size_t begin = l->begin + 4, size = r->out.size - begin, at = 0;
  if (size > r->sorted_capacity) {
    uint8_t *larger = tide__output_grow(r->sorted, &r->sorted_capacity, size, 1);
    if (larger == NULL) return tide__output_no_memory(&r->out);
    r->sorted = larger;
  }
  for (size_t i = 0; i < count; i++) {
    memcpy(r->sorted + at, r->out.data + entries[i].at, entries[i].size);
    at += entries[i].size;
  }
  memcpy(r->out.data + begin, r->sorted, size);
  return true;
}

static bool close_level(reader *r) {
  const level *l = &r->levels[--r->open];
  if (!l->array && !sort_object(r, l)) return false;
  r->entry_count = l->first;
  if (!tide__output_put(&r->out, "", 1)) return false;
  set_int(r->out.data + l->begin, 4, r->out.size - l->begin);
  r->at++;
  return true;
}

/* One value. Recursion would be shorter, but the depth must not be the C stack's. */
static bool read_value(reader *r) {
  for (;;) {
    /* a value begins here */
    skip_space(r);
    if (next(r) == '{' || next(r) == '[') {
      if (!open_level(r)) return false;
      level *l = &r->levels[r->open - 1];
      skip_space(r);
      if (next(r) != (l->array ? ']' : '}')) {
        if (!(l->array ? begin_element(r, l) : begin_entry(r))) return false;
        continue;
      }
      if (!close_level(r)) return false;
    } else if (!read_scalar(r)) {
      return false;
    }
    /* and is complete here; perhaps so are those that it is in */
    for (;;) {
      if (r->open == 0) return true;
      level *l = &r->levels[r->open - 1];
      if (!l->array) {
        entry *last = &r->entries[r->entry_count - 1];
        last->size = (uint32_t)(r->out.size - last->at);
      }
      skip_space(r);
      if (next(r) == ',') {
        r->at++;
        if (!(l->array ? begin_element(r, l) : begin_entry(r))) return false;
        break;
      }
      if (next(r) != (l->array ? ']' : '}'))
        return expected(r, l->array ? "',' or ']'" : "',' or '}'");
      if (!close_level(r)) return false;
    }
  }
}

static bool read_document(reader *r, bool object) {
  static const char wrapping[] = "\0\0\0\0\0value";
  if (r->end - r->at >= 3 && memcmp(r->at, "\xEF\xBB\xBF", 3) == 0)
    return refuse(r, r->at, "expected no byte order mark");
  if (!object) { /* { "value": ... } */
    if (!tide__output_put(&r->out, wrapping, sizeof wrapping)) return false;
    r->type_at = 4;
    r->most--;
  }
  skip_space(r);
  if (object && next(r) != '{') return expected(r, "an object");
  if (!read_value(r)) return false;
  skip_space(r);
  if (r->at < r->end) return expected(r, "the end of the text");
  if (!object) {
    if (!tide__output_put(&r->out, "", 1)) return false;
    set_int(r->out.data, 4, r->out.size);
  }
  return true;
}

static int read_json(const char *text, size_t size, bool object, uint8_t **bson, size_t *bson_size,
                     tide_error *error) {
  tide_c_locale locale;
  reader r = {
      .out = {.most = TIDE_BODY_MAX, .error = error}, .type_at = NO_TYPE, .most = TIDE_DEPTH_MAX};
  *bson = NULL;
  *bson_size = 0;
  r.text = r.at = size > 0 ? text : "";
  r.end = r.text + size;
  if (!tide__c_locale_begin(&locale)) return tide__fail_memory(error);
  bool good = read_document(&r, object);
  tide__c_locale_end(&locale);
  free(r.entries);
  free(r.sorted);
  if (!good) {
    free(r.out.data);
    return r.out.code;
  }
  *bson = r.out.data;
  *bson_size = r.out.size;
  return TIDE_OK;
}

int tide__json_read(const char *text, size_t size, uint8_t **bson, size_t *bson_size,
                    tide_error *error) {
  return read_json(text, size, true, bson, bson_size, error);
}

int tide__json_read_value(const char *text, size_t size, uint8_t **bson, size_t *bson_size,
                          tide_error *error) {
  return read_json(text, size, false, bson, bson_size, error);
}
