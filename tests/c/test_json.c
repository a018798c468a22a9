/* test_json.c - core/json: what is read and how, what is refused and where, what
** is written, and that one undoes the other. TIDELOG_TEST_SEED repeats a random run. */
#include <float.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bson/bson.h>
#include <cmocka.h>

#include "core/bson_check.h"
#include "core/commit.h"
#include "core/json.h"

#define COUNT(array)  (sizeof(array) / sizeof *(array))
#define LITERAL(text) text, sizeof(text) - 1

typedef struct bytes {
  uint8_t *data;
  size_t size;
} bytes;

/* Reads from a block of exactly `size` bytes, so that a byte too far is noticed. */
static int read_size(const char *text, size_t size, bool value, bytes *bson, tide_error *error) {
  char *exact = malloc(size > 0 ? size : 1);
  assert_non_null(exact);
  if (size > 0) memcpy(exact, text, size);
  bson->data = (uint8_t *)exact;
  bson->size = 77;
  memset(error, 0, sizeof *error);
  int code =
      value ? tide__json_read_value(size > 0 ? exact : NULL, size, &bson->data, &bson->size, error)
            : tide__json_read(size > 0 ? exact : NULL, size, &bson->data, &bson->size, error);
  free(exact);
  assert_int_equal(code, error->code);
  if (code != TIDE_OK) {
    assert_null(bson->data);
    assert_int_equal(bson->size, 0);
    if (code != TIDE_NO_MEMORY) assert_string_equal(error->argument, "json");
    assert_null(strchr(error->message, '\n'));
    assert_true(bson_utf8_validate(error->message, strlen(error->message), false));
  } else {
    const char *why = tide__bson_check(bson->data, bson->size, TIDE_DEPTH_MAX);
    if (why != NULL) fail_msg("%.*s gives a damaged document: %s", (int)size, text, why);
    assert_true(bson->size <= TIDE_BODY_MAX);
  }
  return code;
}

static bytes must_read(const char *text, size_t size) {
  tide_error error;
  bytes bson;
  if (read_size(text, size, false, &bson, &error) != TIDE_OK)
    fail_msg("%.*s: %s", (int)(size < 200 ? size : 200), text, error.message);
  return bson;
}

static char *must_write(bytes bson, int indent, size_t *size) {
  tide_error error = {0};
  char *text = NULL;
  if (tide__json_write(bson.data, bson.size, indent, &text, size, &error) != TIDE_OK)
    fail_msg("%s", error.message);
  assert_int_equal(text[*size], 0);
  return text;
}

static void reads_as(const char *text, size_t size, const bson_t *wanted) {
  bytes bson = must_read(text, size);
  if (bson.size != wanted->len || memcmp(bson.data, bson_get_data(wanted), bson.size) != 0) {
    char *shown = bson_as_canonical_extended_json(wanted, NULL);
    size_t written;
    char *got = must_write(bson, 0, &written);
    fail_msg("%.*s gives %s, not %s", (int)(size < 200 ? size : 200), text, got, shown);
  }
  free(bson.data);
}

/* Reads the value in a field, and alone. */
static void value_is(const char *text, size_t size, const bson_value_t *wanted) {
  bson_t b = BSON_INITIALIZER;
  tide_error error;
  bytes bson;
  bson_append_value(&b, "value", 5, wanted);
  char *object = malloc(size + 16);
  int length = snprintf(object, size + 16, "{\"value\":");
  memcpy(object + length, text, size);
  object[(size_t)length + size] = '}';
  reads_as(object, (size_t)length + size + 1, &b);
  free(object);
  if (read_size(text, size, true, &bson, &error) != TIDE_OK) fail_msg("%s", error.message);
  assert_int_equal(bson.size, b.len);
  assert_memory_equal(bson.data, bson_get_data(&b), b.len);
  free(bson.data);
  bson_destroy(&b);
}

/* Copies a text without its NUL and returns the place behind it. */
static char *copy(char *to, const char *text) {
  while (*text != '\0')
    *to++ = *text++;
  return to;
}

/* `at` is "line:column", or NULL for any place; `why` is a part of the message. */
static void is_refused(const char *text, size_t size, bool value, const char *at, const char *why) {
  tide_error error;
  bytes bson;
  char place[64];
  if (read_size(text, size, value, &bson, &error) != TIDE_INVALID_ARGUMENT)
    fail_msg("%.*s is not refused: %s", (int)size, text, error.message);
  if (at != NULL) {
    char *colon;
    unsigned long line = strtoul(at, &colon, 10), column = strtoul(colon + 1, NULL, 10);
    snprintf(place, sizeof place, "JSON line %lu, column %lu: ", line, column);
    if (strncmp(error.message, place, strlen(place)) != 0)
      fail_msg("%.*s is refused at another place than %s: %s", (int)size, text, at, error.message);
  }
  if (strstr(error.message, why) == NULL)
    fail_msg("%.*s is refused without '%s': %s", (int)size, text, why, error.message);
}

/* ---- Reading ---------------------------------------------------------------- */

static void test_integers_keep_their_type_and_value(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int64_t value;
  } rows[] = {{"0", 0},
              {"1", 1},
              {"-1", -1},
              {"10", 10},
              {"2147483647", INT32_MAX},
              {"-2147483648", INT32_MIN},
              {"2147483648", INT64_C(2147483648)},
              {"-2147483649", INT64_C(-2147483649)},
              {"9007199254740993", INT64_C(9007199254740993)}, /* no double has it */
              {"9223372036854775807", INT64_MAX},
              {"-9223372036854775808", INT64_MIN}};
  for (size_t i = 0; i < COUNT(rows); i++) {
    bool small = rows[i].value >= INT32_MIN && rows[i].value <= INT32_MAX;
    bson_value_t value = {.value_type = small ? BSON_TYPE_INT32 : BSON_TYPE_INT64};
    if (small)
      value.value.v_int32 = (int32_t)rows[i].value;
    else
      value.value.v_int64 = rows[i].value;
    value_is(rows[i].text, strlen(rows[i].text), &value);
  }
}

static void test_integers_beyond_64_bits_are_refused(void **state) {
  (void)state;
  static const char *const texts[] = {
      "9223372036854775808",   "-9223372036854775809", "18446744073709551615",
      "18446744073709551616",  "18446744073709551621", /* libbson: 5 */
      "-18446744073709551621", "92233720368547758070", "100000000000000000000000000000000000"};
  for (size_t i = 0; i < COUNT(texts); i++) {
    char text[64];
    snprintf(text, sizeof text, "{\"a\": %s}", texts[i]);
    is_refused(text, strlen(text), false, "1:7", texts[i]);
    is_refused(texts[i], strlen(texts[i]), true, "1:1", "does not fit 64 bits");
  }
  /* a long one is shown shortened */
  char *digits = malloc(5000);
  memset(digits, '7', 5000);
  is_refused(digits, 5000, true, "1:1", "the integer 7777777777777777777777777777777777777777...");
  free(digits);
}

