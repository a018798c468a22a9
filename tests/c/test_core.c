/* test_core.c - engine/core: errors, names, time, ids, BSON documents and commits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bson/bson.h>
#include <cmocka.h>

#include "core/bson_check.h"
#include "core/clock.h"
#include "core/commit.h"
#include "core/error.h"
#include "core/hash_map.h"
#include "core/id.h"
#include "core/names.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- Errors --------------------------------------------------------------- */

static void test_each_code_has_its_name(void **state) {
  (void)state;
  static const struct {
    int code;
    const char *name;
  } rows[] = {{TIDE_INVALID_ARGUMENT, "InvalidArgumentError"},
              {TIDE_MISSING_ARGUMENT, "MissingArgumentError"},
              {TIDE_NOT_IMPLEMENTED, "NotImplementedError"},
              {TIDE_CONCURRENCY, "ConcurrencyError"},
              {TIDE_PRECONDITION, "PreconditionError"},
              {TIDE_ACCESS_DENIED, "AccessDeniedError"},
              {TIDE_LIMIT, "LimitError"},
              {TIDE_STORE, "StoreError"},
              {TIDE_OK, "Error"},
              {-1, "Error"},
              {INT32_MAX, "Error"}};
  for (size_t i = 0; i < COUNT(rows); i++)
    assert_string_equal(tide_error_name(rows[i].code), rows[i].name);
  for (int i = TIDE_INVALID_ARGUMENT; i <= TIDE_DOMAIN; i++)
    for (int k = i + 1; k <= TIDE_DOMAIN; k++)
      assert_string_not_equal(tide_error_name(i), tide_error_name(k));
}

static void test_version_is_the_headers(void **state) {
  (void)state;
  char numbers[32];
  snprintf(numbers, sizeof numbers, "%d.%d.%d", TIDE_VERSION_MAJOR, TIDE_VERSION_MINOR,
           TIDE_VERSION_PATCH);
  assert_string_equal(tide_version(), TIDE_VERSION);
  assert_string_equal(numbers, TIDE_VERSION);
}

static void test_fail_fills_all_and_returns_its_code(void **state) {
  (void)state;
  tide_error error;
  memset(&error, 0xAA, sizeof error);
  assert_int_equal(tide__fail(&error, TIDE_CONCURRENCY, "version", "%s %d%%", "at", 7),
                   TIDE_CONCURRENCY);
  assert_int_equal(error.code, TIDE_CONCURRENCY);
  assert_int_equal(error.transient, 0);
  assert_string_equal(error.argument, "version");
  assert_string_equal(error.message, "at 7%");

  assert_int_equal(tide__fail_store(&error, 1, "disk %s", "full"), TIDE_STORE);
  assert_int_equal(error.code, TIDE_STORE);
  assert_int_equal(error.transient, 1);
  assert_string_equal(error.argument, ""); /* nothing stays of the error before it */
  assert_string_equal(error.message, "disk full");

  assert_int_equal(tide__fail_memory(&error), TIDE_NO_MEMORY);
  assert_int_equal(error.code, TIDE_NO_MEMORY);
  assert_int_equal(error.transient, 0);
  assert_true(error.message[0] != '\0');

  assert_int_equal(tide__fail(&error, TIDE_LIMIT, NULL, "x"), TIDE_LIMIT);
  assert_string_equal(error.argument, "");
}

static void test_fail_may_have_no_error_to_fill(void **state) {
  (void)state;
  assert_int_equal(tide__fail(NULL, TIDE_LIMIT, "a", "%d", 1), TIDE_LIMIT);
  assert_int_equal(tide__fail_store(NULL, 1, "%d", 1), TIDE_STORE);
  assert_int_equal(tide__fail_memory(NULL), TIDE_NO_MEMORY);
}

