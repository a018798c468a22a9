/* bson_check.h - is this one sound BSON document? */
#ifndef TIDE_CORE_BSON_CHECK_H
#define TIDE_CORE_BSON_CHECK_H

#include <stddef.h>
#include <stdint.h>

/* Documents and arrays inside one another, the outermost included, that a value
** may have; and the little more that the records around it need. */
#define TIDE_DEPTH_MAX      64
#define TIDE_BODY_DEPTH_MAX (TIDE_DEPTH_MAX + 8)

/* The types of values that Tidelog stores. */
#define TIDE_BSON_DOUBLE   0x01
#define TIDE_BSON_TEXT     0x02
#define TIDE_BSON_DOCUMENT 0x03
#define TIDE_BSON_ARRAY    0x04
#define TIDE_BSON_BINARY   0x05
#define TIDE_BSON_BOOL     0x08
#define TIDE_BSON_NULL     0x0A
#define TIDE_BSON_INT32    0x10
#define TIDE_BSON_INT64    0x12

/* NULL if the bytes are exactly one document whose every length, type and
** terminator is right, whose texts and keys are UTF-8 and whose depth is at most
** `depth` (no more than TIDE_BODY_DEPTH_MAX); else a static text that says what is
** wrong. Only the types above are accepted. Walks without recursion: a hostile
** document cannot overflow the stack, as it can libbson 1.23's bson_validate. */
const char *tide__bson_check(const uint8_t *data, size_t size, int depth);

#endif