static void test_doubles_are_rounded_correctly(void **state) {
  (void)state;
  static const struct {
    const char *text;
    double value;
  } rows[] = {
      {"1.0", 1.0},
      {"-0", -0.0}, /* libbson: the integer 0 */
      {"-0.0", -0.0},
      {"-0e0", -0.0},
      {"0.0", 0.0},
      {"0e5", 0.0},
      {"1e0", 1.0},
      {"1E+2", 100.0},
      {"1e-2", 0.01},
      {"0.1", 0.1},
      {"15.848484848484848", 15.848484848484848},
      {"9007199254740993.0", 9007199254740992.0}, /* half way: to even */
      {"9007199254740993.00000000000000000000000000000000000000000000000000000000001",
       9007199254740994.0},
      {"18446744073709551621.0", 18446744073709551616.0},
      {"1.7976931348623157e308", DBL_MAX},
      {"1.7976931348623158e308", DBL_MAX},
      {"2.2250738585072011e-308", 0x0.fffffffffffffp-1022}, /* hung PHP and Java once */
      {"2.2250738585072014e-308", DBL_MIN},
      {"5e-324", 0x1p-1074},
      {"2.4703282292062328e-324", 0x1p-1074},
      {"2.4703282292062327e-324", 0.0},
      {"1e-400", 0.0},
      {"-1e-99999999999999999999", -0.0},
      {"0e99999999999999999999", 0.0},
      {"0.000000000000000000000000000000000000000000000000000000000000000000000000001e75", 1.0}};
  for (size_t i = 0; i < COUNT(rows); i++) {
    bson_value_t value = {.value_type = BSON_TYPE_DOUBLE, .value.v_double = rows[i].value};
    value_is(rows[i].text, strlen(rows[i].text), &value);
  }
  static const char *const large[] = {"1e309", "-1e309", "1.7976931348623159e308",
                                      "1e99999999999999999999", "123456789e301"};
  for (size_t i = 0; i < COUNT(large); i++)
    is_refused(large[i], strlen(large[i]), true, "1:1", "too large for a double");
}

static void test_a_long_number_is_read_whole(void **state) {
  (void)state;
  enum { DIGITS = 100000 };
  char *text = malloc(DIGITS + 10);
  memset(text, '0', DIGITS + 2);
  copy(text, "1.");
  bson_value_t value = {.value_type = BSON_TYPE_DOUBLE, .value.v_double = 1.0};
  value_is(text, DIGITS + 2, &value);
  memset(text, '0', DIGITS + 2);
  text[0] = '1';
  snprintf(text + DIGITS, 10, "e-%d", DIGITS - 1);
  value_is(text, strlen(text), &value);
  free(text);
}

static void test_strings_mean_what_they_say(void **state) {
  (void)state;
  static const struct {
    const char *text;
    size_t size;
    const char *value;
    size_t value_size;
  } rows[] = {
      {LITERAL("\"\""), LITERAL("")},
      {LITERAL("\"abc\""), LITERAL("abc")},
      {LITERAL("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), LITERAL("\"\\/\b\f\n\r\t")},
      {LITERAL("\"/'\x7F\""), LITERAL("/'\x7F")},
      {LITERAL("\"\\u0041\\u00e9\\u00E9\\u20AC\""), LITERAL("A\xC3\xA9\xC3\xA9\xE2\x82\xAC")},
      {LITERAL("\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\""),
       LITERAL("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80")},
      {LITERAL("\"\\u0000\""), LITERAL("\0")},
      {LITERAL("\"a\\u0000b\\u0000\""), LITERAL("a\0b\0")},
      {LITERAL("\"\\u007f\\u0080\\u07FF\\u0800\\uFFFF\""),
       LITERAL("\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF")},
      {LITERAL("\"\\uD7FF\\uE000\""), LITERAL("\xED\x9F\xBF\xEE\x80\x80")},
      {LITERAL("\"\\ud800\\udc00\\uD83D\\uDE00\\uDBFF\\uDFFF\""),
       LITERAL("\xF0\x90\x80\x80\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF")},
      {LITERAL("\"\xEF\xBB\xBF\""), LITERAL("\xEF\xBB\xBF")}, /* inside, it is a character */
      {LITERAL("\"{\\\"$oid\\\":1}//\""), LITERAL("{\"$oid\":1}//")},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    bson_value_t value = {.value_type = BSON_TYPE_UTF8};
    char value_text[64];
    memcpy(value_text, rows[i].value, rows[i].value_size);
    value.value.v_utf8.str = value_text;
    value.value.v_utf8.len = (uint32_t)rows[i].value_size;
    value_is(rows[i].text, rows[i].size, &value);
  }
}

static void test_each_character_is_read_plain_and_escaped(void **state) {
  (void)state;
  for (uint32_t c = 0; c <= 0x10FFFF; c += c < 0x3000 ? 1 : 97) {
    if (c >= 0xD800 && c < 0xE000) continue;
    char utf8[8], escaped[32], plain[16];
    uint32_t size;
    bson_utf8_from_unichar(c, utf8, &size);
    if (c == 0) utf8[0] = '\0', size = 1;
    bson_value_t value = {.value_type = BSON_TYPE_UTF8};
    value.value.v_utf8.str = utf8;
    value.value.v_utf8.len = size;
    if (c < 0x10000)
      snprintf(escaped, sizeof escaped, "\"\\u%04x\"", (unsigned)c);
    else
      snprintf(escaped, sizeof escaped, "\"\\u%04X\\u%04x\"", (unsigned)(0xD7C0 + (c >> 10)),
               (unsigned)(0xDC00 + (c & 0x3FF)));
    value_is(escaped, strlen(escaped), &value);
    if (c < 0x20 || c == '"' || c == '\\') continue;
    plain[0] = '"';
    memcpy(plain + 1, utf8, size);
    plain[size + 1] = '"';
    value_is(plain, size + 2, &value);
  }
}

static void test_literals_and_structure_are_read(void **state) {
  (void)state;
  bson_t b = BSON_INITIALIZER, inner, list;
  reads_as(LITERAL("{}"), &b);
  reads_as(LITERAL(" \t\r\n{ \t\r\n} \t\r\n"), &b);
  BSON_APPEND_ARRAY_BEGIN(&b, "a", &list);
  BSON_APPEND_NULL(&list, "0");
  BSON_APPEND_BOOL(&list, "1", true);
  BSON_APPEND_BOOL(&list, "2", false);
  BSON_APPEND_ARRAY_BEGIN(&list, "3", &inner);
  bson_append_array_end(&list, &inner);
  BSON_APPEND_DOCUMENT_BEGIN(&list, "4", &inner);
  bson_append_document_end(&list, &inner);
  for (int i = 5; i <= 11; i++) {
    char index[16];
    snprintf(index, sizeof index, "%d", i);
    BSON_APPEND_INT32(&list, index, i);
  }
  bson_append_array_end(&b, &list);
  BSON_APPEND_DOCUMENT_BEGIN(&b, "b", &inner);
  BSON_APPEND_INT32(&inner, "x", 1);
  bson_append_document_end(&b, &inner);
  reads_as(LITERAL("{\"a\":[null,true,false,[],{},5,6,7,8,9,10,11],\"b\":{\"x\":1}}"), &b);
  reads_as(
      LITERAL("{\"b\" : {\"x\"\n:1} ,\t\"a\": [ null , true,false\r\n,[ ],{ },5,6,7,8,9,10,11 ] "
              "} "),
      &b);
  bson_destroy(&b);
}

