/* test_connection.c KIND - connecting to a MongoDB server of one kind: how one gets in, how one
** is told why not, and that no password shows. */
#include "mongodb/fault.h"

/* What is given as URI is refused with this in the message, for good or as passing; whatever
** `secret` is must not be in it. */
static void open_fails(const char *uri, int code, int transient, const char *message,
                       const char *secret) {
  tide_store *store = NULL;
  tide_error error = {0};
  const int got = tide__store_open(uri, NULL, &store, &error);
  if (got != code || store != NULL || strstr(error.message, message) == NULL ||
      (transient >= 0 && error.transient != transient) ||
      (secret != NULL && strstr(error.message, secret) != NULL))
    fail_msg("%s: expected %d '%s', got %d transient %d '%s'", uri, code, message, got,
             error.transient, error.message);
  tide__store_close(store);
}

static const char *variable(const char *name) {
  const char *value = getenv(name);
  if (value == NULL) fail_msg("%s is not set: with_server has other options here", name);
  return value == NULL ? "" : value;
}

static void uri_of(char *uri, size_t size, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  assert_in_range(vsnprintf(uri, size, format, arguments), 1, size - 1);
  va_end(arguments);
}

/* All kinds of calls once. */
static void works(contract *c) {
  const tide_bytes body = contract_body(c, 1);
  const tide_document documents[] = {{"/d", body.data, body.size, "thread/H", 1},
                                     {"/e", body.data, body.size, "thread/H", 1}};
  int64_t head = -1;
  tide_commit first = contract_put(c, T, "Adder", "a", 0, 1);
  tide_commit stale = contract_commit(c, "Adder", "a", 0, 1, NULL);
  const tide_commit *log[] = {&first};
  assert_int_equal(contract_append(c, T, &stale), TIDE_CONFLICT);
  contract_scan_gives(c, T, &(tide_query){0}, log, 1);
  const int64_t token = contract_lease(c, "thread", "owner", 60000);
  OK(c, tide__store_commit_cursors(c->store, T, "thread", "owner", token, &body, documents, 2, true,
                                   &c->error));
  contract_document_is(c, T, "/d", &body);
  contract_document_is(c, T, "/e", &body);
  OK(c, tide__store_wait(c->store, T, 1, 100, &head, &c->error));
  assert_int_equal(head, 1);
  contract_put(c, T, "Adder", "a", 1, 1);
  OK(c, tide__store_wait(c->store, T, 1, 5000, &head, &c->error));
  assert_int_equal(head, 2);
  assert_int_equal(contract_verify(c, T), 2);
}

static void test_all_kinds_of_calls_work(void **state) {
  works(*state);
}

/* ---- any server ------------------------------------------------------------------------ */

static void test_what_is_no_connection_string_is_refused_without_its_password(void **state) {
  (void)state;
  static const struct {
    const char *uri, *message;
  } rows[] = {{"mongodb://", "uri is no MongoDB connection string"},
              {"mongodb://u:sesame@", "connection string"},
              {"mongodb://u:ses/ame@h/", "%-escaped"},
              {"mongodb://u:sesame@h:99999/", "connection string"},
              {"mongodb://u:sesame@h/?w=1", "w is not majority"},
              {"mongodb://u:sesame@h/?w=0", "w is not majority"},
              {"mongodb://u:sesame@h/?journal=false", "journal=false"},
              {"mongodb://u:sesame@h/?readPreference=secondary", "readPreference"},
              {"mongodb://u:sesame@h/?readConcernLevel=local", "readConcernLevel"},
              {"mongodb://u:sesame@h/?tidelogPrefix=", "tidelogPrefix is not"},
              {"mongodb://u:sesame@h/?tidelogPrefix=A", "tidelogPrefix is not"},
              {"mongodb://u:sesame@h/?tidelogPrefix=-a", "tidelogPrefix is not"},
              {"mongodb://u:sesame@h/?tidelogPrefix=a.b", "tidelogPrefix is not"},
              {"mongodb://u:sesame@h/?tidelogPrefix=0123456789012345678901234", "tidelogPrefix"},
              {"mongodb+srv://u:sesame@a,b/", "connection string"}};
  for (size_t i = 0; i < COUNT(rows); i++)
    open_fails(rows[i].uri, TIDE_INVALID_ARGUMENT, 0, rows[i].message, "ame@");
}

