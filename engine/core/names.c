/* names.c - the rules for what users name. */
#include "core/names.h"

#include <stdbool.h>
#include <string.h>

#include "core/error.h"

int tide__is_utf8(const char *text, size_t size) {
  const unsigned char *at = (const unsigned char *)text, *end = at + size;
  while (at < end) {
    unsigned char first = *at;
    if (first < 0x80) {
      at++;
      continue;
    }
    size_t more;
    unsigned char low = 0x80, high = 0xBF; /* bounds of the second byte */
    if (first >= 0xC2 && first <= 0xDF) {
      more = 1;
    } else if (first >= 0xE0 && first <= 0xEF) {
      more = 2;
      if (first == 0xE0) low = 0xA0;  /* overlong */
      if (first == 0xED) high = 0x9F; /* surrogates */
    } else if (first >= 0xF0 && first <= 0xF4) {
      more = 3;
      if (first == 0xF0) low = 0x90;  /* overlong */
      if (first == 0xF4) high = 0x8F; /* above U+10FFFF */
    } else {
      return 0;
    }
    if ((size_t)(end - at) <= more) return 0;
    if (at[1] < low || at[1] > high) return 0;
    for (size_t i = 2; i <= more; i++)
      if ((at[i] & 0xC0) != 0x80) return 0;
    at += more + 1;
  }
  return 1;
}

static bool has_control(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c < 0x20 || c == 0x7F) return true;
  }
  return false;
}

/* How much of a bad value a message shows; what is not plain text shows as '?'. */
#define SHOWN 48
typedef struct shown {
  char text[SHOWN + 4];
} shown;

static shown show(const char *text, size_t size) {
  shown s;
  size_t n = size < SHOWN ? size : SHOWN;
  bool utf8 = tide__is_utf8(text, size);
  while (utf8 && n < size && n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80)
    n--;
  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)text[i];
    s.text[i] = (c < 0x20 || c == 0x7F || (c >= 0x80 && !utf8)) ? '?' : (char)c;
  }
  memcpy(s.text + n, n < size ? "..." : "", n < size ? 4 : 1);
  return s;
}

static int missing(const char *argument, tide_error *error) {
  return tide__fail(error, TIDE_MISSING_ARGUMENT, argument, "%s is missing", argument);
}

int tide__check_tenant(const char *tenant, size_t size, tide_error *error) {
  if (tenant == NULL || size == 0) return missing("tenant", error);
  bool good = size <= TIDE_TENANT_MAX;
  for (size_t i = 0; good && i < size; i++) {
    char c = tenant[i];
    good = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (i > 0 && (c == '_' || c == '-'));
  }
  if (good) return TIDE_OK;
  return tide__fail(error, TIDE_INVALID_ARGUMENT, "tenant",
                    "tenant '%s' is not 1 to %d characters of a-z, 0-9, _ and -, the first of "
                    "them a letter or digit",
                    show(tenant, size).text, TIDE_TENANT_MAX);
}

int tide__check_text(const char *argument, const char *text, size_t size, size_t most,
                     tide_error *error) {
  if (text == NULL || size == 0) return missing(argument, error);
  if (size > most)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, argument,
                      "%s '%s' has %zu bytes, more than %zu", argument, show(text, size).text, size,
                      most);
  if (has_control(text, size))
    return tide__fail(error, TIDE_INVALID_ARGUMENT, argument, "%s '%s' has control characters",
                      argument, show(text, size).text);
  if (!tide__is_utf8(text, size))
    return tide__fail(error, TIDE_INVALID_ARGUMENT, argument, "%s '%s' is not valid UTF-8",
                      argument, show(text, size).text);
  return TIDE_OK;
}

int tide__check_name(const char *argument, const char *name, size_t size, tide_error *error) {
  return tide__check_text(argument, name, size, TIDE_NAME_MAX, error);
}

int tide__check_path(const char *path, size_t size, tide_error *error) {
  if (path == NULL || size == 0) return missing("path", error);
  if (path[0] != '/' || size < 2)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "path",
                      "path '%s' does not begin with '/' and a name, as in /counters/counter1",
                      show(path, size).text);
  return tide__check_text("path", path, size, TIDE_PATH_MAX, error);
}