static void test_keys_are_sorted_bytewise(void **state) {
  (void)state;
  static const char *const sorted[] = {"",
                                       "$oid",
                                       "A",
                                       "B",
                                       "a",
                                       "a.b",
                                       "aa",
                                       "ab",
                                       "b",
                                       "b\x01",
                                       "ba",
                                       "b\xC3\xA9",
                                       "\xC3\xA9",
                                       "\xE2\x82\xAC",
                                       "\xF0\x9F\x98\x80"};
  bson_t b = BSON_INITIALIZER;
  for (size_t i = 0; i < COUNT(sorted); i++)
    BSON_APPEND_INT32(&b, sorted[i], (int32_t)i);
  uint64_t random = 1;
  for (int round = 0; round < 200; round++) {
    size_t order[COUNT(sorted)], used = 0;
    char text[1024];
    for (size_t i = 0; i < COUNT(sorted); i++)
      order[i] = i;
    for (size_t i = COUNT(sorted) - 1; i > 0; i--) {
      random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
      size_t other = (size_t)(random >> 33) % (i + 1), kept = order[i];
      order[i] = order[other];
      order[other] = kept;
    }
    for (size_t i = 0; i < COUNT(sorted); i++) {
      const char *key = sorted[order[i]];
      if (strcmp(key, "b\x01") == 0) key = "b\\u0001";
      used += (size_t)snprintf(text + used, sizeof text - used, "%c\"%s\":%zu", i == 0 ? '{' : ',',
                               key, order[i]);
    }
    text[used++] = '}';
    reads_as(text, used, &b);
  }
  bson_destroy(&b);
}

static void test_extended_json_is_plain_json(void **state) {
  (void)state;
  static const char *const texts[] = {"{\"_id\":{\"$oid\":\"0123456789abcdef01234567\"}}",
                                      "{\"a\":{\"$numberLong\":\"5\"}}",
                                      "{\"a\":{\"$date\":{\"$numberLong\":\"1\"}}}",
                                      "{\"a\":{\"$double\":\"NaN\"}}",
                                      "{\"$binary\":\"00ff\"}",
                                      "{\"$undefined\":true}"};
  for (size_t i = 0; i < COUNT(texts); i++) {
    bytes bson = must_read(texts[i], strlen(texts[i]));
    size_t size;
    char *text = must_write(bson, 0, &size);
    assert_string_equal(text, texts[i]);
    free(text);
    free(bson.data);
  }
}

/* ---- Refusing ----------------------------------------------------------------- */

