/* fault.c - the helpers of fault.h. */
#include "mongodb/fault.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MOST ((size_t)1 << 20)

int fault_run(const char *name, const struct CMUnitTest *cases, size_t count) {
  const char *pattern = getenv("TIDELOG_TEST_CASES");
  if (!contract_choose("mongodb")) {
    (void)fprintf(stderr, "%s runs beneath tests/mongodb/with_server\n", name);
    return 2;
  }
  if (pattern != NULL) cmocka_set_test_filter(pattern);
  return _cmocka_run_group_tests(name, cases, count, NULL, NULL) == 0 ? 0 : 1;
}

void fault_open(contract *c, const char *options, int patience) {
  const tide_store_options store_options = {.busy_timeout = patience};
  const size_t used = strlen(c->uri);
  contract_close(c);
  assert_in_range(snprintf(c->uri + used, sizeof c->uri - used, "%s", options), 0,
                  sizeof c->uri - used - 1);
  OK(c, tide__store_open(c->uri, &store_options, &c->store, &c->error));
}

void fault_expect(int got, bool transient, const tide_error *error, const char *call,
                  const char *file, int line) {
  if (got == TIDE_STORE && error->code == TIDE_STORE && (error->transient != 0) == transient &&
      error->message[0] != '\0' && strchr(error->message, '\n') == NULL)
    return;
  print_error("%s\n  expected a %s StoreError, got %d; error: %d transient %d '%s'\n", call,
              transient ? "transient" : "permanent", got, error->code, error->transient,
              error->message);
  _fail(file, line);
}

/* ---- JSON and lines -------------------------------------------------------------- */

/* The text with " for each '. */
static void quote(char *text) {
  for (; *text != '\0'; text++)
    if (*text == '\'') *text = '"';
}

static bson_t *parse(const char *json) {
  bson_error_t error;
  bson_t *bson = bson_new_from_json((const uint8_t *)json, -1, &error);
  if (bson == NULL) fail_msg("%s: %s", json, error.message);
  return bson;
}

static bson_t *parse_quoted(const char *format, va_list arguments) {
  char json[4096];
  assert_in_range(vsnprintf(json, sizeof json, format, arguments), 1, sizeof json - 1);
  quote(json);
  return parse(json);
}

/* Sends a line to a loopback port that the environment names, and reads the one that comes
** back: the caller's to free. */
static char *ask(const char *port_name, const char *line) {
  const char *port = getenv(port_name);
  struct sockaddr_in to = {.sin_family = AF_INET};
  if (port == NULL) fail_msg("%s is not set: with_server has other options here", port_name);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons((uint16_t)strtol(port, NULL, 10));
  const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(s >= 0);
  assert_int_equal(connect(s, (struct sockaddr *)&to, sizeof to), 0);
  assert_int_equal(send(s, line, strlen(line), MSG_NOSIGNAL), strlen(line));
  assert_int_equal(send(s, "\n", 1, MSG_NOSIGNAL), 1);
  char *answer = malloc(ANSWER_MOST);
  assert_non_null(answer);
  size_t size = 0;
  for (ssize_t got; size < ANSWER_MOST - 1; size += (size_t)got) {
    got = recv(s, answer + size, ANSWER_MOST - 1 - size, 0);
    if (got <= 0) break;
    if (memchr(answer + size, '\n', (size_t)got) != NULL) {
      size += (size_t)got;
      break;
    }
  }
  answer[size] = '\0';
  close(s);
  return answer;
}

int64_t fault_number(const bson_t *bson, const char *path) {
  bson_iter_t top, found;
  return bson_iter_init(&top, bson) && bson_iter_find_descendant(&top, path, &found)
             ? bson_iter_as_int64(&found)
             : -1;
}

/* ---- The server --------------------------------------------------------------------- */

static bson_t *run(const char *database, const bson_t *command) {
  bson_error_t error;
  bson_t reply;
  mongoc_client_t *client = databases_client();
  if (!mongoc_client_command_simple(client, database, command, NULL, &reply, &error))
    fail_msg("%s: %s", bson_as_relaxed_extended_json(command, NULL), error.message);
  mongoc_client_destroy(client);
  bson_t *copy = bson_copy(&reply);
  bson_destroy(&reply);
  return copy;
}

static void configure(const char *json) {
  char text[1024];
  assert_in_range(snprintf(text, sizeof text, "%s", json), 1, sizeof text - 1);
  quote(text);
  bson_t *command = parse(text), *reply = run("admin", command);
  bson_destroy(command);
  bson_destroy(reply);
}

void fault_failpoint(const char *mode, const char *data) {
  char json[1024];
  assert_in_range(snprintf(json, sizeof json,
                           "{'configureFailPoint': 'failCommand', 'mode': %s, "
                           "'data': {'appName': 'tidelog/" TIDE_VERSION "', %s}}",
                           mode, data),
                  1, sizeof json - 1);
  configure(json);
}

