/* bson_check.h - is this one sound BSON document? */
#ifndef TIDE_CORE_BSON_CHECK_H
#define TIDE_CORE_BSON_CHECK_H

#include <stddef.h>
#include <stdint.h>

/* Documents and arrays inside one another, the outermost included, that a value
** may have; and the little more that the records around it need. */
#define TIDE_DEPTH_MAX      64
#define TIDE_BODY_DEPTH_MAX (TIDE_DEPTH_MAX + 8)

/* NULL if the bytes are exactly one document whose every length, type and
** terminator is right, whose texts and keys are UTF-8 and whose depth is at most
** `depth` (no more than TIDE_BODY_DEPTH_MAX); else a static text that says what is
** wrong. Only the types that Tidelog stores are accepted: double, string, document,
** array, binary, boolean, null, int32 and int64. Walks without recursion: a hostile
** document cannot overflow the stack, as it can libbson 1.23's bson_validate. */
const char *tide__bson_check(const uint8_t *data, size_t size, int depth);

#endif