static void test_what_is_no_json_is_refused_where_it_is_wrong(void **state) {
  (void)state;
  static const struct {
    const char *text;
    size_t size;
    const char *at, *why;
  } rows[] = {
      /* the traps: what libbson or lua-cjson accepts or changes */
      {LITERAL("{\"a\":NaN}"), "1:6", "expected a value, found 'NaN'"},
      {LITERAL("{\"a\":nan}"), "1:6", "expected a value, found 'nan'"},
      {LITERAL("{\"a\":Infinity}"), "1:6", "expected a value, found 'Infinity'"},
      {LITERAL("{\"a\":-Infinity}"), "1:7", "expected a digit behind the minus"},
      {LITERAL("{\"a\":1,\"a\":1}"), "1:8", "the key \"a\" is in the object twice"},
      {LITERAL("{\"a\":1,\"b\":2,\n \"\\u0061\":3}"), "2:2",
       "the key \"a\" is in the object twice"},
      {LITERAL("{\"x\":{\"b\":1,\"a\":{},\"b\":2}}"), "1:20", "the key \"b\""},
      {LITERAL("{\"\":1,\"\":1}"), "1:7", "the key \"\""},
      {LITERAL("{\"\\n\":1,\"\\n\":1}"), "1:9", "the key \"?\""},
      {LITERAL("{} {}"), "1:4", "expected the end of the text, found '{'"},
      {LITERAL("{}{}"), "1:3", "expected the end of the text"},
      {LITERAL("{},"), "1:3", "expected the end of the text, found ','"},
      {LITERAL("{}x"), "1:3", "found 'x'"},
      {LITERAL("{}\0"), "1:3", "found the byte 0x00"},
      {LITERAL("{\"a\":\"\xFF\"}"), "1:7", "expected UTF-8, found the byte 0xFF"},
      /* the outside */
      {LITERAL(""), "1:1", "expected an object, found the end of the text"},
      {LITERAL(" \n "), "2:2", "expected an object, found the end of the text"},
      {LITERAL("\xEF\xBB\xBF{}"), "1:1", "byte order mark"},
      {LITERAL("[]"), "1:1", "expected an object, found '['"},
      {LITERAL("1"), "1:1", "expected an object, found '1'"},
      {LITERAL("\"a\""), "1:1", "expected an object"},
      {LITERAL("null"), "1:1", "expected an object, found 'null'"},
      {LITERAL("\0{}"), "1:1", "found the byte 0x00"},
      {LITERAL("\v{}"), "1:1", "found the byte 0x0B"},
      {LITERAL("\xC2\xA0{}"), "1:1", "found the byte 0xC2"},
      {LITERAL("}"), "1:1", "expected an object, found '}'"},
      /* objects and arrays */
      {LITERAL("{"), "1:2", "expected a key in double quotes, found the end of the text"},
      {LITERAL("{]"), "1:2", "expected a key in double quotes, found ']'"},
      {LITERAL("{,}"), "1:2", "expected a key in double quotes, found ','"},
      {LITERAL("{a:1}"), "1:2", "expected a key in double quotes, found 'a'"},
      {LITERAL("{'a':1}"), "1:2", "expected a key in double quotes, found '''"},
      {LITERAL("{1:1}"), "1:2", "expected a key in double quotes, found '1'"},
      {LITERAL("{\"a\"}"), "1:5", "expected ':' behind the key, found '}'"},
      {LITERAL("{\"a\",1}"), "1:5", "expected ':' behind the key, found ','"},
      {LITERAL("{\"a\" 1}"), "1:6", "expected ':' behind the key, found '1'"},
      {LITERAL("{\"a\":}"), "1:6", "expected a value, found '}'"},
      {LITERAL("{\"a\"::1}"), "1:6", "expected a value, found ':'"},
      {LITERAL("{\"a\":1,}"), "1:8", "expected a key in double quotes, found '}'"},
      {LITERAL("{\"a\":1 \"b\":1}"), "1:8", "expected ',' or '}', found '\"'"},
      {LITERAL("{\"a\":1;\"b\":1}"), "1:7", "expected ',' or '}', found ';'"},
      {LITERAL("{\"a\":1]"), "1:7", "expected ',' or '}', found ']'"},
      {LITERAL("{\"a\":[1}"), "1:8", "expected ',' or ']', found '}'"},
      {LITERAL("{\"a\":[1,]}"), "1:9", "expected a value, found ']'"},
      {LITERAL("{\"a\":[,1]}"), "1:7", "expected a value, found ','"},
      {LITERAL("{\"a\":[1 2]}"), "1:9", "expected ',' or ']', found '2'"},
      {LITERAL("{\"a\":[1:2]}"), "1:8", "expected ',' or ']', found ':'"},
      {LITERAL("{\"a\":[}"), "1:7", "expected a value, found '}'"},
      {LITERAL("{\"a\":(1)}"), "1:6", "expected a value, found '('"},
      {LITERAL("{/* no */}"), "1:2", "found '/'"},
      {LITERAL("{} // no"), "1:4", "found '/'"},
      {LITERAL("{\n  \"\xC3\xA9\": [1,\r\n  \"\xF0\x9F\x98\x80\" x]}"), "3:7", "found 'x'"},
      /* words */
      {LITERAL("{\"a\":True}"), "1:6", "expected a value, found 'True'"},
      {LITERAL("{\"a\":truE}"), "1:6", "expected a value, found 'truE'"},
      {LITERAL("{\"a\":nul}"), "1:6", "expected a value, found 'nul'"},
      {LITERAL("{\"a\":nullnull}"), "1:6", "expected a value, found 'nullnull'"},
      {LITERAL("{\"a\":true1}"), "1:6", "expected a value, found 'true1'"},
      {LITERAL("{\"a\":undefined}"), "1:6", "found 'undefined'"},
      {LITERAL("{\"a\":tru"), "1:6", "found 'tru'"},
      /* numbers */
      {LITERAL("{\"a\":01}"), "1:6", "the number 01 has a leading zero"},
      {LITERAL("{\"a\":-01}"), "1:6", "the number -01 has a leading zero"},
      {LITERAL("{\"a\":00.5}"), "1:6", "has a leading zero"},
      {LITERAL("{\"a\":+1}"), "1:6", "expected a value, found '+1'"},
      {LITERAL("{\"a\":.5}"), "1:6", "expected a value, found '.5'"},
      {LITERAL("{\"a\":-}"), "1:7", "expected a digit behind the minus, found '}'"},
      {LITERAL("{\"a\":--1}"), "1:7", "expected a digit behind the minus, found '-1'"},
      {LITERAL("{\"a\":- 1}"), "1:7", "expected a digit behind the minus, found the byte 0x20"},
      {LITERAL("{\"a\":1.}"), "1:8", "expected a digit behind the decimal point, found '}'"},
      {LITERAL("{\"a\":1.e5}"), "1:8", "expected a digit behind the decimal point, found 'e5'"},
      {LITERAL("{\"a\":1e}"), "1:8", "expected a digit of the exponent, found '}'"},
      {LITERAL("{\"a\":1e+}"), "1:9", "expected a digit of the exponent, found '}'"},
      {LITERAL("{\"a\":1e1.5}"), "1:9", "expected ',' or '}', found '.5'"},
      {LITERAL("{\"a\":0x10}"), "1:7", "expected ',' or '}', found 'x10'"},
      {LITERAL("{\"a\":1_000}"), "1:7", "expected ',' or '}', found '_000'"},
      {LITERAL("{\"a\":1,5}"), "1:8", "expected a key in double quotes, found '5'"},
      {LITERAL("{\"a\":1L}"), "1:7", "expected ',' or '}', found 'L'"},
      /* strings */
      {LITERAL("{\"a"), "1:2", "the string that begins here has no end"},
      {LITERAL("{\"a\":\"b}"), "1:6", "the string that begins here has no end"},
      {LITERAL("{\"a\":\"b\\\"}"), "1:6", "the string that begins here has no end"},
      {LITERAL("{\"a\":\"b\\"), "1:9", "behind the backslash, found the end of the text"},
      {LITERAL("{\"a\":\"b\nc\"}"), "1:8", "the control character 0x0A must be written as"},
      {LITERAL("{\"a\":\"b\tc\"}"), "1:8", "the control character 0x09"},
      {LITERAL("{\"a\":\"b\0c\"}"), "1:8", "the control character 0x00"},
      {LITERAL("{\"a\0\":1}"), "1:4", "the control character 0x00"},
      {LITERAL("{\"a\":\"\\x41\"}"), "1:8", "behind the backslash, found 'x41'"},
      {LITERAL("{\"a\":\"\\'\"}"), "1:8", "behind the backslash, found '''"},
      {LITERAL("{\"a\":\"\\\0\"}"), "1:8", "behind the backslash, found the byte 0x00"},
      {LITERAL("{\"a\":\"\\U0041\"}"), "1:8", "behind the backslash, found 'U0041'"},
      {LITERAL("{\"a\":\"\\u\"}"), "1:7", "four hexadecimal digits"},
      {LITERAL("{\"a\":\"\\u004\"}"), "1:7", "four hexadecimal digits"},
      {LITERAL("{\"a\":\"\\u00g0\"}"), "1:7", "four hexadecimal digits"},
      {LITERAL("{\"a\":\"\\u+041\"}"), "1:7", "four hexadecimal digits"},
      {LITERAL("{\"a\":\"\\u00"), "1:7", "four hexadecimal digits"},
      {LITERAL("{\"a\\u0000\":1}"), "1:4", "a key may not hold \\u0000"},
      {LITERAL("{\"\\u0000\":1}"), "1:3", "a key may not hold \\u0000"},
      {LITERAL("{\"a\":\"\\ud800\"}"), "1:7", "\\uD800 is half of a surrogate pair"},
      {LITERAL("{\"a\":\"\\udc00\"}"), "1:7", "\\uDC00 is half of a surrogate pair"},
      {LITERAL("{\"a\":\"\\udfff\\ud800\"}"), "1:7", "\\uDFFF is half"},
      {LITERAL("{\"a\":\"\\ud800\\ud800\"}"), "1:7", "\\uD800 is half"},
      {LITERAL("{\"a\":\"\\ud800\\u0041\"}"), "1:7", "\\uD800 is half"},
      {LITERAL("{\"a\":\"\\ud800\\n\"}"), "1:7", "\\uD800 is half"},
      {LITERAL("{\"a\":\"\\ud800 \\udc00\"}"), "1:7", "\\uD800 is half"},
      {LITERAL("{\"a\":\"\\ud800\\udc0"), "1:7", "\\uD800 is half"},
      {LITERAL("{\"\\uD800\":1}"), "1:3", "\\uD800 is half"},
      /* bytes that are no UTF-8 */
      {LITERAL("{\"a\":\"b\x80\"}"), "1:8", "expected UTF-8, found the byte 0x80"},
      {LITERAL("{\"a\":\"\xC3\xA9\xC3\"}"), "1:8", "expected UTF-8, found the byte 0xC3"},
      {LITERAL("{\"a\":\"\xC0\x80\"}"), "1:7", "found the byte 0xC0"},
      {LITERAL("{\"a\":\"\xED\xA0\x80\"}"), "1:7", "found the byte 0xED"},
      {LITERAL("{\"a\":\"\xF4\x90\x80\x80\"}"), "1:7", "found the byte 0xF4"},
      {LITERAL("{\"a\":\"\xE2\x82"), "1:7", "found the byte 0xE2"},
      {LITERAL("{\"\xFF\":1}"), "1:3", "found the byte 0xFF"},
      {LITERAL("{\xFF}"), "1:2", "found the byte 0xFF"},
  };
  for (size_t i = 0; i < COUNT(rows); i++)
    is_refused(rows[i].text, rows[i].size, false, rows[i].at, rows[i].why);
}

static void test_a_value_alone_is_refused_where_it_is_wrong(void **state) {
  (void)state;
  static const struct {
    const char *text;
    size_t size;
    const char *at, *why;
  } rows[] = {{LITERAL(""), "1:1", "expected a value, found the end of the text"},
              {LITERAL(" "), "1:2", "expected a value, found the end of the text"},
              {LITERAL("hello"), "1:1", "expected a value, found 'hello'"},
              {LITERAL("1 2"), "1:3", "expected the end of the text, found '2'"},
              {LITERAL("1,2"), "1:2", "expected the end of the text, found ','"},
              {LITERAL("1}"), "1:2", "expected the end of the text, found '}'"},
              {LITERAL("null null"), "1:6", "expected the end of the text"},
              {LITERAL("]"), "1:1", "expected a value, found ']'"},
              {LITERAL("[1"), "1:3", "expected ',' or ']', found the end of the text"},
              {LITERAL("-"), "1:2", "expected a digit behind the minus, found the end"},
              {LITERAL("1."), "1:3", "expected a digit behind the decimal point, found the end"},
              {LITERAL("1e"), "1:3", "expected a digit of the exponent, found the end"},
              {LITERAL("\"a"), "1:1", "has no end"},
              {LITERAL("\xEF\xBB\xBF"
                       "1"),
               "1:1", "byte order mark"}};
  for (size_t i = 0; i < COUNT(rows); i++)
    is_refused(rows[i].text, rows[i].size, true, rows[i].at, rows[i].why);
}