static void test_long_texts_are_cut_at_whole_characters(void **state) {
  (void)state;
  static const char *const characters[] = {"x", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
  char text[2000], start[8];
  for (size_t i = 0; i < COUNT(characters); i++) {
    const size_t width = strlen(characters[i]);
    for (size_t lead = 0; lead < 4; lead++) {
      for (size_t size = 100; size + width < 1000; size += size < 540 ? 1 : 97) {
        tide_error error = {0};
        memset(start, 'a', sizeof start);
        start[lead] = '\0';
        strcpy(text, start);
        while (strlen(text) < size)
          strcat(text, characters[i]);
        const size_t length = strlen(text);
        tide__fail(&error, TIDE_LIMIT, text, "%s", text);
        const struct {
          const char *cut;
          size_t room;
        } rows[] = {{error.argument, sizeof error.argument - 1},
                    {error.message, sizeof error.message - 1}};
        for (size_t k = 0; k < COUNT(rows); k++) {
          /* the longest start of whole characters that has room */
          const size_t whole =
              length <= rows[k].room ? length : lead + (rows[k].room - lead) / width * width;
          assert_int_equal(strlen(rows[k].cut), whole);
          assert_memory_equal(rows[k].cut, text, whole);
        }
      }
    }
  }
}

static void test_bytes_that_are_no_text_are_cut_somewhere(void **state) {
  (void)state;
  static const uint8_t bytes[] = {0x80, 0xBF, 0xC3, 0xE2, 0xF0, 0xFF};
  char text[700];
  for (size_t i = 0; i < COUNT(bytes); i++) {
    tide_error error = {0};
    memset(text, bytes[i], sizeof text - 1);
    text[sizeof text - 1] = '\0';
    tide__fail(&error, TIDE_LIMIT, text, "%s", text);
    assert_true(strlen(error.message) >= sizeof error.message - 4);
    assert_true(strlen(error.argument) >= sizeof error.argument - 4);
  }
}

/* ---- Names ---------------------------------------------------------------- */

static size_t encode(uint32_t point, char text[4]) {
  if (point < 0x80) {
    text[0] = (char)point;
    return 1;
  }
  const size_t size = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
  for (size_t i = size - 1; i > 0; i--, point >>= 6)
    text[i] = (char)(0x80 | (point & 0x3F));
  text[0] = (char)((0xF00u >> size & 0xF0) | point);
  return size;
}

static void test_utf8_is_each_code_point_and_nothing_else(void **state) {
  (void)state;
  char text[8];
  for (uint32_t point = 0; point < 0x110400; point++) {
    const int expected = point <= 0x10FFFF && (point < 0xD800 || point > 0xDFFF);
    const size_t size = encode(point, text);
    if (tide__is_utf8(text, size) != expected) fail_msg("U+%04X", point);
    for (size_t cut = 1; cut < size; cut++)
      assert_false(tide__is_utf8(text, cut));
    text[size] = 'a';
    if (tide__is_utf8(text, size + 1) != expected) fail_msg("U+%04X a", point);
    if (size > 1) {
      text[size - 1] = 'a';
      assert_false(tide__is_utf8(text, size));
    }
  }
  /* all pairs of bytes: two of ASCII, or a lead C2-DF and one that follows */
  for (int first = 0; first < 256; first++) {
    for (int second = 0; second < 256; second++) {
      text[0] = (char)first;
      text[1] = (char)second;
      const int expected = (first < 0x80 && second < 0x80) ||
                           (first >= 0xC2 && first <= 0xDF && second >= 0x80 && second <= 0xBF);
      assert_int_equal(tide__is_utf8(text, 2), expected);
    }
  }
  static const struct {
    const char *text;
    size_t size;
  } bad[] = {{"\xe0\x9f\xbf", 3},
             {"\xf0\x8f\xbf\xbf", 4},
             {"\xf5\x80\x80\x80", 4},
             {"\xf8\x88\x80\x80", 4},
             {"\xfe", 1},
             {"\xff", 1},
             {"a\x80", 2},
             {"\xc3", 1},
             {"\xe2\x82", 2}};
  for (size_t i = 0; i < COUNT(bad); i++)
    assert_false(tide__is_utf8(bad[i].text, bad[i].size));
  assert_true(tide__is_utf8("", 0));
  assert_true(tide__is_utf8("a\0b", 3));
}

typedef struct name_row {
  const char *text;
  size_t size;
  int code;
} name_row;
#define TEXT(text, code)                                                                           \
  { text, sizeof(text) - 1, code }

#define A16  "aaaaaaaaaaaaaaaa"
#define A64  A16 A16 A16 A16
#define A256 A64 A64 A64 A64
#define OK   TIDE_OK
#define BAD  TIDE_INVALID_ARGUMENT
#define NONE TIDE_MISSING_ARGUMENT

/* The argument is named, the message is one readable line that shows no rubbish. */
static void check_error(const tide_error *error, int got, int code, const char *argument) {
  assert_int_equal(got, code);
  assert_int_equal(error->code, code);
  if (code == TIDE_OK) {
    assert_string_equal(error->message, "");
    return;
  }
  assert_string_equal(error->argument, argument);
  assert_true(error->message[0] != '\0');
  assert_true(tide__is_utf8(error->message, strlen(error->message)));
  for (const char *c = error->message; *c != '\0'; c++)
    assert_true((unsigned char)*c >= 0x20 && *c != 0x7F);
}

static void test_tenants_follow_their_rule(void **state) {
  (void)state;
  static const name_row rows[] = {
      TEXT("a", OK),
      TEXT("0", OK),
      TEXT("tenant-1_x", OK),
      TEXT("a-", OK),
      TEXT(A16 A16 "aaaaaa", OK), /* 38 bytes */
      TEXT(A16 A16 "aaaaaaa", BAD),
      TEXT(A256, BAD),
      TEXT("-a", BAD),
      TEXT("_a", BAD),
      TEXT("A", BAD),
      TEXT("aB", BAD),
      TEXT("a b", BAD),
      TEXT("a.b", BAD),
      TEXT("..", BAD),
      TEXT("a/b", BAD),
      TEXT("a\0b", BAD),
      TEXT("a\0", BAD),
      TEXT("a\n", BAD),
      TEXT("\xc3\xa4", BAD),
      TEXT("\xff", BAD),
      TEXT("", NONE),
      {NULL, 0, NONE},
      {NULL, 5, NONE},
      {"abc?", 3, OK}, /* the size counts, not a NUL */
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    tide_error error = {0};
    const int got = tide__check_tenant(rows[i].text, rows[i].size, &error);
    check_error(&error, got, rows[i].code, "tenant");
    assert_int_equal(tide__check_tenant(rows[i].text, rows[i].size, NULL), rows[i].code);
  }
}

static void test_names_follow_their_rule(void **state) {
  (void)state;
  static const name_row rows[] = {
      TEXT("a", OK),
      TEXT(" ", OK),
      TEXT("'; DROP TABLE commits; --", OK),
      TEXT("../..", OK),
      TEXT("\xf0\x9f\x98\x80", OK),
      TEXT(A256, OK),
      TEXT(A256 "a", BAD),
      TEXT(A64 A64 A64 A16 A16 A16 "aaaaaaaaaaaaa\xe2\x82\xac", OK), /* 256 bytes */
      TEXT(A64 A64 A64 A16 A16 A16 "aaaaaaaaaaaaaa\xe2\x82\xac", BAD),
      TEXT("\xe2\x82", BAD),
      TEXT("a\0b", BAD),
      TEXT("\0", BAD),
      TEXT("\x01", BAD),
      TEXT("\x1f", BAD),
      TEXT("\x7f", BAD),
      TEXT("a\r\nb", BAD),
      TEXT("\xff\xfe", BAD),
      TEXT("\xed\xa0\x80", BAD),
      TEXT("", NONE),
      {NULL, 0, NONE},
      {"ab\xff", 2, OK},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    tide_error error = {0};
    const int got = tide__check_name("thing", rows[i].text, rows[i].size, &error);
    check_error(&error, got, rows[i].code, "thing");
  }
}

static void test_paths_follow_their_rule(void **state) {
  (void)state;
  static const name_row rows[] = {
      TEXT("/a", OK),
      TEXT("//", OK),
      TEXT("/a/b c/\xc3\xa4", OK),
      TEXT("/../etc", OK),
      TEXT("/" A256 A256 A256 A64 A64 A64 A16 A16 A16 "aaaaaaaaaaaaaaa", OK), /* 1024 bytes */
      TEXT("/" A256 A256 A256 A64 A64 A64 A16 A16 A16 "aaaaaaaaaaaaaaaa", BAD),
      TEXT("/", BAD),
      TEXT("a", BAD),
      TEXT("a/b", BAD),
      TEXT(" /a", BAD),
      TEXT("/a\0", BAD),
      TEXT("/\t", BAD),
      TEXT("/\xff", BAD),
      TEXT("", NONE),
      {NULL, 0, NONE},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    tide_error error = {0};
    const int got = tide__check_path(rows[i].text, rows[i].size, &error);
    check_error(&error, got, rows[i].code, "path");
  }
}

static void test_messages_show_a_shortened_value(void **state) {
  (void)state;
  tide_error error = {0};
  tide__check_tenant("Tenant\n1", 8, &error);
  assert_non_null(strstr(error.message, "Tenant?1"));
  char text[3 * 200 + 1] = "";
  for (int i = 0; i < 200; i++)
    strcat(text, "\xe2\x82\xac");
  for (size_t lead = 0; lead < 3; lead++) { /* whole characters, wherever it is cut */
    memset(text, 'a', lead);
    memmove(text + lead, text + 3, strlen(text + 3) + 1);
    memset(&error, 0, sizeof error);
    assert_int_equal(tide__check_name("id", text, strlen(text), &error), BAD);
    assert_true(tide__is_utf8(error.message, strlen(error.message)));
    assert_true(strlen(error.message) < 200);
    assert_non_null(strstr(error.message, "..."));
  }
}

/* ---- Time ----------------------------------------------------------------- */

static void test_now_is_the_systems_time(void **state) {
  (void)state;
  const int64_t before = (int64_t)time(NULL) * 1000, now = tide__now();
  assert_in_range(now, before - 1000, before + 60000);
}

static void test_times_are_read(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int64_t time;
  } rows[] = {
      {"1970-01-01", 0},
      {"1970-01-01Z", 0},
      {"1970-01-01T00:00", 0},
      {"1970-01-01T00:00Z", 0},
      {"1970-01-01T00:00:00", 0},
      {"1970-01-01T00:00:00Z", 0},
      {"1970-01-01T00:00:00.000Z", 0},
      {"1970-01-01T00:00:00.001Z", 1},
      {"1970-01-01T00:00:00.5Z", 500},
      {"1970-01-01T00:00:00.05", 50},
      {"1970-01-01T00:00:00.123456789Z", 123},
      {"1970-01-01T00:00:00.9999999999999999999999Z", 999},
      {"1970-01-01T00:00:59Z", 59000},
      {"1970-01-01T23:59:59.999Z", 86399999},
      {"1969-12-31T23:59:59.999Z", -1},
      {"1969-12-31T23:59:59Z", -1000},
      {"2026-11-23T09:00:00Z", INT64_C(1795424400000)},
      {"2026-11-23T09:00:00.000Z", INT64_C(1795424400000)},
      {"2026-11-23T10:30+01:30", INT64_C(1795424400000)},
      {"2026-11-23T01:00:00-08:00", INT64_C(1795424400000)},
      {"2026-11-24T08:59:00+23:59", INT64_C(1795424400000)},
      {"2026-11-22T09:01:00-23:59", INT64_C(1795424400000)},
      {"1970-01-01T00:00+00:00", 0},
      {"1970-01-01T00:00-00:00", 0},
      {"1970-01-01+01:00", -3600000},
      {"2000-02-29", INT64_C(951782400000)},
      {"2024-02-29T23:59:59", INT64_C(1709251199000)},
      {"1600-02-29", INT64_C(-11670998400000)},
      {"1900-02-28", INT64_C(-2203977600000)},
      {"1900-03-01", INT64_C(-2203891200000)},
      {"2100-03-01", INT64_C(4107542400000)},
      {"0001-01-01", INT64_C(-62135596800000)},
      {"0000-02-29", TIDE_TIME_MIN + (31 + 28) * INT64_C(86400000)},
      {"0000-01-01T00:00:00.000Z", TIDE_TIME_MIN},
      {"0000-01-01T01:00:00+01:00", TIDE_TIME_MIN},
      {"9999-12-31T23:59:59.999Z", TIDE_TIME_MAX},
      {"9999-12-31T22:59:59.999-01:00", TIDE_TIME_MAX},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    int64_t time = 42;
    if (!tide__time_parse(rows[i].text, strlen(rows[i].text), &time)) fail_msg("%s", rows[i].text);
    assert_int_equal(time, rows[i].time);
  }
}

