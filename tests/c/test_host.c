/* test_host.c - engine/host, as a host application uses it: every function of tidelog.h,
** with the repository's own domain and with one that goes wrong in all the ways. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bson/bson.h>
#include <cmocka.h>

#include "tidelog.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* A failed allocation is a case here, not the sanitizers' business. */
TIDE_API const char *__asan_default_options(void);
TIDE_API const char *__tsan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1:max_allocation_size_mb=512";
}
const char *__tsan_default_options(void) {
  return "allocator_may_return_null=1:max_allocation_size_mb=512";
}

/* ---- Folders ---------------------------------------------------------------------- */

static char root[] = "/tmp/tidelog-host-XXXXXX";

/* A path below the test's folder, valid until the eighth next one. */
static const char *path_of(const char *format, ...) {
  static char paths[8][512];
  static unsigned next;
  char *path = paths[next++ % COUNT(paths)];
  int length = snprintf(path, sizeof paths[0], "%s/", root);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(path + length, sizeof paths[0] - (size_t)length, format, arguments);
  va_end(arguments);
  return path;
}

static void make_folder(const char *path) {
  if (mkdir(path, 0755) != 0 && errno != EEXIST) fail_msg("%s: %s", path, strerror(errno));
}

static void write_file(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
}

/* A new domain with these files; NULL: none. */
static const char *make_domain(const char *name, const char *aggregate, const char *handler) {
  make_folder(path_of("%s", name));
  make_folder(path_of("%s/aggregates", name));
  if (aggregate != NULL) write_file(path_of("%s/aggregates/only.lua", name), aggregate);
  if (handler != NULL) {
    make_folder(path_of("%s/handlers", name));
    write_file(path_of("%s/handlers/only.lua", name), handler);
  }
  return path_of("%s", name);
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *place) {
  (void)status, (void)kind, (void)place;
  return remove(path);
}

/* A new uri of a store in files. */
static const char *new_uri(void) {
  static char uri[512];
  static int number;
  snprintf(uri, sizeof uri, "sqlite:%s/data%d", root, ++number);
  return uri;
}

/* ---- The domain that goes wrong ------------------------------------------------------ */

static const char probe[] =
    "local Err = require 'tidelog.err'\n"
    "local Probe = { name = 'Probe', path = '/probes' }\n"
    "function Probe:init() self.sum = 0 end\n"
    "Probe.commands = {\n"
    "  Add = function(self, context) context:push 'Added' end,\n"
    "  Keep = function(self, context) context:push 'Kept' end,\n"
    "  Many = function(self, context)\n"
    "    for _ = 1, context.payload.times do context:push 'Kept' end\n"
    "  end,\n"
    "  Divide = function(self, context) context:push 'Divided' end,\n"
    "  Nothing = function() end,\n"
    "  Refuse = function() error(Err.precondition 'missing left side') end,\n"
    "  RaiseText = function() error('one line\\n\\tand another', 0) end,\n"
    "  RaiseTable = function() error { message = 'own' } end,\n"
    "  RaiseNil = function() error() end,\n"
    "  RaiseBroken = function()\n"
    "    error(setmetatable({}, { __tostring = function() error 'no' end }))\n"
    "  end,\n"
    "  RaiseLong = function() error(('\\u{e4}'):rep(10000), 0) end,\n"
    "  UseMemory = function() return ('x'):rep(1 << 30) end,\n"
    "  UseStack = function(self, context) self:forever() end,\n"
    "  PushUnknown = function(self, context) context:push 'Unknown' end,\n"
    "  Manage = { roles = { 'manager' }, handle = function(self, context)\n"
    "    context:push 'Added'\n"
    "  end },\n"
    "}\n"
    "function Probe:forever() return self:forever() + 1 end\n"
    "Probe.events = {\n"
    "  Added = function(self, event) self.sum = self.sum + event.payload.n end,\n"
    "  Kept = function(self) self.sum = self.sum + 1 end,\n"
    "  Divided = function(self) self.none, self.most = 0 / 0, 1 / 0 end,\n"
    "}\n"
    "return Probe\n";

static const char counters[] =
    "local Picky = { name = 'Picky' }\n"
    "Picky.events = { Added = function(self, tenant, event)\n"
    "  local doc = self.db:doc '/picky'\n"
    "  doc:set { last = event.position }\n"
    "  if event.payload.n == 13 then error('13\\nis unlucky', 0) end\n"
    "end }\n"
    "return Picky\n";

static const char counter[] =
    "local Counter = { name = 'Counter' }\n"
    "Counter.events = { Added = function(self, tenant, event)\n"
    "  local doc = self.db:doc '/counter'\n"
    "  doc:set { count = ((doc:get() or {}).count or 0) + 1 }\n"
    "end }\n"
    "return Counter\n";

static char probe_domain[512];

static int make_root(void **state) {
  (void)state;
  if (mkdtemp(root) == NULL) return -1;
  strcpy(probe_domain, make_domain("probe", probe, counters));
  write_file(path_of("probe/handlers/another.lua"), counter);
  return 0;
}