static void test_the_error_may_be_null(void **state) {
  (void)state;
  static const uint8_t damaged[] = {5, 0, 0, 0, 1};
  bytes bson;
  char *text = NULL;
  size_t size;
  assert_int_equal(tide__json_read(LITERAL("{"), &bson.data, &bson.size, NULL),
                   TIDE_INVALID_ARGUMENT);
  assert_int_equal(tide__json_read_value(LITERAL("1e999"), &bson.data, &bson.size, NULL),
                   TIDE_INVALID_ARGUMENT);
  assert_int_equal(tide__json_write(damaged, sizeof damaged, 0, &text, &size, NULL), TIDE_STORE);
}

static void test_every_prefix_is_refused(void **state) {
  (void)state;
  static const char text[] =
      "{\"a\":[1,-2.5e+10,\"\\ud83d\\ude00 \\u00e9\\n \xC3\xA9 \xF0\x9F\x98\x80\",true,false,null,"
      "{\"c\":{},\"b\":[]}],\"\\\"\":-0,\"z\":9223372036854775807}";
  for (size_t size = 0; size < sizeof text - 1; size++)
    is_refused(text, size, false, NULL, "JSON line 1, column ");
  bytes bson = must_read(text, sizeof text - 1);
  free(bson.data);
}

/* ---- Limits -------------------------------------------------------------------- */

/* `levels` arrays or objects in one another, the outermost an object if `object`. */
static char *nest(size_t levels, bool object, bool arrays, bool closed, size_t *size) {
  char *text = malloc(levels * 6 + 16), *at = text;
  for (size_t i = 0; i < levels; i++) {
    bool array = arrays && (i > 0 || !object);
    at = copy(at, array ? "[" : "{\"a\":");
  }
  *at++ = '1';
  for (size_t i = levels; closed && i-- > 0;)
    *at++ = arrays && (i > 0 || !object) ? ']' : '}';
  *size = (size_t)(at - text);
  return text;
}

static void test_depth_is_limited(void **state) {
  (void)state;
  for (int arrays = 0; arrays <= 1; arrays++) {
    size_t size, written;
    tide_error error;
    bytes bson;
    char *text = nest(TIDE_DEPTH_MAX, true, arrays, true, &size);
    bson = must_read(text, size);
    char *again = must_write(bson, 0, &written);
    assert_string_equal(again, (text[size] = '\0', text));
    free(again);
    again = must_write(bson, 100, &written); /* taken for TIDE_JSON_INDENT_MAX */
    bytes pretty = must_read(again, written);
    assert_int_equal(pretty.size, bson.size);
    assert_memory_equal(pretty.data, bson.data, bson.size);
    free(pretty.data);
    free(again);
    free(bson.data);
    free(text);

    text = nest(TIDE_DEPTH_MAX + 1, true, arrays, true, &size);
    is_refused(text, size, false, arrays ? "1:69" : "1:321", "nested more than 64 levels deep");
    free(text);

    /* a value alone is one level below its document */
    text = nest(TIDE_DEPTH_MAX - 1, false, arrays, true, &size);
    assert_int_equal(read_size(text, size, true, &bson, &error), TIDE_OK);
    free(bson.data);
    free(text);
    text = nest(TIDE_DEPTH_MAX, false, arrays, true, &size);
    is_refused(text, size, true, NULL, "nested more than 64 levels deep");
    free(text);

    text = nest(200000, true, arrays, false, &size);
    is_refused(text, size, false, arrays ? "1:69" : "1:321", "nested more than 64 levels deep");
    free(text);
  }
}

static void test_the_document_has_at_most_the_limit(void **state) {
  (void)state;
  /* 4 size, type, "a", NUL, 4 size, string, NUL, NUL */
  const size_t most = TIDE_BODY_MAX - 4 - 3 - 4 - 2;
  char *text = malloc(most + 100);
  for (size_t more = 0; more <= 1; more++) {
    tide_error error;
    bytes bson;
    memset(text, 'x', most + 100);
    copy(text, "{\"a\":\"");
    copy(text + 6 + most + more, "\"}");
    int code = read_size(text, most + more + 8, false, &bson, &error);
    assert_int_equal(code, more == 0 ? TIDE_OK : TIDE_LIMIT);
    if (code == TIDE_OK) {
      assert_int_equal(bson.size, TIDE_BODY_MAX);
      size_t size;
      char *again = must_write(bson, 0, &size);
      assert_int_equal(size, most + 8);
      assert_memory_equal(again, text, size);
      free(again);
      free(bson.data);
    } else {
      assert_non_null(strstr(error.message, "bytes as BSON"));
    }
  }
  /* white space and escapes do not count */
  free(text);
  text = malloc(TIDE_BODY_MAX + 100);
  memset(text, ' ', TIDE_BODY_MAX + 100);
  text[TIDE_BODY_MAX] = '{';
  text[TIDE_BODY_MAX + 99] = '}';
  bytes bson = must_read(text, TIDE_BODY_MAX + 100);
  assert_int_equal(bson.size, 5);
  free(bson.data);
  /* in an array, too: 1 type, 7 digits, NUL, 4 bytes */
  memset(text, '1', TIDE_BODY_MAX + 100);
  copy(text, "{\"a\":[");
  for (size_t i = 7; i < 4000000; i += 2)
    text[i] = ',';
  copy(text + 4000000 - 1, "]}");
  tide_error error;
  assert_int_equal(read_size(text, 4000001, false, &bson, &error), TIDE_LIMIT);
  free(text);
}

static void test_large_objects_are_read_and_sorted(void **state) {
  (void)state;
  enum { KEYS = 20000 };
  char *text = malloc(KEYS * 32), *at = text;
  bson_t b = BSON_INITIALIZER;
  *at++ = '{';
  for (int i = KEYS - 1; i >= 0; i--)
    at += sprintf(at, "\"%05d\":{\"b\":%d,\"a\":0},", i, i);
  at[-1] = '}';
  for (int i = 0; i < KEYS; i++) {
    char key[16];
    bson_t inner;
    snprintf(key, sizeof key, "%05d", i);
    BSON_APPEND_DOCUMENT_BEGIN(&b, key, &inner);
    BSON_APPEND_INT32(&inner, "a", 0);
    BSON_APPEND_INT32(&inner, "b", i);
    bson_append_document_end(&b, &inner);
  }
  reads_as(text, (size_t)(at - text), &b);
  at[-1] = ',';
  at += sprintf(at, "\"00077\":1}");
  is_refused(text, (size_t)(at - text), false, NULL, "the key \"00077\" is in the object twice");
  bson_destroy(&b);
  free(text);
}

/* ---- Writing ---------------------------------------------------------------------- */

static void writes(const bson_t *b, int indent, const char *wanted) {
  size_t size;
  char *text = must_write((bytes){(uint8_t *)(uintptr_t)bson_get_data(b), b->len}, indent, &size);
  assert_string_equal(text, wanted);
  assert_int_equal(size, strlen(wanted));
  free(text);
}