void fault_failpoint_off(void) {
  configure("{'configureFailPoint': 'failCommand', 'mode': 'off'}");
}

bool fault_control(const char *line) {
  char *answer = ask("TIDELOG_MONGODB_CONTROL", line);
  const bool ok = strcmp(answer, "ok\n") == 0;
  if (!ok) print_message("%s: %s", line, answer);
  free(answer);
  return ok;
}

bson_t *fault_command(const contract *c, const char *format, ...) {
  char database[64];
  va_list arguments;
  va_start(arguments, format);
  bson_t *command = parse_quoted(format, arguments);
  va_end(arguments);
  databases_name(c->uri, T, database, sizeof database);
  bson_t *reply = run(database, command);
  bson_destroy(command);
  return reply;
}

int64_t fault_count(const contract *c, const char *collection, const char *filter) {
  bson_t *reply = fault_command(c, "{'count': '%s', 'query': %s}", collection, filter);
  const int64_t count = fault_number(reply, "n");
  bson_destroy(reply);
  return count;
}

void fault_plant(const contract *c, const char *collection, const char *json) {
  bson_t *reply = fault_command(c, "{'insert': '%s', 'documents': [%s]}", collection, json);
  assert_int_equal(fault_number(reply, "n"), 1);
  bson_destroy(reply);
}

/* ---- The proxy ------------------------------------------------------------------------ */

static bson_t *ask_proxy(const char *json) {
  char *answer = ask("TIDELOG_MONGODB_PROXY", json);
  bson_t *bson = parse(answer);
  if (fault_number(bson, "ok") != 1) fail_msg("%s: %s", json, answer);
  free(answer);
  return bson;
}

bson_t *fault_proxy(const char *format, ...) {
  char json[4096];
  va_list arguments;
  va_start(arguments, format);
  assert_in_range(vsnprintf(json, sizeof json, format, arguments), 1, sizeof json - 1);
  va_end(arguments);
  quote(json);
  return ask_proxy(json);
}

int64_t fault_rule(const char *format, ...) {
  char fields[2048];
  va_list arguments;
  va_start(arguments, format);
  assert_in_range(vsnprintf(fields, sizeof fields, format, arguments), 1, sizeof fields - 1);
  va_end(arguments);
  bson_t *answer = fault_proxy("{'do': 'add', %s}", fields);
  const int64_t rule = fault_number(answer, "id");
  bson_destroy(answer);
  return rule;
}

int64_t fault_fired(int64_t rule) {
  char path[32];
  bson_t *stats = fault_proxy("{'do': 'stats'}");
  (void)snprintf(path, sizeof path, "fired.%lld", (long long)rule);
  const int64_t fired = fault_number(stats, path);
  bson_destroy(stats);
  return fired;
}

void fault_pretend(const char *as) {
  bson_destroy(fault_proxy("{'do': 'pretend', 'as': '%s'}", as));
}

static void reset_proxy(void) {
  bson_destroy(fault_proxy("{'do': 'refuse', 'on': false}"));
  bson_destroy(fault_proxy("{'do': 'reset'}"));
}

int fault_proxy_setup(void **state) {
  reset_proxy();
  return contract_setup(state);
}

int fault_proxy_teardown(void **state) {
  reset_proxy();
  return contract_teardown(state);
}

/* ---- The log ----------------------------------------------------------------------------- */

void fault_append_some(contract *c, const char *id, int64_t version, size_t count) {
  tide_commit *commits = calloc(count, sizeof *commits);
  tide_outcome *outcomes = calloc(count, sizeof *outcomes);
  assert_true(commits != NULL && outcomes != NULL);
  for (size_t i = 0; i < count; i++)
    commits[i] = contract_commit(c, "Adder", id, version + (int64_t)i, 1, NULL);
  OK(c, tide__store_append(c->store, T, commits, count, outcomes, &c->error));
  for (size_t i = 0; i < count; i++)
    assert_int_equal(outcomes[i], TIDE_APPENDED);
  free(commits);
  free(outcomes);
}

void fault_log_is(contract *c, int64_t events, int64_t commits) {
  assert_int_equal(contract_verify(c, T), events);
  tide_store *kept = c->store;
  c->store = contract_open_second(c);
  assert_int_equal(contract_verify(c, T), events);
  tide__store_close(c->store);
  c->store = kept;
  assert_int_equal(fault_count(c, "events", "{}"), commits);
}

void fault_described(contract *c, const char *field, char *text, size_t size) {
  tide_bytes bytes = {0};
  bson_t bson;
  bson_iter_t found;
  text[0] = '\0';
  OK(c, tide__store_describe(c->store, T, &bytes, &c->error));
  assert_true(bson_init_static(&bson, bytes.data, bytes.size));
  if (bson_iter_init_find(&found, &bson, field) && BSON_ITER_HOLDS_UTF8(&found))
    (void)snprintf(text, size, "%s", bson_iter_utf8(&found, NULL));
  tide__bytes_free(&bytes);
}