static void test_rubbish_is_no_time(void **state) {
  (void)state;
  static const name_row rows[] = {
      TEXT("", 0),
      TEXT("1970", 0),
      TEXT("1970-01", 0),
      TEXT("1970-01-", 0),
      TEXT("1970-1-01", 0),
      TEXT("1970-01-1", 0),
      TEXT("70-01-01", 0),
      TEXT("10000-01-01", 0),
      TEXT("+1970-01-01", 0),
      TEXT("-0001-01-01", 0),
      TEXT("1970/01/01", 0),
      TEXT("19700101", 0),
      TEXT("1970-00-01", 0),
      TEXT("1970-13-01", 0),
      TEXT("1970-01-00", 0),
      TEXT("1970-01-32", 0),
      TEXT("1970-04-31", 0),
      TEXT("1970-06-31", 0),
      TEXT("1970-09-31", 0),
      TEXT("1970-11-31", 0),
      TEXT("1970-02-29", 0),
      TEXT("1900-02-29", 0),
      TEXT("2100-02-29", 0),
      TEXT("2000-02-30", 0),
      TEXT("1970-01-01T", 0),
      TEXT("1970-01-01T00", 0),
      TEXT("1970-01-01T00Z", 0),
      TEXT("1970-01-01T00:", 0),
      TEXT("1970-01-01T0:00", 0),
      TEXT("1970-01-01T24:00", 0),
      TEXT("1970-01-01T00:60", 0),
      TEXT("1970-01-01T00:00:60", 0),
      TEXT("1970-01-01T00:00:0", 0),
      TEXT("1970-01-01T00:00:", 0),
      TEXT("1970-01-01T00:00:00.", 0),
      TEXT("1970-01-01T00:00:00.Z", 0),
      TEXT("1970-01-01T00:00:00,5", 0),
      TEXT("1970-01-01T00:00.5", 0),
      TEXT("1970-01-01T00:00:00ZZ", 0),
      TEXT("1970-01-01T00:00:00Z ", 0),
      TEXT(" 1970-01-01", 0),
      TEXT("1970-01-01 ", 0),
      TEXT("1970-01-01 00:00:00", 0),
      TEXT("1970-01-01t00:00:00", 0),
      TEXT("1970-01-01T00:00:00z", 0),
      TEXT("1970-01-01T00:00:00+", 0),
      TEXT("1970-01-01T00:00:00+1:00", 0),
      TEXT("1970-01-01T00:00:00+01", 0),
      TEXT("1970-01-01T00:00:00+0100", 0),
      TEXT("1970-01-01T00:00:00+24:00", 0),
      TEXT("1970-01-01T00:00:00+01:60", 0),
      TEXT("1970-01-01T00:00:00+01:00Z", 0),
      TEXT("1970-01-01T00:00:00--1:00", 0),
      TEXT("1970-01-01T-1:00", 0),
      TEXT("1970-01-01\0", 0),
      TEXT("1970-01-\0001", 0),
      TEXT("0000-01-01T00:00:00+00:01", 0),
      TEXT("9999-12-31T23:59:59.999-00:01", 0),
      TEXT("\xef\xbc\x91"
           "970-01-01",
           0),
      TEXT("now", 0),
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    int64_t time;
    if (tide__time_parse(rows[i].text, rows[i].size, &time)) fail_msg("'%s'", rows[i].text);
  }
}