static void test_documents_are_written(void **state) {
  (void)state;
  static const uint8_t raw[] = {0x00, 0x7F, 0x80, 0xAB, 0xFF};
  bson_t b = BSON_INITIALIZER, list, inner;
  writes(&b, 0, "{}");
  writes(&b, 2, "{}");
  BSON_APPEND_ARRAY_BEGIN(&b, "z", &list);
  BSON_APPEND_INT32(&list, "0", INT32_MIN);
  BSON_APPEND_INT64(&list, "1", INT64_MIN);
  BSON_APPEND_INT64(&list, "2", 1);
  BSON_APPEND_NULL(&list, "3");
  BSON_APPEND_BOOL(&list, "4", true);
  BSON_APPEND_BOOL(&list, "5", false);
  BSON_APPEND_DOUBLE(&list, "6", NAN);
  BSON_APPEND_DOUBLE(&list, "7", INFINITY);
  BSON_APPEND_DOUBLE(&list, "8", -INFINITY);
  bson_append_array_end(&b, &list);
  BSON_APPEND_BINARY(&b, "b\"", BSON_SUBTYPE_BINARY, raw, sizeof raw);
  BSON_APPEND_BINARY(&b, "", BSON_SUBTYPE_BINARY, raw, 0);
  BSON_APPEND_DOCUMENT_BEGIN(&b, "d", &inner);
  BSON_APPEND_ARRAY_BEGIN(&inner, "e", &list);
  bson_append_array_end(&inner, &list);
  BSON_APPEND_UTF8(&inner, "s", "t");
  bson_append_document_end(&b, &inner);
  BSON_APPEND_DOCUMENT_BEGIN(&b, "o", &inner);
  bson_append_document_end(&b, &inner);
  writes(&b, 0,
         "{\"z\":[-2147483648,-9223372036854775808,1,null,true,false,{\"$double\":\"NaN\"},"
         "{\"$double\":\"Infinity\"},{\"$double\":\"-Infinity\"}],"
         "\"b\\\"\":{\"$binary\":\"007f80abff\"},\"\":{\"$binary\":\"\"},"
         "\"d\":{\"e\":[],\"s\":\"t\"},\"o\":{}}");
  static const char pretty[] =
      "{\n  \"z\": [\n    -2147483648,\n    -9223372036854775808,\n    1,\n"
      "    null,\n    true,\n    false,\n    {\"$double\": \"NaN\"},\n"
      "    {\"$double\": \"Infinity\"},\n    {\"$double\": \"-Infinity\"}\n"
      "  ],\n  \"b\\\"\": {\"$binary\": \"007f80abff\"},\n"
      "  \"\": {\"$binary\": \"\"},\n"
      "  \"d\": {\n    \"e\": [],\n    \"s\": \"t\"\n  },\n  \"o\": {}\n}";
  writes(&b, 2, pretty);
  bson_destroy(&b);
}

static void test_doubles_are_written_to_read_back(void **state) {
  (void)state;
  static const struct {
    double value;
    const char *text;
  } rows[] = {{0.0, "0.0"},
              {-0.0, "-0.0"},
              {1.0, "1.0"},
              {-1.0, "-1.0"},
              {0.1, "0.1"},
              {0.1 + 0.2, "0.30000000000000004"},
              {15.848484848484848, "15.848484848484848"},
              {100000.0, "100000.0"},
              {123456789012345.0, "123456789012345.0"},
              {1e15, "1e+15"},
              {1e21, "1e+21"},
              {9007199254740993.0, "9007199254740992.0"},
              {9223372036854775808.0, "9.223372036854776e+18"},
              {1.0 / 3, "0.3333333333333333"},
              {1e-5, "1e-05"},
              {DBL_MAX, "1.7976931348623157e+308"},
              {DBL_MIN, "2.2250738585072014e-308"},
              {0x1p-1074, "5e-324"},
              {-0x1p-1074, "-5e-324"}};
  for (size_t i = 0; i < COUNT(rows); i++) {
    bson_t b = BSON_INITIALIZER;
    char wanted[64];
    BSON_APPEND_DOUBLE(&b, "a", rows[i].value);
    snprintf(wanted, sizeof wanted, "{\"a\":%s}", rows[i].text);
    writes(&b, 0, wanted);
    reads_as(wanted, strlen(wanted), &b);
    bson_destroy(&b);
  }
}

static void test_strings_are_escaped_minimally(void **state) {
  (void)state;
  static const char raw[] =
      "a\"b\\c/d\b\f\n\r\t\x01\x1F\x7F\xC3\xA9\xE2\x80\xA8\xF0\x9F\x98\x80\0z";
  bson_t b = BSON_INITIALIZER;
  bson_append_utf8(&b, "k\n", -1, raw, sizeof raw - 1);
  writes(&b, 0,
         "{\"k\\n\":\"a\\\"b\\\\c/d\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\xC3\xA9\xE2\x80\xA8"
         "\xF0\x9F\x98\x80\\u0000z\"}");
  bson_destroy(&b);
}

static void test_a_damaged_document_is_a_store_error(void **state) {
  (void)state;
  static const char source[] = "{\"a\":[1,2.5,\"x\",{\"b\":null}],\"c\":9223372036854775807}";
  bytes bson = must_read(source, sizeof source - 1);
  for (size_t size = 0; size < bson.size; size++) {
    uint8_t *cut = malloc(size > 0 ? size : 1);
    tide_error error = {0};
    char *text = (char *)cut;
    size_t text_size = 77;
    memcpy(cut, bson.data, size);
    assert_int_equal(tide__json_write(cut, size, 0, &text, &text_size, &error), TIDE_STORE);
    assert_int_equal(error.code, TIDE_STORE);
    assert_null(text);
    assert_int_equal(text_size, 0);
    free(cut);
  }
  free(bson.data);
  bson_t b = BSON_INITIALIZER;
  tide_error error = {0};
  char *text;
  size_t size;
  BSON_APPEND_DATE_TIME(&b, "a", 1); /* a type that is not stored */
  assert_int_equal(tide__json_write(bson_get_data(&b), b.len, 0, &text, &size, &error), TIDE_STORE);
  assert_non_null(strstr(error.message, "a type that Tidelog does not store"));
  bson_destroy(&b);
}

/* ---- Random documents -------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t random_bits(void) { /* xorshift64* */
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * UINT64_C(2685821657736338717);
}

static size_t below(size_t most) {
  return (size_t)(random_bits() >> 16) % most;
}

static int rounds(int normal) {
  const char *seed = getenv("TIDELOG_TEST_SEED");
  uint64_t start = seed != NULL ? strtoull(seed, NULL, 10) : 20261123;
  print_message("seed %" PRIu64 "\n", start);
  random_state = (start + 1) * UINT64_C(0x9E3779B97F4A7C15);
  return getenv("TIDELOG_TEST_QUICK") != NULL ? normal / 20 : normal;
}

/* A text that is put together, with as much of JSON's freedom as there is. */
typedef struct messy {
  char *text;
  size_t size, capacity;
} messy;

static void add(messy *m, const char *text, size_t size) {
  if (m->size + size > m->capacity) {
    m->capacity = (m->size + size) * 2;
    m->text = realloc(m->text, m->capacity);
    assert_non_null(m->text);
  }
  memcpy(m->text + m->size, text, size);
  m->size += size;
}

static void add_space(messy *m) {
  while (below(4) == 0)
    add(m, &" \t\r\n"[below(4)], 1);
}