static void test_where_nobody_is_the_error_says_so(void **state) {
  (void)state;
  open_fails("mongodb://u:sesame@127.0.0.1:1/", TIDE_STORE, 1, "connection refused", "sesame");
  open_fails("mongodb://u:sesame@nobody.invalid/", TIDE_STORE, 1, "resolve", "sesame");
  open_fails("mongodb+srv://u:sesame@nobody.tidelog.invalid/", TIDE_STORE, -1, "SRV", "sesame");
}

static void test_prefixes_keep_tenants_apart(void **state) {
  contract *c = *state;
  char uri[600];
  tide_bytes names;
  size_t count;
  uri_of(uri, sizeof uri, "%sx-", c->uri); /* the prefix is the last option */
  contract_put(c, T, "Adder", "a", 0, 1);
  tide_store *mine = c->store;
  OK(c, tide__store_open(uri, NULL, &c->store, &c->error));
  contract_put(c, T, "Adder", "a", 0, 2);
  contract_put(c, "other", "Adder", "a", 0, 2);
  OK(c, tide__store_tenants(c->store, &names, &count, &c->error));
  assert_int_equal(count, 2);
  tide__bytes_free(&names);
  assert_int_equal(contract_verify(c, T), 2);
  tide__store_close(c->store);
  c->store = mine;
  assert_int_equal(contract_verify(c, T), 1);
}

/* ---- a log-in ---------------------------------------------------------------------------- */

static void test_a_wrong_password_is_said_at_once_and_not_shown(void **state) {
  (void)state;
  char uri[512];
  const char *host = variable("TIDELOG_MONGODB_HOST");
  uri_of(uri, sizeof uri, "mongodb://tidelog:open%%20sesame@%s/?authSource=admin", host);
  open_fails(uri, TIDE_STORE, 0, "uthentication", "sesame");
  uri_of(uri, sizeof uri, "mongodb://nobody:sesame@%s/?authSource=admin", host);
  open_fails(uri, TIDE_STORE, 0, "uthentication", "sesame");
  uri_of(uri, sizeof uri, "mongodb://%s/", host);
  tide_store *store = NULL;
  tide_error error = {0};
  tide_head head;
  /* without a log-in one gets no further than the door */
  int code = tide__store_open(uri, NULL, &store, &error);
  if (code == TIDE_OK) code = tide__store_head(store, T, &head, &error);
  assert_int_equal(code, TIDE_STORE);
  assert_int_equal(error.transient, 0);
  tide__store_close(store);
}

/* ---- TLS --------------------------------------------------------------------------------------
 */

static void test_a_server_that_cannot_prove_itself_is_not_spoken_to(void **state) {
  (void)state;
  char uri[1024];
  const char *host = variable("TIDELOG_MONGODB_HOST"), *tls = variable("TIDELOG_MONGODB_TLS");
  static const char wait[] = "serverSelectionTimeoutMS=1000";
  uri_of(uri, sizeof uri, "mongodb://%s/?%s&tls=true&tlsCAFile=%s/other-ca.pem", host, wait, tls);
  open_fails(uri, TIDE_STORE, -1, "TLS handshake failed", NULL);
  uri_of(uri, sizeof uri, "mongodb://%s/?%s&tls=true", host, wait);
  open_fails(uri, TIDE_STORE, -1, "TLS handshake failed", NULL);
  uri_of(uri, sizeof uri, "mongodb://%s/?%s&tls=true&tlsCAFile=%s/missing.pem", host, wait, tls);
  open_fails(uri, TIDE_STORE, -1, "", NULL);
  uri_of(uri, sizeof uri, "mongodb://%s/?%s", host, wait);
  open_fails(uri, TIDE_STORE, -1, "", NULL); /* without TLS */
}

