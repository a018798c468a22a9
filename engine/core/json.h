/* json.h - JSON text as BSON and back, exactly, for the edges: the command line, the
** host API, export and import.
**
** What is read is RFC 8259 and nothing else: UTF-8 without a byte order mark, one value
** with only white space around it, no comments, no trailing commas, no NaN. A value is
** kept as it is or refused, never changed:
**
**   JSON                        BSON
**   integer that fits 32 bits   int32
**   integer that fits 64 bits   int64; a larger one is refused
**   number with . or e; -0      double, correctly rounded; refused where that is infinite
**   string                      string; \u0000 is allowed, half a surrogate pair is not
**   object                      document, its keys sorted bytewise, as value.c does;
**                               refused where a key is there twice or holds \u0000
**   array                       array
**   true, false, null           boolean, null
**
** No object means more than it says: {"$oid": "..."} is an object with one key.
**
** Any thread. The decimal point is '.', whatever the process' or the thread's locale. */
#ifndef TIDE_CORE_JSON_H
#define TIDE_CORE_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "tidelog.h"

#define TIDE_JSON_INDENT_MAX 8

/* Reads a text of `size` bytes (a NUL behind it is not needed), which must be an object,
** as one BSON document of *bson_size bytes. The caller frees *bson with free().
** Fails with
**   TIDE_INVALID_ARGUMENT  the text breaks a rule above, or arrays and objects, the
**                          outermost included, are more than TIDE_DEPTH_MAX deep;
**                          argument "json", the message has line and column (counted
**                          in characters from 1), what was expected and what is there
**   TIDE_LIMIT             the document would have more than TIDE_BODY_MAX bytes;
**                          argument "json"
**   TIDE_NO_MEMORY
** and then sets *bson to NULL and *bson_size to 0. */
int tide__json_read(const char *text, size_t size, uint8_t **bson, size_t *bson_size,
                    tide_error *error);

/* The same for a text that is any JSON value: gives the document { "value": ... }. That
** document counts for the depth: the value has at most TIDE_DEPTH_MAX - 1 levels, as a
** field of a payload has. */
int tide__json_read_value(const char *text, size_t size, uint8_t **bson, size_t *bson_size,
                          tide_error *error);

/* Writes a document (at most TIDE_BODY_DEPTH_MAX deep) as JSON: *text_size bytes of UTF-8
** and a NUL that is not counted. The caller frees *text with free().
**   - indent 0: one line without spaces; 1 to TIDE_JSON_INDENT_MAX (more is taken for it):
**     one entry a line, so many spaces per level. No newline at the end.
**   - Keys stay in the order they have. Of a string only '"', '\' and control characters
**     (U+0000 to U+001F, U+007F) are escaped.
**   - A double has the fewest digits, of 15, 16 or 17, that read back as the same double,
**     and always a '.' or an 'e', so that it stays one: 1.0, -0.0, 1e+21.
**   - What JSON has no form for is written as {"$double": "NaN"} ("Infinity",
**     "-Infinity") and {"$binary": "00ff..."}, which are read as plain objects.
** tide__json_read gives the same bytes again for every document that it could have made
** itself: keys sorted and not twice, numbers finite and in their smallest type, no
** binary, TIDE_DEPTH_MAX.
** Fails with TIDE_STORE where the bytes are no sound document (tide__bson_check) and
** TIDE_NO_MEMORY, and then sets *text to NULL and *text_size to 0. */
int tide__json_write(const uint8_t *bson, size_t size, int indent, char **text, size_t *text_size,
                     tide_error *error);

#endif