/* A random string of characters, in UTF-8 and as JSON. */
static size_t random_string(messy *m, char *utf8, bool key) {
  size_t size = 0, length = below(below(20) == 0 ? 40 : 6);
  add(m, "\"", 1);
  for (size_t i = 0; i < length; i++) {
    static const uint32_t ends[] = {0x80, 0x80, 0x80, 0x800, 0xD800, 0x10FFFF};
    uint32_t c = (uint32_t)below(ends[below(COUNT(ends))]);
    char escaped[16];
    if ((c >= 0xD800 && c < 0xE000) || (key && c == 0)) c = 'a';
    uint32_t bytes_of = 1;
    if (c == 0)
      utf8[size] = '\0';
    else
      bson_utf8_from_unichar(c, utf8 + size, &bytes_of);
    if (c < 0x20 || c == '"' || c == '\\' || below(4) == 0) {
      if (c < 0x10000)
        snprintf(escaped, sizeof escaped, below(2) ? "\\u%04X" : "\\u%04x", (unsigned)c);
      else
        snprintf(escaped, sizeof escaped, "\\u%04X\\u%04x", (unsigned)(0xD7C0 + (c >> 10)),
                 (unsigned)(0xDC00 + (c & 0x3FF)));
      add(m, escaped, strlen(escaped));
    } else {
      add(m, utf8 + size, bytes_of);
    }
    size += bytes_of;
  }
  add(m, "\"", 1);
  return size;
}

static double random_double(void) {
  double value;
  do {
    uint64_t bits = random_bits();
    if (below(2)) return (double)(int64_t)(bits >> below(64)) / (double)(1 + below(1000));
    memcpy(&value, &bits, sizeof value);
  } while (!isfinite(value));
  return value;
}

typedef struct field {
  char key[256];
  size_t key_size;
  size_t begin, end; /* of `"key": value` in the text */
  bson_t value;      /* { "": value } */
} field;