static void test_only_the_given_bytes_are_read(void **state) {
  (void)state;
  static const char full[] = "2026-11-23T09:00:00.000+00:00";
  char *exact = NULL;
  int64_t time;
  for (size_t size = 0; size < sizeof full; size++) { /* the sanitizer sees one byte too far */
    exact = malloc(size > 0 ? size : 1);
    assert_non_null(exact);
    memcpy(exact, full, size);
    const int whole = size == 10 || size == 16 || size == 19 || (size >= 21 && size <= 23) ||
                      size == sizeof full - 1;
    assert_int_equal(tide__time_parse(exact, size, &time), whole);
    free(exact);
  }
}

static void test_times_are_written(void **state) {
  (void)state;
  static const struct {
    int64_t time;
    const char *text;
  } rows[] = {
      {0, "1970-01-01T00:00:00.000Z"},
      {-1, "1969-12-31T23:59:59.999Z"},
      {1, "1970-01-01T00:00:00.001Z"},
      {INT64_C(1795424400000), "2026-11-23T09:00:00.000Z"},
      {INT64_C(951782400000), "2000-02-29T00:00:00.000Z"},
      {INT64_C(-2203891200001), "1900-02-28T23:59:59.999Z"},
      {TIDE_TIME_MIN, "0000-01-01T00:00:00.000Z"},
      {TIDE_TIME_MIN - 1, "0000-01-01T00:00:00.000Z"},
      {INT64_MIN, "0000-01-01T00:00:00.000Z"},
      {TIDE_TIME_MAX, "9999-12-31T23:59:59.999Z"},
      {TIDE_TIME_MAX + 1, "9999-12-31T23:59:59.999Z"},
      {INT64_MAX, "9999-12-31T23:59:59.999Z"},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    char text[TIDE_TIME_TEXT];
    tide__time_format(rows[i].time, text);
    assert_string_equal(text, rows[i].text);
  }
}

static void test_each_day_is_written_as_the_c_library_does_and_read_back(void **state) {
  (void)state;
  const int64_t day = 86400000;
  int64_t of_day = 0;
  for (int64_t start = TIDE_TIME_MIN; start <= TIDE_TIME_MAX; start += day) {
    char text[TIDE_TIME_TEXT], expected[64];
    of_day = (of_day + 12345677) % day;
    const int64_t moment = start + of_day;
    int64_t back = 0;
    const int64_t ms = ((moment % 1000) + 1000) % 1000;
    const time_t seconds = (time_t)((moment - ms) / 1000);
    struct tm tm;
    assert_non_null(gmtime_r(&seconds, &tm));
    snprintf(expected, sizeof expected, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900,
             tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)ms);
    tide__time_format(moment, text);
    if (strcmp(text, expected) != 0) fail_msg("%s is not %s", text, expected);
    if (!tide__time_parse(text, strlen(text), &back) || back != moment) fail_msg("%s", text);
  }
}