static void test_a_client_without_a_certificate_is_refused(void **state) {
  (void)state;
  char uri[1024];
  uri_of(uri, sizeof uri,
         "mongodb://%s/?serverSelectionTimeoutMS=1000&socketTimeoutMS=1000&tls=true&"
         "tlsCAFile=%s/ca.pem",
         variable("TIDELOG_MONGODB_HOST"), variable("TIDELOG_MONGODB_TLS"));
  open_fails(uri, TIDE_STORE, -1, "", NULL);
}

static void test_an_expired_certificate_is_refused(void **state) {
  (void)state;
  char uri[1024];
  uri_of(uri, sizeof uri, "%s&serverSelectionTimeoutMS=1000", variable("TIDELOG_MONGODB_URI"));
  open_fails(uri, TIDE_STORE, -1, "expired", NULL);
}

/* ---- SRV
 * ----------------------------------------------------------------------------------------- */

static void test_a_name_is_resolved_by_srv_and_txt(void **state) {
  contract *c = *state;
  contract_close(c);
  char marked[sizeof c->uri];
  const char *prefix = strstr(c->uri, "tidelogPrefix=");
  assert_non_null(prefix);
  uri_of(marked, sizeof marked, "%s&%s", variable("TIDELOG_MONGODB_SRV_URI"), prefix);
  (void)snprintf(c->uri, sizeof c->uri, "%s", marked);
  contract_open(c);
  works(c);
}

static void test_srv_names_that_lead_nowhere_are_said(void **state) {
  (void)state;
  open_fails("mongodb+srv://nobody.tidelog.test/?tls=false", TIDE_STORE, -1, "SRV", NULL);
  open_fails("mongodb+srv://elsewhere.tidelog.test/?tls=false", TIDE_STORE, -1, "", NULL);
}

/* ---- what a server lacks, by the proxy ----------------------------------------------------------
 */

static void described_is(contract *c, const char *field, const char *expected) {
  char text[256];
  fault_described(c, field, text, sizeof text);
  if (strstr(text, expected) == NULL) fail_msg("%s is '%s', not '%s'", field, text, expected);
}

static void as_is_works(contract *c, const char *pretence, const char *options,
                        const char *documents, const char *news, const char *server) {
  print_message("  %s%s\n", pretence, options);
  if (pretence[0] != '\0') fault_pretend(pretence);
  fault_open(c, options, PATIENT);
  works(c);
  described_is(c, "documents", documents);
  described_is(c, "news", news);
  described_is(c, "server", server);
}

static void test_a_server_without_transactions_writes_documents_forward_only(void **state) {
  as_is_works(*state, "no_transactions", "", "forward only", "change stream", "replica set");
}

static void test_transactions_that_may_not_be_used_are_as_none(void **state) {
  as_is_works(*state, "no_transactions_here", "", "forward only", "change stream", "replica set");
}

static void test_a_server_without_change_streams_is_polled(void **state) {
  as_is_works(*state, "no_change_streams", "", "with cursors", "polling", "replica set");
}

static void test_change_streams_that_are_not_supported_are_as_none(void **state) {
  as_is_works(*state, "no_change_streams_here", "", "with cursors", "polling", "replica set");
}

static void test_a_server_that_knows_no_versions_of_the_api_is_used_without(void **state) {
  as_is_works(*state, "no_api_version", "", "with cursors", "change stream", "replica set");
}

static void test_retryable_writes_are_not_needed(void **state) {
  as_is_works(*state, "", "&retryWrites=false", "with cursors", "change stream", "replica set");
}

static void test_a_server_without_sessions_is_enough(void **state) {
  as_is_works(*state, "no_sessions", "&retryWrites=false", "forward only", "", "replica set");
}

