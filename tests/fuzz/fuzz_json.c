/* fuzz_json.c - JSON that is read survives the round trip, and any bytes that pass for a
** BSON document are written as JSON. The first byte says which of them the rest is. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/bson_check.h"
#include "core/commit.h"
#include "core/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good) {
  if (!good) abort();
}

static void check_text(const uint8_t *data, size_t size, bool value, int indent) {
  tide_error error = {0};
  uint8_t *bson, *again;
  size_t bson_size, text_size, again_size;
  char *text;
  int code = (value ? tide__json_read_value : tide__json_read)((const char *)data, size, &bson,
                                                               &bson_size, &error);
  if (code != TIDE_OK) {
    check(code == error.code && bson == NULL && error.message[0] != '\0');
    check(code == TIDE_INVALID_ARGUMENT || code == TIDE_LIMIT);
    return;
  }
  check(bson_size <= TIDE_BODY_MAX && tide__bson_check(bson, bson_size, TIDE_DEPTH_MAX) == NULL);
  check(tide__json_write(bson, bson_size, indent, &text, &text_size, &error) == TIDE_OK);
  check(strlen(text) == text_size);
  check(tide__json_read(text, text_size, &again, &again_size, &error) == TIDE_OK);
  check(again_size == bson_size && memcmp(again, bson, bson_size) == 0);
  free(again);
  free(text);
  free(bson);
}

static void check_document(const uint8_t *data, size_t size, int indent) {
  tide_error error = {0};
  size_t text_size;
  char *text;
  int code = tide__json_write(data, size, indent, &text, &text_size, &error);
  check((code == TIDE_OK) == (tide__bson_check(data, size, TIDE_BODY_DEPTH_MAX) == NULL));
  if (code != TIDE_OK) {
    check(code == TIDE_STORE && text == NULL);
    return;
  }
  check(strlen(text) == text_size);
  check_text((const uint8_t *)text, text_size, false, indent);
  free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  int indent = (data[0] >> 2) % 4;
  if ((data[0] & 3) == 3)
    check_document(data + 1, size - 1, indent);
  else
    check_text(data + 1, size - 1, (data[0] & 1) != 0, indent);
  return 0;
}