/* ---- Ids ------------------------------------------------------------------ */

static void test_ids_are_unique_and_sort_as_they_were_made(void **state) {
  (void)state;
  enum { many = 100000 };
  static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  char last[TIDE_ID_SIZE + 1] = "", id[TIDE_ID_SIZE + 1];
  tide_error error = {0};
  for (int i = 0; i < many; i++) {
    assert_int_equal(tide__id_new(id, &error), TIDE_OK);
    assert_int_equal(strlen(id), TIDE_ID_SIZE);
    assert_int_equal(strspn(id, digits), TIDE_ID_SIZE);
    if (strcmp(last, id) >= 0) fail_msg("%s after %s", id, last); /* so all are unique */
    strcpy(last, id);
  }
  assert_int_equal(tide__check_name("id", id, strlen(id), &error), TIDE_OK);
}

static void test_an_id_begins_with_its_time(void **state) {
  (void)state;
  static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
  char id[TIDE_ID_SIZE + 1];
  const int64_t before = tide__now();
  assert_int_equal(tide__id_new(id, NULL), TIDE_OK);
  int64_t ms = 0;
  for (int i = 0; i < 10; i++)
    ms = ms * 32 + (strchr(digits, id[i]) - digits);
  assert_in_range(ms, before, tide__now());
}

static void test_random_bits_vary(void **state) {
  (void)state;
  uint64_t all = 0, none = UINT64_MAX, last = 0;
  for (int i = 0; i < 200; i++) { /* each bit was 0 and 1: a miss has odds of 2^-192 */
    uint64_t bits = last;
    assert_int_equal(tide__random(&bits, NULL), TIDE_OK);
    assert_true(bits != last);
    last = bits;
    all |= bits;
    none &= bits;
  }
  assert_true(all == UINT64_MAX && none == 0);
}

/* ---- BSON documents -------------------------------------------------------- */

static const char *check_copy(const uint8_t *data, size_t size, int depth) {
  uint8_t *exact = malloc(size > 0 ? size : 1); /* the sanitizer sees one byte too far */
  assert_non_null(exact);
  if (size > 0) memcpy(exact, data, size);
  const char *why = tide__bson_check(exact, size, depth);
  free(exact);
  return why;
}

static bson_t *sample_document(void) {
  bson_t *bson = bson_new(), inner, list;
  bson_append_int32(bson, "i", -1, -1);
  bson_append_int64(bson, "l", -1, INT64_MIN);
  bson_append_double(bson, "d", -1, -0.0);
  bson_append_bool(bson, "b", -1, true);
  bson_append_null(bson, "n", -1);
  bson_append_utf8(bson, "", -1, "a\0\xc3\xa4", 4);
  bson_append_binary(bson, "bin", -1, BSON_SUBTYPE_BINARY, (const uint8_t *)"\xff\0", 2);
  bson_append_document_begin(bson, "\xc3\xa4", -1, &inner);
  bson_append_array_begin(&inner, "list", -1, &list);
  bson_append_utf8(&list, "0", -1, "", 0);
  bson_append_array_end(&inner, &list);
  bson_append_document_end(bson, &inner);
  return bson;
}

static void test_a_sound_document_is_accepted_and_no_cut_of_it(void **state) {
  (void)state;
  bson_t *bson = sample_document();
  const uint8_t *data = bson_get_data(bson);
  assert_null(check_copy(data, bson->len, 3));
  assert_non_null(check_copy(data, bson->len, 2));
  for (size_t size = 0; size < bson->len; size++) {
    assert_non_null(check_copy(data, size, 3));
    uint8_t *framed = malloc(bson->len); /* the same with a frame that is right */
    assert_non_null(framed);
    memcpy(framed, data, bson->len);
    if (size >= 5) {
      framed[0] = (uint8_t)size;
      framed[1] = (uint8_t)(size >> 8);
      framed[size - 1] = 0;
      bson_t view;
      const char *why = check_copy(framed, size, 3);
      /* what is accepted is what libbson accepts, too */
      if (why == NULL)
        assert_true(bson_init_static(&view, framed, size) &&
                    bson_validate(&view, BSON_VALIDATE_NONE, NULL));
    }
    free(framed);
  }
  bson_destroy(bson);
}

static void test_a_changed_byte_never_passes_what_libbson_refuses(void **state) {
  (void)state;
  bson_t *bson = sample_document(), view;
  const size_t size = bson->len;
  uint8_t *bytes = malloc(size);
  assert_non_null(bytes);
  for (size_t at = 0; at < size; at++) {
    for (int value = 0; value < 256; value++) {
      memcpy(bytes, bson_get_data(bson), size);
      bytes[at] = (uint8_t)value;
      if (tide__bson_check(bytes, size, 3) == NULL)
        assert_true(bson_init_static(&view, bytes, size) &&
                    bson_validate(&view, BSON_VALIDATE_UTF8 | BSON_VALIDATE_UTF8_ALLOW_NULL, NULL));
    }
  }
  free(bytes);
  bson_destroy(bson);
}