/* Opens the case's databases as those of another kind of server. */
static void open_as(contract *c, const char *pretence, const char *option) {
  char uri[sizeof c->uri];
  const char *prefix = strstr(c->uri, "tidelogPrefix=");
  assert_non_null(prefix);
  uri_of(uri, sizeof uri, "mongodb://%s/?%s&%s", variable("TIDELOG_MONGODB_HOST"), option, prefix);
  contract_close(c);
  fault_pretend(pretence);
  (void)snprintf(c->uri, sizeof c->uri, "%s", uri);
  contract_open(c);
}

static void test_a_load_balanced_service_is_spoken_to_as_one(void **state) {
  contract *c = *state;
  open_as(c, "load_balanced", "loadBalanced=true");
  works(c);
  described_is(c, "server", "behind a load balancer");
}

static void test_a_standalone_server_has_neither_transactions_nor_streams(void **state) {
  contract *c = *state;
  open_as(c, "standalone", "directConnection=true");
  works(c);
  described_is(c, "server", "standalone");
  described_is(c, "documents", "forward only");
  described_is(c, "news", "polling");
}

/* ---- documents and cursors apart
 * ------------------------------------------------------------------ */

/* Commits cursors and `count` documents; `dies`: the cursors' own commit never arrives. */
static int commit(contract *c, int64_t token, const tide_document *documents, size_t count,
                  bool dies) {
  const tide_bytes cursors = contract_body(c, documents[0].position);
  int64_t rule = -1;
  if (dies) /* the first findAndModify is the look at the lease */
    rule = fault_rule("'command': 'findAndModify', 'skip': 1, 'times': 0, 'action': 'cut_before'");
  const int code = tide__store_commit_cursors(c->store, T, "thread", "owner", token, &cursors,
                                              documents, count, false, &c->error);
  if (dies) bson_destroy(fault_proxy("{'do': 'remove', 'id': %lld}", (long long)rule));
  return code;
}

static void reflects(contract *c, const char *path, const char *writer, int64_t expected,
                     const tide_bytes *body) {
  tide_bytes got;
  int64_t position = -1;
  OK(c, tide__store_get_document(c->store, T, path, writer, &got, &position, &c->error));
  assert_int_equal(position, expected);
  assert_int_equal(got.size, body == NULL ? 0 : body->size);
  if (body != NULL) assert_memory_equal(got.data, body->data, body->size);
  tide__bytes_free(&got);
}

static void test_documents_ahead_of_their_cursors_say_so_and_go_only_forward(void **state) {
  contract *c = *state;
  fault_pretend("no_transactions");
  fault_open(c, "", HASTY);
  contract_put(c, T, "Adder", "a", 0, 20);
  tide_lease lease;
  OK(c, tide__store_lease(c->store, T, "thread", "owner", 60000, &lease, &c->error));
  assert_true(lease.held && lease.apart);
  tide__bytes_free(&lease.cursors);
  const tide_bytes five = contract_body(c, 5), three = contract_body(c, 3),
                   nine = contract_body(c, 9);
  const tide_document ahead[] = {{"/d", five.data, five.size, "thread/H", 5},
                                 {"/gone", five.data, five.size, "thread/H", 4},
                                 {"/gone", NULL, 0, "thread/H", 5}};
  /* killed between the documents and the cursors */
  assert_int_equal(commit(c, lease.token, ahead, 3, true), TIDE_STORE);
  memset(&c->error, 0, sizeof c->error);
  reflects(c, "/d", "thread/H", 5, &five);
  reflects(c, "/gone", "thread/H", 5, NULL);
  tide_thread thread;
  OK(c, tide__store_get_thread(c->store, T, "thread", &thread, &c->error));
  assert_int_equal(thread.cursors.size, 5); /* {}: they never moved */
  tide__bytes_free(&thread.cursors);
  /* the same again, and less, change nothing; more is written */
  const tide_document less[] = {{"/d", three.data, three.size, "thread/H", 3}},
                      more[] = {{"/d", nine.data, nine.size, "thread/H", 9}},
                      others[] = {{"/d", three.data, three.size, "thread/G", 2}};
  OK(c, commit(c, lease.token, ahead, 3, false));
  reflects(c, "/d", "thread/H", 5, &five);
  OK(c, commit(c, lease.token, less, 1, false));
  reflects(c, "/d", "thread/H", 5, &five);
  OK(c, commit(c, lease.token, more, 1, false));
  reflects(c, "/d", "thread/H", 9, &nine);
  /* another handler's events are its own */
  OK(c, commit(c, lease.token, others, 1, false));
  reflects(c, "/d", "thread/H", 9, &three);
  reflects(c, "/d", "thread/G", 2, &three);
  reflects(c, "/d", "thread/none", 0, &three);
}