static int remove_root(void **state) {
  (void)state;
  return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- Calls -------------------------------------------------------------------------------- */

static const tide_actor user = {.id = "user1", .tenant = "tenant1", .name = "user 1"};

/* What an error holds that no function has touched. */
static tide_error fresh(void) {
  tide_error error;
  memset(&error, 0x5A, sizeof error);
  return error;
}

#define SUCCEEDS(call)                                                                             \
  do {                                                                                             \
    tide_error error = fresh(), untouched = fresh();                                               \
    if ((call) != TIDE_OK) fail_msg("%s: %s", tide_error_name(error.code), error.message);         \
    assert_memory_equal(&error, &untouched, sizeof error);                                         \
  } while (0)

/* The call must fail with this code about this argument, also where nobody wants to know
** more; leaves the error in `last`. */
static tide_error last;

static void check_error(int code, int wanted, const char *argument, const tide_error *error) {
  if (code != wanted || error->code != wanted)
    fail_msg("%s, not %s: %s", tide_error_name(code), tide_error_name(wanted), error->message);
  if (argument != NULL) assert_string_equal(error->argument, argument);
  assert_true(error->message[0] != '\0');
  assert_true(bson_utf8_validate(error->message, strlen(error->message), false));
  for (const char *at = error->message; *at != '\0'; at++)
    assert_true((unsigned char)*at >= ' ');
  last = *error;
}

#define FAILS(wanted, about, call)                                                                 \
  do {                                                                                             \
    tide_error error_ = fresh(), *error = &error_;                                                 \
    check_error((call), wanted, about, error);                                                     \
    error = NULL;                                                                                  \
    assert_int_equal((call), wanted);                                                              \
  } while (0)

static tide_engine *open_engine(const char *uri, const char *domain) {
  tide_options options = {.domain = domain};
  tide_engine *engine = NULL;
  SUCCEEDS(tide_open(uri, &options, &engine, &error));
  assert_non_null(engine);
  return engine;
}

static tide_engine *open_probe(void) {
  return open_engine("memory:", probe_domain);
}

static tide_data json(const char *text) {
  return (tide_data){TIDE_JSON, text, 0};
}

static void send(tide_engine *engine, const char *command, const char *payload) {
  tide_data data = json(payload);
  SUCCEEDS(tide_command(engine, &user, command, &data, TIDE_JSON, NULL, &error));
}

/* The same with its answer, which the caller frees. */
static tide_buffer ask(tide_engine *engine, const char *command, const char *payload,
                       tide_format format) {
  tide_data data = json(payload);
  tide_buffer answer = {(char *)"none", 4};
  SUCCEEDS(tide_command(engine, &user, command, &data, format, &answer, &error));
  return answer;
}

#define REFUSES(wanted, about, engine, command, payload)                                           \
  do {                                                                                             \
    tide_data data_ = json(payload);                                                               \
    tide_buffer answer_ = {(char *)"none", 4};                                                     \
    FAILS(wanted, about,                                                                           \
          tide_command(engine, &user, command, &data_, TIDE_JSON, &answer_, error));               \
    assert_null(answer_.data);                                                                     \
    assert_int_equal(answer_.size, 0);                                                             \
  } while (0)

/* Finds a dotted path in what the library gave; JSON is read by libbson, not by us. */
static bson_value_t value_at(const tide_buffer *buffer, tide_format format, const char *path) {
  bson_error_t problem;
  bson_iter_t iter, at;
  bson_value_t value;
  assert_non_null(buffer->data);
  if (format == TIDE_JSON) assert_int_equal(strlen(buffer->data), buffer->size);
  bson_t *read = format == TIDE_JSON ? bson_new_from_json((const uint8_t *)buffer->data,
                                                          (ssize_t)buffer->size, &problem)
                                     : bson_new_from_data((uint8_t *)buffer->data, buffer->size);
  if (read == NULL) fail_msg("cannot be read: %.*s", (int)buffer->size, buffer->data);
  if (!bson_iter_init(&iter, read) || !bson_iter_find_descendant(&iter, path, &at))
    fail_msg("there is no %s", path);
  bson_value_copy(bson_iter_value(&at), &value);
  bson_destroy(read);
  return value;
}

static int64_t int_in(const tide_buffer *buffer, tide_format format, const char *path) {
  bson_value_t value = value_at(buffer, format, path);
  if (value.value_type == BSON_TYPE_INT64) return value.value.v_int64;
  if (value.value_type == BSON_TYPE_BOOL) return value.value.v_bool;
  assert_int_equal(value.value_type, BSON_TYPE_INT32);
  return value.value.v_int32;
}

static void text_in(const tide_buffer *buffer, tide_format format, const char *path,
                    const char *wanted) {
  bson_value_t value = value_at(buffer, format, path);
  assert_int_equal(value.value_type, BSON_TYPE_UTF8);
  assert_string_equal(value.value.v_utf8.str, wanted);
  bson_value_destroy(&value);
}

static tide_buffer load(tide_engine *engine, const char *aggregate, const char *id,
                        const tide_at *at) {
  tide_buffer state = {0};
  SUCCEEDS(tide_load(engine, "tenant1", aggregate, id, at, TIDE_BSON, &state, &error));
  return state;
}

static int64_t sum_of(tide_engine *engine, const char *id, const tide_at *at) {
  tide_buffer state = load(engine, "Probe", id, at);
  int64_t sum = int_in(&state, TIDE_BSON, "state.sum");
  tide_free(&state);
  return sum;
}

/* How many events the tenant has, counted by reading them. */
static int count_events(tide_engine *engine, const char *filter) {
  tide_data data = json(filter);
  tide_reader *reader = NULL;
  int count = 0;
  SUCCEEDS(tide_read(engine, "tenant1", filter == NULL ? NULL : &data, &reader, &error));
  for (;;) {
    tide_buffer event = {0};
    SUCCEEDS(tide_read_next(reader, TIDE_JSON, &event, &error));
    if (event.data == NULL) break;
    count++;
    tide_free(&event);
  }
  tide_read_close(reader);
  return count;
}

/* ---- open and close --------------------------------------------------------------------- */

static void open_fails(int code, const char *argument, const char *uri, const char *domain) {
  tide_options options = {.domain = domain};
  tide_engine *engine = (tide_engine *)&options;
  FAILS(code, argument, tide_open(uri, &options, &engine, error));
  assert_null(engine);
}

static void test_open_wants_a_uri_and_a_place(void **state) {
  (void)state;
  tide_engine *engine = NULL;
  FAILS(TIDE_MISSING_ARGUMENT, "engine", tide_open("memory:", NULL, NULL, error));
  open_fails(TIDE_MISSING_ARGUMENT, "uri", NULL, probe_domain);
  open_fails(TIDE_MISSING_ARGUMENT, "uri", "", probe_domain);
  open_fails(TIDE_INVALID_ARGUMENT, "uri", "nowhere", probe_domain);
  open_fails(TIDE_INVALID_ARGUMENT, "uri", "postgres:x", probe_domain);
  open_fails(TIDE_INVALID_ARGUMENT, "uri", "sqlite:", probe_domain);
  open_fails(TIDE_STORE, NULL, "sqlite:/dev/null", probe_domain);
  tide_options negative = {.domain = probe_domain, .busy_timeout = -1};
  FAILS(TIDE_INVALID_ARGUMENT, "busyTimeout", tide_open("memory:", &negative, &engine, error));
  negative = (tide_options){.domain = probe_domain, .cache_size = -1};
  FAILS(TIDE_INVALID_ARGUMENT, "cacheSize", tide_open("memory:", &negative, &engine, error));
}

static void test_open_says_what_is_wrong_with_a_domain(void **state) {
  (void)state;
  open_fails(TIDE_INVALID_ARGUMENT, "domain", "memory:", "");
  open_fails(TIDE_INVALID_ARGUMENT, "domain", "memory:", path_of("missing"));
  open_fails(TIDE_INVALID_ARGUMENT, "domain", "memory:", make_domain("nothing", "return", NULL));
  open_fails(TIDE_INVALID_ARGUMENT, "domain", "memory:", make_domain("number", "return 1", NULL));
  open_fails(TIDE_NOT_IMPLEMENTED, "commands",
             "memory:", make_domain("empty", "return { name = 'Empty', events = {} }", NULL));
  open_fails(TIDE_NOT_IMPLEMENTED, "events",
             "memory:", make_domain("half", "return { name = 'Half', commands = {} }", NULL));
  open_fails(TIDE_DOMAIN, NULL, "memory:", make_domain("syntax", "return {", NULL));
  assert_non_null(strstr(last.message, "only.lua:1:"));
  open_fails(TIDE_DOMAIN, NULL, "memory:", make_domain("raises", "error 'by itself'", NULL));
  assert_non_null(strstr(last.message, "by itself"));
  open_fails(TIDE_DOMAIN, NULL, "memory:", make_domain("lacks", "require 'no.such.one'", NULL));
  open_fails(TIDE_PRECONDITION, NULL, "memory:",
             make_domain("ours", "error(require 'tidelog.err'.precondition 'ours')", NULL));
  open_fails(TIDE_DOMAIN, NULL, "memory:", make_domain("handler", probe, "return )"));
}

static void test_a_domain_may_lie_in_any_folder(void **state) {
  (void)state;
  tide_engine *engine = open_engine("memory:", make_domain("what? a;b % folder", probe, NULL));
  send(engine, "Add", "{\"n\": 1}");
  tide_close(engine);
}

static void test_the_default_domain_is_the_current_folder(void **state) {
  (void)state;
  tide_engine *engine = NULL;
  char before[512];
  assert_non_null(getcwd(before, sizeof before));
  assert_int_equal(chdir(probe_domain), 0);
  SUCCEEDS(tide_open("memory:", NULL, &engine, &error));
  assert_int_equal(chdir(before), 0);
  send(engine, "Add", "{\"n\": 1}");
  tide_close(engine);
}

static void test_nothing_is_closed_and_freed_without_harm(void **state) {
  (void)state;
  tide_close(NULL);
  tide_read_close(NULL);
  tide_free(NULL);
  tide_buffer buffer = {0};
  tide_free(&buffer);
  tide_engine *engine = open_probe();
  buffer = ask(engine, "Add", "{\"n\": 1}", TIDE_JSON);
  tide_free(&buffer);
  assert_null(buffer.data);
  assert_int_equal(buffer.size, 0);
  tide_free(&buffer);
  tide_close(engine);
}

/* ---- the examples -------------------------------------------------------------------------- */

static void try_examples(const char *uri) {
  const char *source = getenv("TIDELOG_SOURCE");
  tide_engine *engine = open_engine(uri, source == NULL ? "." : source);
  static const char *const keys[][2] = {
      {"PressDigit", "{\"aggregateId\":\"c1\",\"digit\":\"1\"}"},
      {"PressOperator", "{\"aggregateId\":\"c1\",\"operator\":\"+\"}"},
      {"PressDigit", "{\"aggregateId\":\"c1\",\"digit\":\"2\"}"},
      {"PressEquals", "{\"aggregateId\":\"c1\"}"}};
  for (size_t i = 0; i < COUNT(keys); i++)
    send(engine, keys[i][0], keys[i][1]);
  tide_buffer state = load(engine, "calculators", "c1", NULL);
  bson_value_t result = value_at(&state, TIDE_BSON, "state.result");
  assert_int_equal(result.value_type, BSON_TYPE_DOUBLE);
  assert_true(result.value.v_double == 3.0);
  tide_free(&state);
  REFUSES(TIDE_PRECONDITION, "", engine, "PressEquals", "{\"aggregateId\":\"c2\"}");
  assert_string_equal(last.message, "missing right side");

  send(engine, "AddNumbers", "{\"aggregateId\":\"a1\",\"number1\":1,\"number2\":2}");
  send(engine, "SubtractNumbers", "{\"aggregateId\":\"a1\",\"number1\":3,\"number2\":4}");
  REFUSES(TIDE_INVALID_ARGUMENT, "number1", engine, "AddNumbers", "{\"number1\":1.5}");
  int more = 1;
  SUCCEEDS(tide_poll(engine, "tenant1", "thread1", 0, &more, &error));
  assert_int_equal(more, 0);
  tide_buffer body = {0};
  SUCCEEDS(tide_doc(engine, "tenant1", "/counters/counter1", TIDE_JSON, &body, &error));
  assert_string_equal(body.data, "{\"eventCount\":2}");
  tide_free(&body);
  tide_close(engine);
}

static void test_the_examples_in_memory(void **state) {
  (void)state;
  try_examples("memory:");
}

static void test_the_examples_in_files_that_stay(void **state) {
  (void)state;
  char uri[512];
  strcpy(uri, new_uri());
  try_examples(uri);
  tide_engine *engine = open_engine(uri, probe_domain); /* another domain reads it, too */
  assert_int_equal(count_events(engine, NULL), 6);
  tide_close(engine);
}

/* ---- commands: what goes in and comes out ---------------------------------------------------- */

static void test_a_command_answers_in_both_formats(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  for (tide_format format = TIDE_JSON; format <= TIDE_BSON; format++) {
    char payload[128];
    snprintf(payload, sizeof payload,
             "{\"aggregateId\":\"p%d\",\"times\":2,\"x\":9007199254740993}", (int)format);
    tide_buffer answer = ask(engine, "Many", payload, format);
    text_in(&answer, format, "aggregateType", "Probe");
    text_in(&answer, format, "aggregateId", format == TIDE_JSON ? "p0" : "p1");
    assert_int_equal(int_in(&answer, format, "aggregateVersion"), 1);
    text_in(&answer, format, "command", "Many");
    assert_int_equal(int_in(&answer, format, "duplicate"), 0);
    text_in(&answer, format, "events.1.name", "Kept");
    assert_int_equal(int_in(&answer, format, "events.1.version"), 0);
    assert_int_equal(int_in(&answer, format, "events.1.aggregateVersion"), 1);
    assert_int_equal(int_in(&answer, format, "events.1.position"), 1 + 2 * (int)format);
    assert_true(int_in(&answer, format, "events.1.payload.x") == INT64_C(9007199254740993));
    bson_value_t time = value_at(&answer, format, "events.0.time");
    assert_int_equal(time.value.v_utf8.len, strlen("2026-11-23T09:00:00.000Z"));
    bson_value_destroy(&time);
    tide_free(&answer);
  }
  tide_close(engine);
}

static void test_a_payload_may_be_bson(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  bson_t *payload = BCON_NEW("aggregateId", BCON_UTF8("p1"), "n", BCON_INT64(INT64_MAX), "list",
                             "[", BCON_DOUBLE(-0.0), BCON_NULL, BCON_BOOL(true), "]");
  tide_data data = {TIDE_BSON, bson_get_data(payload), payload->len};
  tide_buffer answer = {0};
  SUCCEEDS(tide_command(engine, &user, "Keep", &data, TIDE_JSON, &answer, &error));
  assert_non_null(
      strstr(answer.data, "\"payload\":{\"list\":[-0.0,null,true],\"n\":9223372036854775807}"));
  tide_free(&answer);
  bson_destroy(payload);
  tide_close(engine);
}

static void test_a_payload_may_be_left_out(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  tide_buffer answer = {0};
  SUCCEEDS(tide_command(engine, &user, "Keep", NULL, TIDE_JSON, &answer, &error));
  assert_non_null(strstr(answer.data, "\"payload\":{}"));
  tide_free(&answer);
  answer = ask(engine, "Nothing", "{\"aggregateId\":\"p1\"}", TIDE_JSON);
  assert_int_equal(int_in(&answer, TIDE_JSON, "aggregateVersion"), -1);
  assert_non_null(strstr(answer.data, "\"events\":[]"));
  tide_free(&answer);
  tide_close(engine);
}

/* {"n":{"n": ... {} ... }} with so many documents; the caller frees it. */
static char *nested(int levels) {
  char *text = malloc((size_t)levels * 6 + 1), *at = text;
  assert_non_null(text);
  for (int i = 1; i < levels; i++)
    at = stpcpy(at, "{\"n\":");
  at = stpcpy(at, "{}");
  for (int i = 1; i < levels; i++)
    at = stpcpy(at, "}");
  return text;
}

static void test_what_was_written_can_be_answered_and_read(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  char *deep = nested(64), *deeper = nested(65);
  tide_buffer answer = ask(engine, "Keep", deep, TIDE_JSON);
  assert_non_null(strstr(answer.data, deep));
  tide_free(&answer);
  REFUSES(TIDE_INVALID_ARGUMENT, "payload", engine, "Keep", deeper);

  /* many events that share one large payload: far more than a document may have */
  size_t size = 4 << 20;
  char *large = malloc(size + 64);
  int length = sprintf(large, "{\"times\":6,\"text\":\"");
  memset(large + length, 'x', size);
  strcpy(large + length + size, "\"}");
  answer = ask(engine, "Many", large, TIDE_BSON);
  assert_true(answer.size > 6 * size);
  assert_int_equal(int_in(&answer, TIDE_BSON, "events.5.position"), 6);
  tide_free(&answer);
  free(large);

  assert_int_equal(count_events(engine, NULL), 7);
  free(deep);
  free(deeper);
  tide_close(engine);
}

static void test_rubbish_is_refused_and_nothing_written(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  static const char *const texts[] = {"",
                                      "{",
                                      "{\"n\":1",
                                      "{\"n\":1}x",
                                      "{\"n\":1}{}",
                                      "[1]",
                                      "1",
                                      "null",
                                      "{'n':1}",
                                      "{\"n\":NaN}",
                                      "{\"n\":1,\"n\":2}",
                                      "{\"n\":18446744073709551621}",
                                      "{\"n\":\"\xff\"}"};
  for (size_t i = 0; i < COUNT(texts); i++)
    REFUSES(TIDE_INVALID_ARGUMENT, "payload", engine, "Add", texts[i]);

  bson_t *good = BCON_NEW("n", BCON_INT32(1));
  uint8_t bytes[64];
  memcpy(bytes, bson_get_data(good), good->len);
  for (size_t size = 0; size <= good->len + 1; size++) {
    if (size == good->len) continue;
    tide_data cut = {TIDE_BSON, bytes, size};
    FAILS(TIDE_INVALID_ARGUMENT, "payload",
          tide_command(engine, &user, "Add", &cut, TIDE_JSON, NULL, error));
  }
  bson_t *foreign = BCON_NEW("n", BCON_DATE_TIME(1));
  tide_data data = {TIDE_BSON, bson_get_data(foreign), foreign->len};
  FAILS(TIDE_INVALID_ARGUMENT, "payload",
        tide_command(engine, &user, "Add", &data, TIDE_JSON, NULL, error));
  data.format = (tide_format)7;
  FAILS(TIDE_INVALID_ARGUMENT, "format",
        tide_command(engine, &user, "Add", &data, TIDE_JSON, NULL, error));
  data = (tide_data){TIDE_JSON, NULL, 0};
  FAILS(TIDE_MISSING_ARGUMENT, "payload",
        tide_command(engine, &user, "Add", &data, TIDE_JSON, NULL, error));
  data = (tide_data){TIDE_JSON, "{\"n\":1}garbage", 7}; /* only the size counts */
  SUCCEEDS(tide_command(engine, &user, "Add", &data, TIDE_JSON, NULL, &error));
  assert_int_equal(count_events(engine, NULL), 1);
  bson_destroy(foreign);
  bson_destroy(good);
  tide_close(engine);
}

static void test_too_large_is_a_limit(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  size_t size = 17 << 20;
  char *text = malloc(size + 16);
  int length = sprintf(text, "{\"text\":\"");
  memset(text + length, 'x', size);
  strcpy(text + length + size, "\"}");
  REFUSES(TIDE_LIMIT, "payload", engine, "Keep", text);
  bson_t document;
  bson_init(&document);
  bson_append_utf8(&document, "text", 4, text + length, (int)size);
  tide_data data = {TIDE_BSON, bson_get_data(&document), document.len};
  FAILS(TIDE_LIMIT, NULL, tide_command(engine, &user, "Keep", &data, TIDE_JSON, NULL, error));
  bson_destroy(&document);
  free(text);
  assert_int_equal(count_events(engine, NULL), 0);
  tide_close(engine);
}

static void test_a_command_wants_its_arguments(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  FAILS(TIDE_MISSING_ARGUMENT, "engine",
        tide_command(NULL, &user, "Add", NULL, TIDE_JSON, NULL, error));
  FAILS(TIDE_MISSING_ARGUMENT, "actor",
        tide_command(engine, NULL, "Add", NULL, TIDE_JSON, NULL, error));
  FAILS(TIDE_MISSING_ARGUMENT, "command",
        tide_command(engine, &user, NULL, NULL, TIDE_JSON, NULL, error));
  FAILS(TIDE_MISSING_ARGUMENT, "command",
        tide_command(engine, &user, "", NULL, TIDE_JSON, NULL, error));
  FAILS(TIDE_INVALID_ARGUMENT, "format",
        tide_command(engine, &user, "Keep", NULL, (tide_format)2, NULL, error));
  REFUSES(TIDE_INVALID_ARGUMENT, "command", engine, "Unknown", "{}");
  REFUSES(TIDE_INVALID_ARGUMENT, "command", engine, "add", "{}");
  REFUSES(TIDE_MISSING_ARGUMENT, "aggregateId", engine, "Keep", "{\"expectedVersion\":0}");
  REFUSES(TIDE_MISSING_ARGUMENT, "aggregateId", engine, "Keep", "{\"aggregateId\":\"\"}");
  REFUSES(TIDE_INVALID_ARGUMENT, "aggregateId", engine, "Keep", "{\"aggregateId\":5}");
  REFUSES(TIDE_INVALID_ARGUMENT, "aggregateId", engine, "Keep", "{\"aggregateId\":null}");
  REFUSES(TIDE_INVALID_ARGUMENT, "expectedVersion", engine, "Keep",
          "{\"aggregateId\":\"p\",\"expectedVersion\":\"0\"}");
  assert_int_equal(count_events(engine, NULL), 0);
  tide_close(engine);
}

static void actor_fails(tide_engine *engine, int code, const char *argument, tide_actor actor) {
  FAILS(code, argument, tide_command(engine, &actor, "Keep", NULL, TIDE_JSON, NULL, error));
}

static void test_bad_actors_are_refused(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  const char *const nobody[] = {"user", NULL}, *const empty[] = {""};
  actor_fails(engine, TIDE_MISSING_ARGUMENT, "id", (tide_actor){.tenant = "tenant1"});
  actor_fails(engine, TIDE_MISSING_ARGUMENT, "id", (tide_actor){.id = "", .tenant = "tenant1"});
  actor_fails(engine, TIDE_INVALID_ARGUMENT, "id", (tide_actor){.id = "\n", .tenant = "tenant1"});
  actor_fails(engine, TIDE_INVALID_ARGUMENT, "id", (tide_actor){.id = "\xff", .tenant = "t"});
  actor_fails(engine, TIDE_MISSING_ARGUMENT, "tenant", (tide_actor){.id = "u"});
  actor_fails(engine, TIDE_MISSING_ARGUMENT, "tenant", (tide_actor){.id = "u", .tenant = ""});
  actor_fails(engine, TIDE_INVALID_ARGUMENT, "tenant", (tide_actor){.id = "u", .tenant = "A B"});
  actor_fails(engine, TIDE_INVALID_ARGUMENT, "tenant", (tide_actor){.id = "u", .tenant = "../x"});
  actor_fails(engine, TIDE_INVALID_ARGUMENT, "name",
              (tide_actor){.id = "u", .tenant = "t", .name = "\xff"});
  actor_fails(engine, TIDE_MISSING_ARGUMENT, "roles",
              (tide_actor){.id = "u", .tenant = "t", .role_count = 1});
  actor_fails(engine, TIDE_INVALID_ARGUMENT, "roles",
              (tide_actor){.id = "u", .tenant = "t", .roles = nobody, .role_count = 2});
  actor_fails(engine, TIDE_INVALID_ARGUMENT, "roles",
              (tide_actor){.id = "u", .tenant = "t", .roles = empty, .role_count = 1});
  tide_close(engine);
}

static void test_roles_open_commands(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  static const char *const roles[] = {"user", "manager"};
  tide_actor actor = {.id = "u", .tenant = "tenant1", .roles = roles, .role_count = 1};
  tide_data data = json("{\"n\":1}");
  FAILS(TIDE_ACCESS_DENIED, "",
        tide_command(engine, &actor, "Manage", &data, TIDE_JSON, NULL, error));
  actor.role_count = 2;
  SUCCEEDS(tide_command(engine, &actor, "Manage", &data, TIDE_JSON, NULL, &error));
  assert_int_equal(count_events(engine, NULL), 1);
  tide_close(engine);
}

static void test_the_domains_errors_come_out_as_what_they_are(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  REFUSES(TIDE_PRECONDITION, "", engine, "Refuse", "{}");
  assert_string_equal(last.message, "missing left side");
  REFUSES(TIDE_DOMAIN, "", engine, "RaiseText", "{}");
  assert_string_equal(last.message, "one line  and another");
  REFUSES(TIDE_DOMAIN, "", engine, "RaiseTable", "{}");
  REFUSES(TIDE_DOMAIN, "", engine, "RaiseNil", "{}");
  REFUSES(TIDE_DOMAIN, "", engine, "RaiseBroken", "{}");
  REFUSES(TIDE_DOMAIN, "", engine, "RaiseLong", "{}");
  assert_int_equal(strlen(last.message), 510); /* 255 letters of two bytes */
  REFUSES(TIDE_DOMAIN, "", engine, "UseStack", "{}");
  REFUSES(TIDE_NOT_IMPLEMENTED, "Unknown", engine, "PushUnknown", "{}");
  REFUSES(TIDE_DOMAIN, "", engine, "Add", "{}"); /* its event function fails */
  assert_int_equal(count_events(engine, NULL), 0);
  send(engine, "Add", "{\"n\":1}");
  tide_close(engine);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static void limit_memory(bool limited) {
  (void)limited; /* the sanitizer's options above do */
}
#else
/* Leaves room for half of what UseMemory asks for. */
static void limit_memory(bool limited) {
  struct rlimit limit;
  long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  assert_non_null(file);
  assert_int_equal(fscanf(file, "%ld", &pages), 1);
  (void)fclose(file);
  assert_int_equal(getrlimit(RLIMIT_AS, &limit), 0);
  limit.rlim_cur = limited ? (rlim_t)(pages * sysconf(_SC_PAGESIZE) + (1L << 29)) : limit.rlim_max;
  assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
}
#endif

/* Valgrind preloads a library of its own. */
static bool under_valgrind(void) {
  const char *preloaded = getenv("LD_PRELOAD");
  return preloaded != NULL && strstr(preloaded, "vgpreload") != NULL;
}

static void test_a_failed_allocation_is_told_and_survived(void **state) {
  (void)state;
  if (under_valgrind()) skip(); /* which ends where it gets no memory itself */
  tide_engine *engine = open_probe();
  limit_memory(true);
  REFUSES(TIDE_NO_MEMORY, "", engine, "UseMemory", "{}");
  limit_memory(false);
  send(engine, "Add", "{\"n\":1}");
  tide_close(engine);
}

static void test_versions_are_compared_and_repeats_known(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  send(engine, "Add", "{\"aggregateId\":\"p\",\"n\":1,\"expectedVersion\":-1,\"commandId\":\"k\"}");
  REFUSES(TIDE_CONCURRENCY, "", engine, "Add",
          "{\"aggregateId\":\"p\",\"n\":1,\"expectedVersion\":-1}");
  REFUSES(TIDE_CONCURRENCY, "", engine, "Add",
          "{\"aggregateId\":\"p\",\"n\":1,\"expectedVersion\":1}");
  tide_buffer again =
      ask(engine, "Add",
          "{\"aggregateId\":\"p\",\"n\":1,\"expectedVersion\":-1,\"commandId\":\"k\"}", TIDE_BSON);
  assert_int_equal(int_in(&again, TIDE_BSON, "duplicate"), 1);
  assert_int_equal(int_in(&again, TIDE_BSON, "events.0.position"), 0);
  assert_int_equal(int_in(&again, TIDE_BSON, "aggregateVersion"), 0);
  text_in(&again, TIDE_BSON, "commandId", "k");
  tide_free(&again);
  assert_int_equal(count_events(engine, NULL), 1);
  tide_close(engine);
}

/* ---- load ----------------------------------------------------------------------------------- */

static void test_load_at_each_kind_of_moment(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  for (int n = 1; n <= 4; n++) { /* p: positions 0, 2, 4, 6 */
    char payload[64];
    snprintf(payload, sizeof payload, "{\"aggregateId\":\"p\",\"n\":%d}", n);
    send(engine, "Add", payload);
    send(engine, "Add", "{\"aggregateId\":\"q\",\"n\":100}");
  }
  static const struct {
    tide_at at;
    int sum;
  } rows[] = {{{TIDE_NOW, 77}, 10},       {{TIDE_AT_VERSION, -1}, 0},
              {{TIDE_AT_VERSION, 0}, 1},  {{TIDE_AT_VERSION, 3}, 10},
              {{TIDE_AT_POSITION, 0}, 1}, {{TIDE_AT_POSITION, 1}, 1},
              {{TIDE_AT_POSITION, 4}, 6}, {{TIDE_AT_TIME, 0}, 0},
              {{TIDE_AT_TIME, -1}, 0},    {{TIDE_AT_TIME, INT64_MAX}, 10}};
  assert_int_equal(sum_of(engine, "p", NULL), 10);
  for (size_t i = 0; i < COUNT(rows); i++)
    assert_int_equal(sum_of(engine, "p", &rows[i].at), rows[i].sum);

  static const char *const names[] = {"Probe", "/probes", "probes"};
  for (size_t i = 0; i < COUNT(names); i++) {
    tide_buffer shown = load(engine, names[i], "p", NULL);
    text_in(&shown, TIDE_BSON, "aggregateType", "Probe");
    text_in(&shown, TIDE_BSON, "aggregateId", "p");
    assert_int_equal(int_in(&shown, TIDE_BSON, "aggregateVersion"), 3);
    tide_free(&shown);
  }
  tide_buffer none = load(engine, "Probe", "none", NULL);
  assert_int_equal(int_in(&none, TIDE_BSON, "aggregateVersion"), -1);
  tide_free(&none);
  tide_close(engine);
}

static void test_a_state_shows_what_json_has_no_number_for(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  tide_buffer shown = {0};
  send(engine, "Divide", "{\"aggregateId\":\"p\"}");
  SUCCEEDS(tide_load(engine, "tenant1", "Probe", "p", NULL, TIDE_JSON, &shown, &error));
  text_in(&shown, TIDE_JSON, "state.none.$double", "NaN");
  text_in(&shown, TIDE_JSON, "state.most.$double", "Infinity");
  tide_free(&shown);
  tide_close(engine);
}

#define LOAD(tenant, aggregate, id, at)                                                            \
  tide_load(engine, tenant, aggregate, id, at, TIDE_JSON, &shown, error)

static void test_load_wants_its_arguments(void **state) {
  (void)state;
  tide_engine *engine = open_probe(), *none = NULL;
  tide_buffer shown = {0};
  tide_at bad = {(tide_at_kind)4, 0};
  send(engine, "Add", "{\"aggregateId\":\"p\",\"n\":1}");
  FAILS(TIDE_MISSING_ARGUMENT, "engine",
        tide_load(none, "tenant1", "Probe", "p", NULL, TIDE_JSON, &shown, error));
  FAILS(TIDE_MISSING_ARGUMENT, "state",
        tide_load(engine, "tenant1", "Probe", "p", NULL, TIDE_JSON, NULL, error));
  FAILS(TIDE_INVALID_ARGUMENT, "format",
        tide_load(engine, "tenant1", "Probe", "p", NULL, (tide_format)-1, &shown, error));
  FAILS(TIDE_MISSING_ARGUMENT, "tenant", LOAD(NULL, "Probe", "p", NULL));
  FAILS(TIDE_MISSING_ARGUMENT, "tenant", LOAD("", "Probe", "p", NULL));
  FAILS(TIDE_INVALID_ARGUMENT, "tenant", LOAD("T", "Probe", "p", NULL));
  FAILS(TIDE_MISSING_ARGUMENT, "aggregate", LOAD("tenant1", NULL, "p", NULL));
  FAILS(TIDE_INVALID_ARGUMENT, "aggregate", LOAD("tenant1", "", "p", NULL));
  FAILS(TIDE_INVALID_ARGUMENT, "aggregate", LOAD("tenant1", "Prob", "p", NULL));
  FAILS(TIDE_MISSING_ARGUMENT, "id", LOAD("tenant1", "Probe", NULL, NULL));
  FAILS(TIDE_MISSING_ARGUMENT, "aggregateId", LOAD("tenant1", "Probe", "", NULL));
  FAILS(TIDE_INVALID_ARGUMENT, "at", LOAD("tenant1", "Probe", "p", &bad));
  bad.kind = (tide_at_kind)-1;
  FAILS(TIDE_INVALID_ARGUMENT, "at", LOAD("tenant1", "Probe", "p", &bad));
  static const tide_at unreached[] = {{TIDE_AT_VERSION, 1},   {TIDE_AT_VERSION, INT64_MAX},
                                      {TIDE_AT_VERSION, -2},  {TIDE_AT_VERSION, INT64_MIN},
                                      {TIDE_AT_POSITION, 1},  {TIDE_AT_POSITION, INT64_MAX},
                                      {TIDE_AT_POSITION, -1}, {TIDE_AT_POSITION, INT64_MIN}};
  for (size_t i = 0; i < COUNT(unreached); i++)
    FAILS(TIDE_INVALID_ARGUMENT, unreached[i].kind == TIDE_AT_VERSION ? "version" : "position",
          LOAD("tenant1", "Probe", "p", &unreached[i]));
  assert_null(shown.data);
  tide_close(engine);
}

/* ---- read ------------------------------------------------------------------------------------ */

static void test_an_event_has_all_its_fields(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  send(engine, "Add", "{\"aggregateId\":\"p\",\"commandId\":\"k\",\"n\":5}");
  for (tide_format format = TIDE_JSON; format <= TIDE_BSON; format++) {
    tide_reader *reader = NULL;
    tide_buffer event = {0};
    SUCCEEDS(tide_read(engine, "tenant1", NULL, &reader, &error));
    SUCCEEDS(tide_read_next(reader, format, &event, &error));
    text_in(&event, format, "name", "Added");
    text_in(&event, format, "aggregateType", "Probe");
    text_in(&event, format, "aggregateId", "p");
    text_in(&event, format, "command", "Add");
    text_in(&event, format, "commandId", "k");
    text_in(&event, format, "correlationId", "k");
    text_in(&event, format, "actor.id", "user1");
    text_in(&event, format, "actor.name", "user 1");
    text_in(&event, format, "actor.tenant", "tenant1");
    assert_int_equal(int_in(&event, format, "version"), 0);
    assert_int_equal(int_in(&event, format, "position"), 0);
    assert_int_equal(int_in(&event, format, "aggregateVersion"), 0);
    assert_int_equal(int_in(&event, format, "payload.n"), 5);
    tide_free(&event);
    for (int i = 0; i < 3; i++) { /* the end stays the end */
      SUCCEEDS(tide_read_next(reader, format, &event, &error));
      assert_null(event.data);
    }
    tide_read_close(reader);
  }
  tide_close(engine);
}

static void test_filters_choose_events(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  for (int n = 0; n < 6; n++)
    send(engine, n % 2 == 0 ? "Add" : "Keep",
         n < 3 ? "{\"aggregateId\":\"p\",\"n\":1}" : "{\"aggregateId\":\"q\",\"n\":1}");
  static const struct {
    const char *filter;
    int count;
  } rows[] = {{"{}", 6},
              {"{\"from\":2}", 4},
              {"{\"from\":2,\"to\":3}", 2},
              {"{\"from\":6}", 0},
              {"{\"limit\":0}", 0},
              {"{\"limit\":4}", 4},
              {"{\"aggregateType\":\"Probe\"}", 6},
              {"{\"aggregateType\":\"Other\"}", 0},
              {"{\"aggregateType\":\"Probe\",\"aggregateId\":\"p\"}", 3},
              {"{\"name\":\"Kept\"}", 3},
              {"{\"name\":[\"Kept\",\"Added\"]}", 6},
              {"{\"since\":\"2020-01-01T00:00:00Z\"}", 6},
              {"{\"till\":0}", 0},
              {"{\"backwards\":true,\"from\":3}", 4},
              {"{\"backwards\":true,\"from\":3,\"to\":2}", 2}};
  for (size_t i = 0; i < COUNT(rows); i++)
    if (count_events(engine, rows[i].filter) != rows[i].count) fail_msg("%s", rows[i].filter);

  bson_t *backwards = BCON_NEW("backwards", BCON_BOOL(true));
  tide_data filter = {TIDE_BSON, bson_get_data(backwards), backwards->len};
  tide_reader *reader = NULL;
  tide_buffer event = {0};
  SUCCEEDS(tide_read(engine, "tenant1", &filter, &reader, &error));
  bson_destroy(backwards);
  for (int position = 5; position >= 0; position--) {
    SUCCEEDS(tide_read_next(reader, TIDE_BSON, &event, &error));
    assert_int_equal(int_in(&event, TIDE_BSON, "position"), position);
    tide_free(&event);
  }
  tide_read_close(reader);
  tide_close(engine);
}

static void filter_fails(tide_engine *engine, int code, const char *argument, const char *text) {
  tide_data filter = json(text);
  tide_reader *reader = (tide_reader *)&filter;
  FAILS(code, argument, tide_read(engine, "tenant1", &filter, &reader, error));
  assert_null(reader);
}

static void test_read_wants_its_arguments(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  tide_reader *reader = NULL;
  tide_buffer event = {0};
  FAILS(TIDE_MISSING_ARGUMENT, "reader", tide_read(engine, "tenant1", NULL, NULL, error));
  FAILS(TIDE_MISSING_ARGUMENT, "engine", tide_read(NULL, "tenant1", NULL, &reader, error));
  FAILS(TIDE_MISSING_ARGUMENT, "tenant", tide_read(engine, NULL, NULL, &reader, error));
  FAILS(TIDE_MISSING_ARGUMENT, "tenant", tide_read(engine, "", NULL, &reader, error));
  FAILS(TIDE_INVALID_ARGUMENT, "tenant", tide_read(engine, "a/b", NULL, &reader, error));
  filter_fails(engine, TIDE_INVALID_ARGUMENT, "filter", "{");
  filter_fails(engine, TIDE_INVALID_ARGUMENT, "filter", "{\"form\":1}");
  filter_fails(engine, TIDE_INVALID_ARGUMENT, "from", "{\"from\":-1}");
  filter_fails(engine, TIDE_INVALID_ARGUMENT, "from", "{\"from\":null}");
  filter_fails(engine, TIDE_INVALID_ARGUMENT, "to", "{\"to\":\"1\"}");
  filter_fails(engine, TIDE_INVALID_ARGUMENT, "limit", "{\"limit\":1.5}");
  filter_fails(engine, TIDE_INVALID_ARGUMENT, "since", "{\"since\":\"yesterday\"}");
  filter_fails(engine, TIDE_INVALID_ARGUMENT, "name", "{\"name\":5}");
  filter_fails(engine, TIDE_INVALID_ARGUMENT, "aggregateType", "{\"aggregateType\":5}");
  filter_fails(engine, TIDE_INVALID_ARGUMENT, "aggregateType", "{\"aggregateType\":7}");
  FAILS(TIDE_MISSING_ARGUMENT, "reader", tide_read_next(NULL, TIDE_JSON, &event, error));
  SUCCEEDS(tide_read(engine, "nobody", NULL, &reader, &error));
  FAILS(TIDE_MISSING_ARGUMENT, "event", tide_read_next(reader, TIDE_JSON, NULL, error));
  FAILS(TIDE_INVALID_ARGUMENT, "format", tide_read_next(reader, (tide_format)9, &event, error));
  SUCCEEDS(tide_read_next(reader, TIDE_JSON, &event, &error));
  assert_null(event.data);
  tide_read_close(reader);
  tide_close(engine);
}

static void test_readers_are_held_across_commands(void **state) {
  (void)state;
  tide_engine *engine = open_engine(new_uri(), probe_domain);
  tide_reader *readers[20];
  for (size_t i = 0; i < COUNT(readers); i++) {
    send(engine, "Add", "{\"aggregateId\":\"p\",\"n\":1}");
    SUCCEEDS(tide_read(engine, "tenant1", NULL, &readers[i], &error));
  }
  for (size_t position = 0; position < COUNT(readers); position++) {
    for (size_t i = 0; i < COUNT(readers); i++) {
      tide_buffer event = {0};
      SUCCEEDS(tide_read_next(readers[i], TIDE_BSON, &event, &error));
      assert_int_equal(int_in(&event, TIDE_BSON, "position"), position);
      tide_free(&event);
    }
    send(engine, "Add", "{\"aggregateId\":\"p\",\"n\":1}");
  }
  for (size_t i = 0; i < COUNT(readers); i++) /* closed in another order than opened */
    tide_read_close(readers[(i * 7) % COUNT(readers)]);
  tide_close(engine);
}

/* ---- handlers and documents ---------------------------------------------------------------------
 */

static void doc_is(tide_engine *engine, const char *path, const char *wanted) {
  tide_buffer body = {(char *)"none", 4};
  SUCCEEDS(tide_doc(engine, "tenant1", path, TIDE_JSON, &body, &error));
  if (wanted == NULL)
    assert_null(body.data);
  else
    assert_string_equal(body.data, wanted);
  tide_free(&body);
}

static void test_a_failing_handler_is_told_and_the_others_go_on(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  int more = 7;
  SUCCEEDS(tide_poll(engine, "tenant1", "t", 0, &more, &error)); /* nothing is there */
  assert_int_equal(more, 0);
  static const char *const payloads[] = {"{\"n\":1}", "{\"n\":13}", "{\"n\":2}"};
  for (size_t i = 0; i < COUNT(payloads); i++)
    send(engine, "Add", payloads[i]);
  doc_is(engine, "/counter", NULL);
  SUCCEEDS(tide_poll(engine, "tenant1", "t", 1, &more, &error));
  assert_int_equal(more, 1);
  doc_is(engine, "/counter", "{\"count\":1}");
  doc_is(engine, "/picky", "{\"last\":0}");
  FAILS(TIDE_DOMAIN, "", tide_poll(engine, "tenant1", "t", 100, &more, error));
  assert_string_equal(last.message,
                      "the handler Picky failed at position 1 (Added): 13 is unlucky");
  assert_int_equal(more, 0);
  doc_is(engine, "/counter", "{\"count\":3}"); /* each event once, though it was called twice */
  doc_is(engine, "/picky", "{\"last\":0}");    /* what the failing handler wrote is not there */
  SUCCEEDS(tide_poll(engine, "tenant1", "other", 1, NULL, &error)); /* its cursors are its own */
  doc_is(engine, "/counter", "{\"count\":4}");
  tide_close(engine);
}

static void test_poll_and_doc_want_their_arguments(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  tide_buffer body = {0};
  int more = 7;
  FAILS(TIDE_MISSING_ARGUMENT, "engine", tide_poll(NULL, "tenant1", "t", 0, &more, error));
  assert_int_equal(more, 0);
  FAILS(TIDE_MISSING_ARGUMENT, "tenant", tide_poll(engine, NULL, "t", 0, &more, error));
  FAILS(TIDE_MISSING_ARGUMENT, "tenant", tide_poll(engine, "", "t", 0, &more, error));
  FAILS(TIDE_INVALID_ARGUMENT, "tenant", tide_poll(engine, "-", "t", 0, &more, error));
  FAILS(TIDE_MISSING_ARGUMENT, "thread", tide_poll(engine, "tenant1", NULL, 0, &more, error));
  FAILS(TIDE_MISSING_ARGUMENT, "thread", tide_poll(engine, "tenant1", "", 0, &more, error));
  FAILS(TIDE_INVALID_ARGUMENT, "limit", tide_poll(engine, "tenant1", "t", -1, &more, error));
  FAILS(TIDE_MISSING_ARGUMENT, "engine", tide_doc(NULL, "tenant1", "/a", TIDE_JSON, &body, error));
  FAILS(TIDE_MISSING_ARGUMENT, "tenant", tide_doc(engine, NULL, "/a", TIDE_JSON, &body, error));
  FAILS(TIDE_INVALID_ARGUMENT, "tenant", tide_doc(engine, "T", "/a", TIDE_JSON, &body, error));
  FAILS(TIDE_MISSING_ARGUMENT, "path", tide_doc(engine, "tenant1", NULL, TIDE_JSON, &body, error));
  FAILS(TIDE_MISSING_ARGUMENT, "path", tide_doc(engine, "tenant1", "", TIDE_JSON, &body, error));
  FAILS(TIDE_INVALID_ARGUMENT, "path", tide_doc(engine, "tenant1", "a", TIDE_JSON, &body, error));
  FAILS(TIDE_MISSING_ARGUMENT, "body", tide_doc(engine, "tenant1", "/a", TIDE_JSON, NULL, error));
  FAILS(TIDE_INVALID_ARGUMENT, "format",
        tide_doc(engine, "tenant1", "/a", (tide_format)5, &body, error));
  tide_close(engine);
}

/* ---- threads and engines
 * -------------------------------------------------------------------------- */

#define THREADS 4

static int rounds(int many) {
  return getenv("TIDELOG_TEST_QUICK") == NULL ? many : many / 20;
}

/* Runs in a thread, where cmocka cannot fail: returns how many calls failed. */
static void *add_many(void *engine) {
  intptr_t failures = 0;
  tide_data data = json("{\"aggregateId\":\"p\",\"n\":1}");
  for (int i = 0; i < rounds(400); i++) {
    tide_buffer answer = {0};
    int more;
    int code; /* another engine may be first again and again: then it is for us to repeat it */
    do
      code = tide_command(engine, &user, "Add", &data, TIDE_JSON, &answer, NULL);
    while (code == TIDE_CONCURRENCY);
    failures += code != TIDE_OK;
    tide_free(&answer);
    failures +=
        tide_command(engine, &user, "Refuse", NULL, TIDE_JSON, NULL, NULL) != TIDE_PRECONDITION;
    failures +=
        tide_load(engine, "tenant1", "Probe", "p", NULL, TIDE_JSON, &answer, NULL) != TIDE_OK;
    tide_free(&answer);
    failures += tide_poll(engine, "tenant1", "t", 10, &more, NULL) != TIDE_OK;
  }
  return (void *)failures; /* NOLINT(performance-no-int-to-ptr) */
}

static void add_in_threads(tide_engine **engines, size_t count) {
  pthread_t threads[THREADS];
  for (size_t i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, add_many, engines[i % count]), 0);
  for (size_t i = 0; i < THREADS; i++) {
    void *failures = NULL;
    assert_int_equal(pthread_join(threads[i], &failures), 0);
    assert_null(failures);
  }
  int all = THREADS * rounds(400);
  for (size_t i = 0; i < count; i++) {
    assert_int_equal(sum_of(engines[i], "p", NULL), all);
    assert_int_equal(count_events(engines[i], NULL), all);
  }
  tide_reader *reader = NULL;
  SUCCEEDS(tide_read(engines[0], "tenant1", NULL, &reader, &error));
  for (int position = 0; position < all; position++) {
    tide_buffer event = {0};
    SUCCEEDS(tide_read_next(reader, TIDE_BSON, &event, &error));
    assert_int_equal(int_in(&event, TIDE_BSON, "position"), position);
    assert_int_equal(int_in(&event, TIDE_BSON, "aggregateVersion"), position);
    tide_free(&event);
  }
  tide_read_close(reader);
  char wanted[32];
  snprintf(wanted, sizeof wanted, "{\"count\":%d}", all);
  for (int more = 1; more;)
    SUCCEEDS(tide_poll(engines[0], "tenant1", "t", 1000, &more, &error));
  doc_is(engines[0], "/counter", wanted);
}

static void test_threads_share_an_engine(void **state) {
  (void)state;
  tide_engine *engine = open_probe();
  add_in_threads(&engine, 1);
  tide_close(engine);
}

static void test_engines_share_a_folder(void **state) {
  (void)state;
  char uri[512];
  strcpy(uri, new_uri());
  tide_engine *engines[2] = {open_engine(uri, probe_domain), open_engine(uri, probe_domain)};
  add_in_threads(engines, 2);
  tide_close(engines[0]);
  tide_close(engines[1]);
}

static void test_engines_in_memory_are_apart(void **state) {
  (void)state;
  tide_engine *one = open_probe(), *other = open_probe();
  send(one, "Add", "{\"n\":1}");
  assert_int_equal(count_events(one, NULL), 1);
  assert_int_equal(count_events(other, NULL), 0);
  tide_close(one);
  tide_close(other);
}

/* ---- a good guest
 * ----------------------------------------------------------------------------------- */

/* Everything that can go right or wrong, once. */
static void live(void) {
  tide_engine *engine = open_engine(new_uri(), probe_domain);
  send(engine, "Add", "{\"aggregateId\":\"p\",\"n\":13}");
  REFUSES(TIDE_PRECONDITION, "", engine, "Refuse", "{}");
  REFUSES(TIDE_DOMAIN, "", engine, "RaiseText", "{}");
  FAILS(TIDE_DOMAIN, "", tide_poll(engine, "tenant1", "t", 0, NULL, error));
  assert_int_equal(count_events(engine, NULL), 1);
  open_fails(TIDE_DOMAIN, NULL, "memory:", make_domain("syntax", "return {", NULL));
  open_fails(TIDE_STORE, NULL, "sqlite:/dev/null", probe_domain);
  tide_close(engine);
}

static void test_nothing_is_printed(void **state) {
  (void)state;
  int file = open(path_of("output"), O_RDWR | O_CREAT | O_TRUNC, 0600);
  int kept_out = dup(STDOUT_FILENO), kept_err = dup(STDERR_FILENO);
  assert_true(file >= 0 && kept_out >= 0 && kept_err >= 0);
  fflush(stdout);
  fflush(stderr);
  dup2(file, STDOUT_FILENO);
  dup2(file, STDERR_FILENO);
  live();
  fflush(stdout);
  fflush(stderr);
  dup2(kept_out, STDOUT_FILENO);
  dup2(kept_err, STDERR_FILENO);
  close(kept_out);
  close(kept_err);
  struct stat status;
  assert_int_equal(fstat(file, &status), 0);
  assert_int_equal(status.st_size, 0);
  close(file);
}

static void test_signals_stay_as_they_are(void **state) {
  (void)state;
  struct sigaction before[NSIG], after;
  memset(before, 0, sizeof before);
  for (int number = 1; number < NSIG; number++)
    (void)sigaction(number, NULL, &before[number]); /* some numbers are no signal */
  live();
  for (int number = 1; number < NSIG; number++) {
    if (sigaction(number, NULL, &after) != 0) continue;
    assert_ptr_equal(before[number].sa_handler, after.sa_handler);
    assert_int_equal(before[number].sa_flags, after.sa_flags);
  }
}

static void work(tide_engine *engine, int count) {
  for (int i = 0; i < count; i++) {
    char payload[64];
    snprintf(payload, sizeof payload, "{\"aggregateId\":\"p%d\",\"n\":%d}", i % 10, i % 5);
    tide_buffer answer = ask(engine, "Add", payload, TIDE_JSON);
    tide_free(&answer);
    tide_data data = json(payload);
    (void)tide_command(engine, &user, "RaiseTable", &data, TIDE_JSON, NULL, NULL);
    if (i % 10 == 0) SUCCEEDS(tide_poll(engine, "tenant1", "t", 10, NULL, &error));
    if (i % 100 == 0) assert_int_equal(count_events(engine, "{\"limit\":1}"), 1);
  }
}

static void test_memory_does_not_grow(void **state) {
  (void)state;
  tide_engine *engine = open_engine(new_uri(), probe_domain);
  work(engine, rounds(6000)); /* until SQLite's page cache is full */
  size_t before = mallinfo2().uordblks;
  work(engine, rounds(4000));
  size_t after = mallinfo2().uordblks;
  if (after > before + (256 << 10)) fail_msg("from %zu to %zu bytes", before, after);
  tide_close(engine);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_open_wants_a_uri_and_a_place),
      cmocka_unit_test(test_open_says_what_is_wrong_with_a_domain),
      cmocka_unit_test(test_a_domain_may_lie_in_any_folder),
      cmocka_unit_test(test_the_default_domain_is_the_current_folder),
      cmocka_unit_test(test_nothing_is_closed_and_freed_without_harm),
      cmocka_unit_test(test_the_examples_in_memory),
      cmocka_unit_test(test_the_examples_in_files_that_stay),
      cmocka_unit_test(test_a_command_answers_in_both_formats),
      cmocka_unit_test(test_a_payload_may_be_bson),
      cmocka_unit_test(test_a_payload_may_be_left_out),
      cmocka_unit_test(test_what_was_written_can_be_answered_and_read),
      cmocka_unit_test(test_rubbish_is_refused_and_nothing_written),
      cmocka_unit_test(test_too_large_is_a_limit),
      cmocka_unit_test(test_a_command_wants_its_arguments),
      cmocka_unit_test(test_bad_actors_are_refused),
      cmocka_unit_test(test_roles_open_commands),
      cmocka_unit_test(test_the_domains_errors_come_out_as_what_they_are),
      cmocka_unit_test(test_a_failed_allocation_is_told_and_survived),
      cmocka_unit_test(test_versions_are_compared_and_repeats_known),
      cmocka_unit_test(test_load_at_each_kind_of_moment),
      cmocka_unit_test(test_a_state_shows_what_json_has_no_number_for),
      cmocka_unit_test(test_load_wants_its_arguments),
      cmocka_unit_test(test_an_event_has_all_its_fields),
      cmocka_unit_test(test_filters_choose_events),
      cmocka_unit_test(test_read_wants_its_arguments),
      cmocka_unit_test(test_readers_are_held_across_commands),
      cmocka_unit_test(test_a_failing_handler_is_told_and_the_others_go_on),
      cmocka_unit_test(test_poll_and_doc_want_their_arguments),
      cmocka_unit_test(test_threads_share_an_engine),
      cmocka_unit_test(test_engines_share_a_folder),
      cmocka_unit_test(test_engines_in_memory_are_apart),
      cmocka_unit_test(test_nothing_is_printed),
      cmocka_unit_test(test_signals_stay_as_they_are),
      cmocka_unit_test(test_memory_does_not_grow),
  };
  return cmocka_run_group_tests_name("host", tests, make_root, remove_root);
}