static void test_types_that_are_not_stored_are_refused(void **state) {
  (void)state;
  bson_t *bson = bson_new();
  bson_append_date_time(bson, "t", -1, 0);
  assert_non_null(tide__bson_check(bson_get_data(bson), bson->len, TIDE_DEPTH_MAX));
  bson_reinit(bson);
  bson_append_regex(bson, "r", -1, "a", "");
  assert_non_null(tide__bson_check(bson_get_data(bson), bson->len, TIDE_DEPTH_MAX));
  bson_reinit(bson);
  bson_append_code(bson, "c", -1, "x");
  assert_non_null(tide__bson_check(bson_get_data(bson), bson->len, TIDE_DEPTH_MAX));
  bson_reinit(bson);
  bson_append_undefined(bson, "u", -1);
  assert_non_null(tide__bson_check(bson_get_data(bson), bson->len, TIDE_DEPTH_MAX));
  bson_destroy(bson);
  assert_non_null(tide__bson_check(NULL, 0, TIDE_DEPTH_MAX));
  assert_non_null(tide__bson_check(NULL, 5, TIDE_DEPTH_MAX));
}

static void test_depth_is_limited_and_hostile_depth_is_survived(void **state) {
  (void)state;
  enum { frame = 8, most = 200000 }; /* type, "a", NUL, size ... NUL */
  for (size_t depth = 1; depth <= most; depth = depth < 80 ? depth + 1 : depth * 50) {
    const size_t size = 5 + (depth - 1) * frame;
    uint8_t *bytes = calloc(size, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < depth; i++) {
      const size_t inner = size - i * frame;
      uint8_t *at = bytes + i * (frame - 1);
      for (int k = 0; k < 4; k++)
        at[k] = (uint8_t)(inner >> (8 * k));
      if (i + 1 < depth) {
        at[4] = 0x03;
        at[5] = 'a';
      }
    }
    assert_true((tide__bson_check(bytes, size, TIDE_DEPTH_MAX) == NULL) ==
                (depth <= TIDE_DEPTH_MAX));
    assert_true((tide__bson_check(bytes, size, 1000000) == NULL) == (depth <= TIDE_BODY_DEPTH_MAX));
    free(bytes);
  }
}

/* ---- Commits -------------------------------------------------------------- */

static const uint8_t body_1[] = {14, 0, 0, 0, 0x10, 'n', 'u', 'm', 0, 1, 0, 0, 0, 0};
static const uint8_t body_2[] = {14, 0, 0, 0, 0x10, 'n', 'u', 'm', 0, 2, 0, 0, 0, 0};
static const uint8_t body_short[] = {5, 0, 0, 0, 0};

static tide_commit sample_commit(void) {
  return (tide_commit){.type = "Adder",
                       .id = "a",
                       .command_id = "command",
                       .version = 4,
                       .count = 3,
                       .body = body_1,
                       .body_size = sizeof body_1};
}

static void test_commit_check_wants_each_field_right(void **state) {
  (void)state;
  static const char name_256[] = A256, name_257[] = A256 "a";
  struct {
    tide_commit commit;
    int code;
    const char *argument;
  } rows[40];
  size_t count = 0;
#define ROW(field, value, result, name)                                                            \
  rows[count].commit = sample_commit(), rows[count].commit.field = (value),                        \
  rows[count].code = (result), rows[count++].argument = (name)
  ROW(type, "Adder", OK, "");
  ROW(type, name_256, OK, "");
  ROW(type, name_257, BAD, "aggregateType");
  ROW(type, NULL, NONE, "aggregateType");
  ROW(type, "", NONE, "aggregateType");
  ROW(type, "\xff", BAD, "aggregateType");
  ROW(id, name_256, OK, "");
  ROW(id, name_257, BAD, "aggregateId");
  ROW(id, NULL, NONE, "aggregateId");
  ROW(id, "", NONE, "aggregateId");
  ROW(id, "a\n", BAD, "aggregateId");
  ROW(command_id, NULL, OK, "");
  ROW(command_id, name_256, OK, "");
  ROW(command_id, name_257, BAD, "commandId");
  ROW(command_id, "", NONE, "commandId");
  ROW(version, 0, OK, "");
  ROW(version, -1, BAD, "version");
  ROW(version, INT64_MAX - INT32_MAX, OK, "");
  ROW(version, INT64_MAX, BAD, "version");
  ROW(version, INT64_MIN, BAD, "version");
  ROW(count, 1, OK, "");
  ROW(count, INT32_MAX, OK, "");
  ROW(count, 0, BAD, "count");
  ROW(count, -1, BAD, "count");
  ROW(count, INT32_MIN, BAD, "count");
  ROW(body, NULL, BAD, "body");
  ROW(body, body_short, BAD, "body");
  ROW(body_size, 0, BAD, "body");
  ROW(body_size, 4, BAD, "body");
  ROW(body_size, sizeof body_1 - 1, BAD, "body");
  ROW(body_size, (size_t)TIDE_BODY_MAX + 1, TIDE_LIMIT, "body");
  ROW(body_size, SIZE_MAX, TIDE_LIMIT, "body");
#undef ROW
  for (size_t i = 0; i < count; i++) {
    tide_error error = {0};
    const int got = tide__commit_check(&rows[i].commit, &error);
    check_error(&error, got, rows[i].code, rows[i].argument);
    assert_int_equal(tide__commit_check(&rows[i].commit, NULL), rows[i].code);
  }
}

static void test_seal_puts_a_commit_behind_the_head(void **state) {
  (void)state;
  tide_commit first = sample_commit(), second = sample_commit();
  tide_head head = {0};
  assert_int_equal(tide__commit_seal(&first, &head, 1000, NULL), TIDE_OK);
  assert_int_equal(first.position, 0);
  assert_int_equal(first.time, 1000);
  assert_int_equal(head.position, 3);
  assert_int_equal(head.time, 1000);
  assert_memory_equal(head.hash, first.hash, TIDE_HASH_SIZE);
  second.version = 7;
  assert_int_equal(tide__commit_seal(&second, &head, 900, NULL), TIDE_OK); /* the clock went back */
  assert_int_equal(second.position, 3);
  assert_int_equal(second.time, 1000);
  assert_int_equal(head.position, 6);
  assert_memory_not_equal(first.hash, second.hash, TIDE_HASH_SIZE);
  const tide_commit given = sample_commit(); /* what the writer gave is as it was */
  assert_string_equal(first.type, given.type);
  assert_int_equal(first.version, given.version);
  assert_int_equal(first.count, given.count);
  assert_ptr_equal(first.body, given.body);
}

