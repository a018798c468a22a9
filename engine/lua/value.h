/* value.h - Lua values as BSON and back, exactly.
**
** Every function is for one lua_State and raises its errors as Lua errors. Only
** raw access is used: no metamethod, so no Lua code, runs in here. */
#ifndef TIDE_LUA_VALUE_H
#define TIDE_LUA_VALUE_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

typedef enum tide_encoding {
  TIDE_ENCODE_VALUE = 0,   /* a payload or document: the strict rules             */
  TIDE_ENCODE_PAYLOAD = 1, /* the same, without aggregateId, expectedVersion and
                              commandId at the top                                */
  TIDE_ENCODE_STATE = 2,   /* an aggregate's state: NaN, infinities and keys of any
                              kind are kept, too; aggregateId and aggregateVersion
                              and the metatable at the top are left out           */
  TIDE_ENCODE_SHOWN = 3    /* something to look at that may have a state in it    */
} tide_encoding;

/* Pushes the table at `index` as a BSON string. What cannot be stored exactly raises
** InvalidArgumentError, its argument the path of the field ("items[2].price"; `what`
** for the table itself); too much of it LimitError. [-0, +1] */
void tide__value_encode(lua_State *L, int index, tide_encoding encoding, const char *what);

/* Pushes the document as a new table; arrays get the mark. Bytes that are no sound
** BSON raise StoreError. The bytes must stay valid also if it raises. [-0, +1] */
void tide__value_decode(lua_State *L, const uint8_t *data, size_t size, tide_encoding encoding);

#endif