#define PLAIN(f) cmocka_unit_test(f)

int main(int argc, char **argv) {
  static const struct CMUnitTest any[] = {
      CASE(test_all_kinds_of_calls_work),
      PLAIN(test_what_is_no_connection_string_is_refused_without_its_password),
      PLAIN(test_where_nobody_is_the_error_says_so),
      CASE(test_prefixes_keep_tenants_apart),
  };
  static const struct CMUnitTest auth[] = {
      CASE(test_all_kinds_of_calls_work),
      PLAIN(test_a_wrong_password_is_said_at_once_and_not_shown),
  };
  static const struct CMUnitTest tls[] = {
      CASE(test_all_kinds_of_calls_work),
      PLAIN(test_a_server_that_cannot_prove_itself_is_not_spoken_to),
  };
  static const struct CMUnitTest certificate[] = {
      CASE(test_all_kinds_of_calls_work),
      PLAIN(test_a_client_without_a_certificate_is_refused),
  };
  static const struct CMUnitTest expired[] = {PLAIN(test_an_expired_certificate_is_refused)};
  static const struct CMUnitTest srv[] = {
      CASE(test_a_name_is_resolved_by_srv_and_txt),
      PLAIN(test_srv_names_that_lead_nowhere_are_said),
  };
  static const struct CMUnitTest lacks[] = {
      PROXY_CASE(test_a_standalone_server_has_neither_transactions_nor_streams),
      PROXY_CASE(test_a_server_without_transactions_writes_documents_forward_only),
      PROXY_CASE(test_transactions_that_may_not_be_used_are_as_none),
      PROXY_CASE(test_a_server_without_change_streams_is_polled),
      PROXY_CASE(test_change_streams_that_are_not_supported_are_as_none),
      PROXY_CASE(test_a_server_that_knows_no_versions_of_the_api_is_used_without),
      PROXY_CASE(test_retryable_writes_are_not_needed),
      PROXY_CASE(test_a_server_without_sessions_is_enough),
      PROXY_CASE(test_a_load_balanced_service_is_spoken_to_as_one),
      PROXY_CASE(test_documents_ahead_of_their_cursors_say_so_and_go_only_forward),
  };
  static const struct {
    const char *name;
    const struct CMUnitTest *cases;
    size_t count;
  } kinds[] = {{"any", any, COUNT(any)},
               {"auth", auth, COUNT(auth)},
               {"tls", tls, COUNT(tls)},
               {"certificate", certificate, COUNT(certificate)},
               {"expired", expired, COUNT(expired)},
               {"srv", srv, COUNT(srv)},
               {"lacks", lacks, COUNT(lacks)}};
  for (size_t i = 0; i < COUNT(kinds) && argc == 2; i++)
    if (strcmp(argv[1], kinds[i].name) == 0)
      return fault_run(kinds[i].name, kinds[i].cases, kinds[i].count);
  (void)fprintf(stderr, "usage: test_connection any|auth|tls|certificate|expired|srv|lacks\n");
  return 2;
}