static void test_seal_takes_a_first_time_before_1970(void **state) {
  (void)state;
  tide_commit commit = sample_commit();
  tide_head head = {0};
  assert_int_equal(tide__commit_seal(&commit, &head, -5000, NULL), TIDE_OK);
  assert_int_equal(commit.time, -5000);
  tide_head verified = {0};
  assert_int_equal(tide__commit_verify(&commit, &verified, NULL), TIDE_OK);
}

static void test_seal_fails_where_positions_run_out(void **state) {
  (void)state;
  tide_error error = {0};
  tide_commit commit = sample_commit(), before = commit;
  tide_head head = {.position = INT64_MAX - 2}, head_before = head;
  check_error(&error, tide__commit_seal(&commit, &head, 5, &error), TIDE_LIMIT, "position");
  assert_memory_equal(&commit, &before, sizeof commit);
  assert_memory_equal(&head, &head_before, sizeof head);
  head.position = INT64_MAX - 3;
  assert_int_equal(tide__commit_seal(&commit, &head, 5, NULL), TIDE_OK);
  assert_int_equal(head.position, INT64_MAX);
}

static void test_verify_follows_what_seal_made(void **state) {
  (void)state;
  tide_head sealed = {0}, verified = {0};
  for (int i = 0; i < 100; i++) {
    tide_commit commit = sample_commit();
    commit.version = i * 3;
    commit.body = i % 2 == 0 ? body_1 : body_2;
    commit.command_id = i % 3 == 0 ? "c" : NULL;
    assert_int_equal(tide__commit_seal(&commit, &sealed, i % 7 * 100, NULL), TIDE_OK);
    assert_int_equal(tide__commit_verify(&commit, &verified, NULL), TIDE_OK);
    assert_memory_equal(&sealed, &verified, sizeof sealed);
  }
}

static void test_verify_notices_each_altered_field(void **state) {
  (void)state;
  tide_head start = {0};
  tide_commit first = sample_commit(), good = sample_commit();
  good.version = 7;
  assert_int_equal(tide__commit_seal(&first, &start, 1000, NULL), TIDE_OK);
  tide_head sealed = start;
  assert_int_equal(tide__commit_seal(&good, &sealed, 2000, NULL), TIDE_OK);
  struct {
    const char *what;
    tide_commit commit;
  } rows[40];
  size_t count = 0;
#define ALTERED(field, value)                                                                      \
  rows[count].what = #field " = " #value, rows[count].commit = good,                               \
  rows[count++].commit.field = (value)
  ALTERED(type, "Adderx");
  ALTERED(type, "adder");
  ALTERED(id, "b");
  ALTERED(id, "aa");
  ALTERED(command_id, "other");
  ALTERED(command_id, NULL);
  ALTERED(version, 6);
  ALTERED(version, 8);
  ALTERED(version, 7 + (INT64_C(1) << 32));
  ALTERED(count, 2);
  ALTERED(count, 4);
  ALTERED(body, body_2);
  ALTERED(body_size, sizeof body_1 - 1);
  ALTERED(position, 2);
  ALTERED(position, 4);
  ALTERED(position, 0);
  ALTERED(time, 1999);
  ALTERED(time, 2001);
  ALTERED(time, 999); /* before the one before it */
#undef ALTERED
  for (size_t i = 0; i < TIDE_HASH_SIZE; i += 31) { /* its first and its last byte */
    rows[count].what = "hash";
    rows[count].commit = good;
    rows[count++].commit.hash[i] ^= 1;
  }
  for (size_t i = 0; i < count; i++) {
    tide_error error = {0};
    tide_head head = start;
    if (tide__commit_verify(&rows[i].commit, &head, &error) != TIDE_STORE)
      fail_msg("not noticed: %s", rows[i].what);
    assert_int_equal(error.code, TIDE_STORE);
    assert_true(error.message[0] != '\0');
    assert_memory_equal(&head, &start, sizeof head);
    assert_int_equal(tide__commit_verify(&rows[i].commit, &head, NULL), TIDE_STORE);
  }
  tide_head other = start;
  other.hash[0] ^= 1; /* a commit before it was altered */
  assert_int_equal(tide__commit_verify(&good, &other, NULL), TIDE_STORE);
  tide_head head = start;
  assert_int_equal(tide__commit_verify(&good, &head, NULL), TIDE_OK);
  assert_memory_equal(&head, &sealed, sizeof head);
}