static int compare_fields(const void *x, const void *y) {
  const field *const *a = x, *const *b = y;
  size_t a_size = (*a)->key_size, b_size = (*b)->key_size;
  int order = memcmp((*a)->key, (*b)->key, a_size < b_size ? a_size : b_size);
  return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

static void random_object(messy *m, bson_t *b, size_t depth);

static void random_value(messy *m, bson_t *b, const char *key, size_t key_size, size_t depth) {
  char text[256];
  int64_t integer;
  double number;
  bson_t inner;
  size_t kind = below(depth == 0 ? 7 : 10), size;
  int length = (int)key_size;
  add_space(m);
  switch (kind) {
  case 0:
    add(m, "null", 4);
    bson_append_null(b, key, length);
    break;
  case 1:
    add(m, "true", 4);
    bson_append_bool(b, key, length, true);
    break;
  case 2:
    add(m, "false", 5);
    bson_append_bool(b, key, length, false);
    break;
  case 3:
  case 4:
    integer = (int64_t)random_bits() >> below(64);
    snprintf(text, sizeof text, "%" PRId64, integer);
    add(m, text, strlen(text));
    if (integer >= INT32_MIN && integer <= INT32_MAX)
      bson_append_int32(b, key, length, (int32_t)integer);
    else
      bson_append_int64(b, key, length, integer);
    break;
  case 5:
    number = random_double();
    snprintf(text, sizeof text, below(2) ? "%.*e" : "%.*E", 16 + (int)below(20), number);
    add(m, text, strlen(text));
    bson_append_double(b, key, length, number);
    break;
  case 6:
    size = random_string(m, text, false);
    bson_append_utf8(b, key, length, text, (int)size);
    break;
  case 7:
    bson_append_array_begin(b, key, length, &inner);
    add(m, "[", 1);
    size = below(below(10) == 0 ? 30 : 5);
    for (size_t i = 0; i < size; i++) {
      char index[24];
      snprintf(index, sizeof index, "%zu", i);
      if (i > 0) add(m, ",", 1);
      random_value(m, &inner, index, strlen(index), depth - 1);
    }
    if (size == 0) add_space(m);
    add(m, "]", 1);
    bson_append_array_end(b, &inner);
    break;
  default:
    bson_append_document_begin(b, key, length, &inner);
    random_object(m, &inner, depth - 1);
    bson_append_document_end(b, &inner);
  }
  add_space(m);
}

/* Its fields in random order in the text, sorted in the document. */
static void random_object(messy *m, bson_t *b, size_t depth) {
  enum { MOST = 8 };
  field *fields = calloc(MOST, sizeof *fields), *order[MOST];
  size_t count = 0, wanted = below(MOST + 1);
  assert_non_null(fields);
  add(m, "{", 1);
  for (size_t i = 0; i < wanted; i++) {
    field *f = &fields[count];
    size_t before = m->size;
    if (count > 0) add(m, ",", 1);
    add_space(m);
    f->key_size = random_string(m, f->key, true);
    bool twice = false;
    for (size_t k = 0; k < count; k++)
      twice = twice || (fields[k].key_size == f->key_size &&
                        memcmp(fields[k].key, f->key, f->key_size) == 0);
    if (twice) {
      m->size = before;
      continue;
    }
    add_space(m);
    add(m, ":", 1);
    bson_init(&f->value);
    random_value(m, &f->value, "", 0, depth);
    order[count++] = f;
  }
  if (count == 0) add_space(m);
  add(m, "}", 1);
  qsort(order, count, sizeof *order, compare_fields);
  for (size_t i = 0; i < count; i++) {
    bson_iter_t iter;
    assert_true(bson_iter_init(&iter, &order[i]->value) && bson_iter_next(&iter));
    bson_append_value(b, order[i]->key, (int)order[i]->key_size, bson_iter_value(&iter));
    bson_destroy(&order[i]->value);
  }
  free(fields);
}

static void test_random_documents_are_read_and_survive_the_round_trip(void **state) {
  (void)state;
  for (int left = rounds(20000); left > 0; left--) {
    messy m = {0};
    bson_t b = BSON_INITIALIZER;
    add_space(&m);
    random_object(&m, &b, below(6));
    add_space(&m);
    reads_as(m.text, m.size, &b);
    bytes bson = {(uint8_t *)(uintptr_t)bson_get_data(&b), b.len};
    for (int indent = 0; indent <= 3; indent += 3) {
      size_t size;
      char *text = must_write(bson, indent, &size);
      reads_as(text, size, &b);
      free(text);
    }
    bson_destroy(&b);
    free(m.text);
  }
}

static void test_random_doubles_survive_the_round_trip(void **state) {
  (void)state;
  for (int left = rounds(100000); left > 0; left--) {
    bson_t b = BSON_INITIALIZER;
    size_t size;
    uint64_t bits = random_bits();
    double value = random_double();
    if (left % 4 == 0) { /* next to a power of two, where the digits run out first */
      bits = (bits & UINT64_C(0x7FE0000000000000)) + (uint64_t)((int64_t)below(5) - 2);
      memcpy(&value, &bits, sizeof value);
      if (!isfinite(value)) value = DBL_MAX;
    }
    BSON_APPEND_DOUBLE(&b, "", value);
    char *text = must_write((bytes){(uint8_t *)(uintptr_t)bson_get_data(&b), b.len}, 0, &size);
    reads_as(text, size, &b);
    free(text);
    bson_destroy(&b);
  }
}

/* Whatever is read survives the round trip; and nothing crashes. */
static void test_mutated_texts_are_refused_or_survive_the_round_trip(void **state) {
  (void)state;
  static const char alphabet[] = "{}[]\",:\\u0019eE+-. \ntfnd8DcX\x80\xC3\xFF";
  for (int left = rounds(40000); left > 0; left--) {
    messy m = {0};
    bson_t b = BSON_INITIALIZER;
    random_object(&m, &b, below(4));
    bson_destroy(&b);
    for (size_t changes = 1 + below(3); changes > 0 && m.size > 0; changes--) {
      size_t at = below(m.size), run = below(m.size - at) % 8;
      switch (below(4)) {
      case 0:
        m.text[at] = alphabet[below(sizeof alphabet)]; /* its NUL, too */
        break;
      case 1:
        m.text[at] = (char)random_bits();
        break;
      case 2: /* a piece is missing */
        memmove(m.text + at, m.text + at + run, m.size - at - run);
        m.size -= run;
        break;
      default: { /* a piece is there twice */
        char piece[8];
        memcpy(piece, m.text + at, run);
        add(&m, piece, run);
        memmove(m.text + at + run, m.text + at, m.size - at - run);
      }
      }
    }
    tide_error error;
    bytes bson;
    bool value = below(2) != 0;
    int code = read_size(m.text, m.size, value, &bson, &error);
    if (code == TIDE_OK) {
      size_t size;
      char *text = must_write(bson, (int)below(3), &size);
      bytes again = must_read(text, size);
      assert_int_equal(again.size, bson.size);
      assert_memory_equal(again.data, bson.data, bson.size);
      free(again.data);
      free(text);
      free(bson.data);
    } else {
      assert_int_equal(code, TIDE_INVALID_ARGUMENT);
    }
    free(m.text);
  }
}

static void test_mutated_documents_are_refused_or_written_as_json(void **state) {
  (void)state;
  for (int left = rounds(40000); left > 0; left--) {
    messy m = {0};
    bson_t b = BSON_INITIALIZER;
    random_object(&m, &b, below(4));
    free(m.text);
    size_t size = b.len;
    uint8_t *data = malloc(size);
    memcpy(data, bson_get_data(&b), size);
    bson_destroy(&b);
    for (size_t changes = 1 + below(2); changes > 0; changes--)
      data[below(size)] = (uint8_t)random_bits();
    tide_error error = {0};
    char *text;
    size_t written;
    int code = tide__json_write(data, size, (int)below(3), &text, &written, &error);
    assert_int_equal(code == TIDE_OK, tide__bson_check(data, size, TIDE_BODY_DEPTH_MAX) == NULL);
    if (code == TIDE_OK) {
      bytes bson;
      code = read_size(text, written, false, &bson, &error);
      free(bson.data);
      free(text);
      /* it may have keys twice */
      if (code != TIDE_OK && strstr(error.message, "is in the object twice") == NULL)
        fail_msg("%s", error.message);
    }
    free(data);
  }
}

/* ---- Locale -------------------------------------------------------------------------- */

/* Makes a locale whose decimal point is a comma, which no machine need have. */
static bool make_comma_locale(const char *folder) {
  char path[128], command[512];
  snprintf(path, sizeof path, "%s/comma.src", folder);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(
      "comment_char %\nescape_char /\nLC_NUMERIC\ndecimal_point \"<U002C>\"\n"
      "thousands_sep \"\"\ngrouping -1\nEND LC_NUMERIC\n",
      file);
  fclose(file);
  /* it warns of the categories that are missing, and exits with 1 */
  snprintf(command, sizeof command, "localedef -c -i %s %s/xx_XX >/dev/null 2>&1", path, folder);
  int status = system(command); /* NOLINT(cert-env33-c): nothing of it comes from outside */
  (void)status;
  setenv("LOCPATH", folder, 1);
  return setlocale(LC_NUMERIC, "xx_XX") != NULL;
}

static void test_the_locale_does_not_matter_and_stays(void **state) {
  (void)state;
  static const char source[] = "{\"a\":-1.5,\"b\":2.5e-07,\"c\":0.30000000000000004}";
  char folder[] = "/tmp/tidelog-locale-XXXXXX", command[128], shown[16];
  assert_non_null(mkdtemp(folder));
  bool made = make_comma_locale(folder);
  locale_t comma = made ? duplocale(LC_GLOBAL_LOCALE) : (locale_t)0;
  unsetenv("LOCPATH");
  snprintf(command, sizeof command, "rm -rf %s", folder);
  int status = system(command); /* NOLINT(cert-env33-c): nothing of it comes from outside */
  (void)status;
  if (comma == (locale_t)0) {
    print_message("no localedef to make a locale with\n");
    skip();
  }
  for (int thread = 0; thread <= 1; thread++) {
    if (thread) { /* the thread's own, in place of the process' */
      setlocale(LC_NUMERIC, "C");
      uselocale(comma);
    }
    bytes bson = must_read(source, sizeof source - 1);
    size_t size;
    tide_error error;
    char *text = must_write(bson, 0, &size);
    bytes refused;
    int code = read_size(LITERAL("{\"a\":1,5}"), false, &refused, &error);
    snprintf(shown, sizeof shown, "%.1f", 1.5);
    locale_t current = uselocale((locale_t)0);
    if (thread) uselocale(LC_GLOBAL_LOCALE);
    setlocale(LC_NUMERIC, thread ? "C" : "xx_XX");
    assert_string_equal(text, source);
    assert_int_equal(code, TIDE_INVALID_ARGUMENT);
    assert_string_equal(shown, "1,5");
    assert_true(current == (thread ? comma : LC_GLOBAL_LOCALE));
    free(text);
    free(bson.data);
  }
  setlocale(LC_NUMERIC, "C");
  freelocale(comma);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_integers_keep_their_type_and_value),
      cmocka_unit_test(test_integers_beyond_64_bits_are_refused),
      cmocka_unit_test(test_doubles_are_rounded_correctly),
      cmocka_unit_test(test_a_long_number_is_read_whole),
      cmocka_unit_test(test_strings_mean_what_they_say),
      cmocka_unit_test(test_each_character_is_read_plain_and_escaped),
      cmocka_unit_test(test_literals_and_structure_are_read),
      cmocka_unit_test(test_keys_are_sorted_bytewise),
      cmocka_unit_test(test_extended_json_is_plain_json),
      cmocka_unit_test(test_what_is_no_json_is_refused_where_it_is_wrong),
      cmocka_unit_test(test_a_value_alone_is_refused_where_it_is_wrong),
      cmocka_unit_test(test_the_error_may_be_null),
      cmocka_unit_test(test_every_prefix_is_refused),
      cmocka_unit_test(test_depth_is_limited),
      cmocka_unit_test(test_the_document_has_at_most_the_limit),
      cmocka_unit_test(test_large_objects_are_read_and_sorted),
      cmocka_unit_test(test_documents_are_written),
      cmocka_unit_test(test_doubles_are_written_to_read_back),
      cmocka_unit_test(test_strings_are_escaped_minimally),
      cmocka_unit_test(test_a_damaged_document_is_a_store_error),
      cmocka_unit_test(test_random_documents_are_read_and_survive_the_round_trip),
      cmocka_unit_test(test_random_doubles_survive_the_round_trip),
      cmocka_unit_test(test_mutated_texts_are_refused_or_survive_the_round_trip),
      cmocka_unit_test(test_mutated_documents_are_refused_or_written_as_json),
      cmocka_unit_test(test_the_locale_does_not_matter_and_stays),
  };
  return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
