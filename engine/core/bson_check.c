/* bson_check.c - is this one sound BSON document? (bsonspec.org, version 1.1) */
#include "core/bson_check.h"

#include <string.h>

#include "core/names.h"

static uint32_t read_size(const uint8_t *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The end of the value of a scalar type, or NULL with *why set. */
static const uint8_t *scalar_end(uint8_t type, const uint8_t *at, const uint8_t *end,
                                 const char **why) {
  size_t left = (size_t)(end - at), need;
  *why = "a value is cut off";
  switch (type) {
  case TIDE_BSON_DOUBLE:
  case TIDE_BSON_INT64:
    need = 8;
    break;
  case TIDE_BSON_INT32:
    need = 4;
    break;
  case TIDE_BSON_NULL:
    need = 0;
    break;
  case TIDE_BSON_BOOL:
    if (left >= 1 && *at > 1) {
      *why = "a boolean is neither 0 nor 1";
      return NULL;
    }
    need = 1;
    break;
  case TIDE_BSON_TEXT: { /* string: size with its NUL, bytes, NUL */
    if (left < 5) return NULL;
    uint32_t size = read_size(at);
    if (size < 1 || size > left - 4 || at[4 + size - 1] != 0) return NULL;
    if (!tide__is_utf8((const char *)at + 4, size - 1)) {
      *why = "a string is not valid UTF-8";
      return NULL;
    }
    need = 4 + (size_t)size;
    break;
  }
  case TIDE_BSON_BINARY: { /* binary: size, subtype, bytes */
    if (left < 5) return NULL;
    uint32_t size = read_size(at);
    if (size > left - 5) return NULL;
    if (at[4] != 0) {
      *why = "binary data has a subtype that Tidelog does not store";
      return NULL;
    }
    need = 5 + (size_t)size;
    break;
  }
  default:
    *why = "a value has a type that Tidelog does not store";
    return NULL;
  }
  return need <= left ? at + need : NULL;
}

const char *tide__bson_check(const uint8_t *data, size_t size, int depth) {
  const uint8_t *ends[TIDE_BODY_DEPTH_MAX]; /* of the open documents, outermost first */
  int open = 0;
  const char *why;
  if (depth > TIDE_BODY_DEPTH_MAX) depth = TIDE_BODY_DEPTH_MAX;
  if (data == NULL || size < 5 || read_size(data) != size || data[size - 1] != 0)
    return "it is not one BSON document";
  const uint8_t *at = data + 4;
  ends[open++] = data + size - 1; /* at the closing NUL */
  while (open > 0) {
    const uint8_t *end = ends[open - 1];
    if (at == end) { /* this document is complete: go on behind its NUL */
      at++;
      open--;
      continue;
    }
    uint8_t type = *at++;
    const uint8_t *key_end = memchr(at, 0, (size_t)(end - at));
    if (key_end == NULL) return "a key is cut off";
    if (!tide__is_utf8((const char *)at, (size_t)(key_end - at))) return "a key is not valid UTF-8";
    at = key_end + 1;
    if (type == TIDE_BSON_DOCUMENT || type == TIDE_BSON_ARRAY) {
      size_t left = (size_t)(end - at);
      if (left < 5) return "a document is cut off";
      uint32_t inner = read_size(at);
      if (inner < 5 || inner > left || at[inner - 1] != 0) return "a document is cut off";
      if (open >= depth) return "it is nested too deeply";
      ends[open++] = at + inner - 1;
      at += 4;
    } else if ((at = scalar_end(type, at, end, &why)) == NULL) {
      return why;
    }
  }
  return NULL;
}