static void test_behind_a_tombstone_only_the_hash_is_taken_as_it_is(void **state) {
  (void)state;
  static const uint8_t body[] = {5, 0, 0, 0, 0};
  tide_error error = {0};
  tide_commit stone = {.type = TIDE_TOMBSTONE, .id = "1", .count = 3, .body = body, .body_size = 5};
  tide_commit behind = {.type = "Adder", .id = "a", .count = 1, .body = body, .body_size = 5};
  tide_head head = {0}, sealed;
  assert_int_equal(tide__commit_seal(&stone, &head, 1000, &error), TIDE_OK);
  sealed = head;
  sealed.hash[7] ^= 1; /* of what was lost */
  assert_int_equal(tide__commit_seal(&behind, &sealed, 1000, &error), TIDE_OK);
  assert_true(tide__commit_is_tombstone(&stone));
  assert_false(tide__commit_is_tombstone(&behind));
  tide_head after = head;
  assert_int_equal(tide__commit_verify(&behind, &after, &error), TIDE_STORE);
  assert_int_equal(tide__commit_verify_torn(&behind, &after, &error), TIDE_OK);
  assert_int_equal(after.position, 4);
  assert_int_equal(after.time, 1000);
  assert_memory_equal(after.hash, behind.hash, TIDE_HASH_SIZE);
  tide_commit wrong = behind;
  wrong.position++;
  after = head;
  assert_int_equal(tide__commit_verify_torn(&wrong, &after, &error), TIDE_STORE);
  wrong = behind;
  wrong.time--;
  assert_int_equal(tide__commit_verify_torn(&wrong, &after, &error), TIDE_STORE);
  assert_memory_equal(&after, &head, sizeof head);
}

typedef struct found {
  tide__link link; /* first member */
  char name[16];
} found;

static size_t links_freed;

static void count_link(tide__link *link) {
  (void)link;
  links_freed++;
}

static void test_a_map_finds_what_was_added_and_not_removed(void **state) {
  (void)state;
  enum { many = 1000 };
  static found all[many];
  tide__map map = {0};
  assert_null(tide__map_find(&map, "0", "", ""));
  for (int i = 0; i < many; i++) {
    snprintf(all[i].name, sizeof all[i].name, "%d", i);
    all[i].link.key[0] = i % 2 == 0 ? all[i].name : "x";
    all[i].link.key[1] = i % 2 == 0 ? "x" : all[i].name; /* the parts do not run together */
    all[i].link.key[2] = "";
    assert_int_equal(tide__map_add(&map, &all[i].link), 1);
  }
  for (int i = 0; i < many; i += 3)
    tide__map_remove(&map, &all[i].link);
  for (int i = 0; i < many; i++)
    assert_ptr_equal(tide__map_find(&map, all[i].link.key[0], all[i].link.key[1], ""),
                     i % 3 == 0 ? NULL : &all[i].link);
  assert_null(tide__map_find(&map, "1x", "", ""));
  assert_null(tide__map_find(&map, "x", "1", "x"));
  links_freed = 0;
  tide__map_free(&map, count_link);
  assert_int_equal(links_freed, many - (many + 2) / 3);
  assert_null(tide__map_find(&map, "x", "1", ""));
  tide__map_free(&map, NULL);
}

static void test_texts_cannot_move_from_one_field_to_the_next(void **state) {
  (void)state;
  static const struct {
    const char *type, *id;
  } rows[] = {{"ab", "c"}, {"a", "bc"}, {"abc", "c"}, {"abc", "abc"}};
  uint8_t hashes[COUNT(rows)][TIDE_HASH_SIZE];
  for (size_t i = 0; i < COUNT(rows); i++) {
    tide_head head = {0};
    tide_commit commit = sample_commit();
    commit.type = rows[i].type;
    commit.id = rows[i].id;
    assert_int_equal(tide__commit_seal(&commit, &head, 1000, NULL), TIDE_OK);
    memcpy(hashes[i], commit.hash, TIDE_HASH_SIZE);
    for (size_t k = 0; k < i; k++)
      assert_memory_not_equal(hashes[i], hashes[k], TIDE_HASH_SIZE);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_code_has_its_name),
      cmocka_unit_test(test_version_is_the_headers),
      cmocka_unit_test(test_fail_fills_all_and_returns_its_code),
      cmocka_unit_test(test_fail_may_have_no_error_to_fill),
      cmocka_unit_test(test_long_texts_are_cut_at_whole_characters),
      cmocka_unit_test(test_bytes_that_are_no_text_are_cut_somewhere),
      cmocka_unit_test(test_utf8_is_each_code_point_and_nothing_else),
      cmocka_unit_test(test_tenants_follow_their_rule),
      cmocka_unit_test(test_names_follow_their_rule),
      cmocka_unit_test(test_paths_follow_their_rule),
      cmocka_unit_test(test_messages_show_a_shortened_value),
      cmocka_unit_test(test_now_is_the_systems_time),
      cmocka_unit_test(test_times_are_read),
      cmocka_unit_test(test_rubbish_is_no_time),
      cmocka_unit_test(test_only_the_given_bytes_are_read),
      cmocka_unit_test(test_times_are_written),
      cmocka_unit_test(test_each_day_is_written_as_the_c_library_does_and_read_back),
      cmocka_unit_test(test_ids_are_unique_and_sort_as_they_were_made),
      cmocka_unit_test(test_an_id_begins_with_its_time),
      cmocka_unit_test(test_random_bits_vary),
      cmocka_unit_test(test_a_sound_document_is_accepted_and_no_cut_of_it),
      cmocka_unit_test(test_a_changed_byte_never_passes_what_libbson_refuses),
      cmocka_unit_test(test_types_that_are_not_stored_are_refused),
      cmocka_unit_test(test_depth_is_limited_and_hostile_depth_is_survived),
      cmocka_unit_test(test_commit_check_wants_each_field_right),
      cmocka_unit_test(test_seal_puts_a_commit_behind_the_head),
      cmocka_unit_test(test_seal_takes_a_first_time_before_1970),
      cmocka_unit_test(test_seal_fails_where_positions_run_out),
      cmocka_unit_test(test_verify_follows_what_seal_made),
      cmocka_unit_test(test_verify_notices_each_altered_field),
      cmocka_unit_test(test_behind_a_tombstone_only_the_hash_is_taken_as_it_is),
      cmocka_unit_test(test_a_map_finds_what_was_added_and_not_removed),
      cmocka_unit_test(test_texts_cannot_move_from_one_field_to_the_next),
  };
  return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
