/* test_connection.c KIND - connecting to a MongoDB server of one kind: how one gets in, how one
** is told why not, and that no password shows. */
#include "mongodb/fault.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- What is printed --------------------------------------------------------------- */

typedef struct printed {
  FILE *kept;
  int out, err;
} printed;

static void put_back(int from, int to) {
  assert_int_equal(dup2(from, to), to);
  close(from);
}

/* Both outputs of the process go to a file until print_end, which gives how much came. */
static printed print_begin(void) {
  (void)fflush(NULL);
  printed p = {.kept = tmpfile(), .out = dup(STDOUT_FILENO), .err = dup(STDERR_FILENO)};
  assert_true(p.kept != NULL && p.out >= 0 && p.err >= 0);
  assert_true(dup2(fileno(p.kept), STDOUT_FILENO) >= 0 && dup2(fileno(p.kept), STDERR_FILENO) >= 0);
  return p;
}

static off_t print_end(printed p) {
  (void)fflush(NULL);
  put_back(p.out, STDOUT_FILENO);
  put_back(p.err, STDERR_FILENO);
  const off_t size = lseek(fileno(p.kept), 0, SEEK_END);
  char text[1024] = "";
  assert_true(pread(fileno(p.kept), text, sizeof text - 1, 0) >= 0);
  if (size != 0) print_error("printed: %s\n", text);
  (void)fclose(p.kept);
  return size;
}

/* The life of an engine in a process of its own (test_connection live URI): what it ends with. */
static int live(const char *uri) {
  static const uint8_t empty[] = {5, 0, 0, 0, 0}; /* {} */
  const tide_store_options options = {.busy_timeout = PATIENT};
  tide_store *store = NULL;
  tide_lease lease = {0};
  tide_outcome outcome;
  int64_t head;
  const tide_bytes cursors = {(uint8_t *)(uintptr_t)empty, sizeof empty};
  const tide_document documents[] = {{"/a", empty, sizeof empty, "thread/H", 1},
                                     {"/b", empty, sizeof empty, "thread/H", 1}};
  tide_commit commit = {.type = "Adder",
                        .id = "live",
                        .version = 0,
                        .count = 1,
                        .body = empty,
                        .body_size = sizeof empty};
  int code = tide__store_open(uri, &options, &store, NULL);
  if (code == TIDE_OK) code = tide__store_append(store, T, &commit, 1, &outcome, NULL);
  if (code == TIDE_OK) code = tide__store_lease(store, T, "live", "owner", 60000, &lease, NULL);
  if (code == TIDE_OK)
    code = tide__store_commit_cursors(store, T, "live", "owner", lease.token, &cursors, documents,
                                      2, true, NULL);
  if (code == TIDE_OK) code = tide__store_wait(store, T, 1, 10, &head, NULL);
  tide__bytes_free(&lease.cursors);
  tide__store_close(store);
  return code;
}

/* A process lives with this URI, ends with this code, and has said nothing. */
static void lives_in_silence(const char *uri, int code) {
  int status = 0;
  char *const line[] = {(char[]){"test_connection"}, (char[]){"live"}, (char *)(uintptr_t)uri,
                        NULL};
  const printed p = print_begin();
  const pid_t pid = fork();
  if (pid == 0) {
    (void)execv("/proc/self/exe", line);
    _exit(99);
  }
  const bool waited = pid > 0 && waitpid(pid, &status, 0) == pid;
  assert_int_equal(print_end(p), 0);
  assert_true(waited && WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), code);
}

static void test_a_process_with_a_store_prints_nothing(void **state) {
  const contract *c = *state;
  lives_in_silence(c->uri, TIDE_OK);
}

/* ---- Opening ------------------------------------------------------------------------- */

/* What is given as URI is refused with this in the message, for good or as passing; whatever
** `secret` is must not be in it, and nothing is printed. */
static void open_fails(const char *uri, int code, int transient, const char *message,
                       const char *secret) {
  tide_store *store = NULL;
  tide_error error = {0};
  const printed p = print_begin();
  const int got = tide__store_open(uri, NULL, &store, &error);
  assert_int_equal(print_end(p), 0);
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

/* A port that takes connections in, and nothing else. */
static int silent_port(uint16_t *port) {
  struct sockaddr_in at = {.sin_family = AF_INET};
  socklen_t size = sizeof at;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(s >= 0);
  assert_int_equal(bind(s, (struct sockaddr *)&at, size), 0);
  assert_int_equal(listen(s, 64), 0);
  assert_int_equal(getsockname(s, (struct sockaddr *)&at, &size), 0);
  *port = ntohs(at.sin_port);
  return s;
}

static void test_a_server_that_never_answers_is_given_up(void **state) {
  (void)state;
  static const char *const more[] = {"", "&replicaSet=set", "&directConnection=true", "&tls=true"};
  char uri[512];
  uint16_t port;
  const int s = silent_port(&port);
  for (size_t i = 0; i < COUNT(more); i++) {
    uri_of(uri, sizeof uri,
           "mongodb://u:sesame@127.0.0.1:%d/?connectTimeoutMS=500&socketTimeoutMS=500&"
           "serverSelectionTimeoutMS=1000%s",
           port, more[i]);
    open_fails(uri, TIDE_STORE, 1, "No suitable servers found", "sesame");
  }
  uri_of(uri, sizeof uri, "mongodb://127.0.0.1:%d/?connectTimeoutMS=500", port);
  lives_in_silence(uri, TIDE_STORE);
  close(s);
}

static void test_what_fails_prints_nothing(void **state) {
  (void)state;
  lives_in_silence("mongodb://u:sesame@", TIDE_INVALID_ARGUMENT);
  lives_in_silence("mongodb://h/?w=1", TIDE_INVALID_ARGUMENT);
  lives_in_silence("mongodb://h/?nonsense=1&tls=true&tlsInsecure=maybe", TIDE_INVALID_ARGUMENT);
  lives_in_silence("mongodb://u:sesame@127.0.0.1:1/", TIDE_STORE);
  lives_in_silence("mongodb+srv://u:sesame@nobody.tidelog.invalid/", TIDE_STORE);
}

static void tenants_are(contract *c, const char *const *expected, size_t count) {
  tide_bytes names;
  size_t found;
  OK(c, tide__store_tenants(c->store, &names, &found, &c->error));
  assert_int_equal(found, count);
  const char *name = (const char *)names.data;
  for (size_t i = 0; i < count; i++, name += strlen(name) + 1)
    assert_string_equal(name, expected[i]);
  tide__bytes_free(&names);
}

static void test_prefixes_keep_tenants_apart(void **state) {
  contract *c = *state;
  static const char *const of_a[] = {"other", T}, *const of_b[] = {"config", T};
  char a[sizeof c->uri + 2], b[sizeof c->uri + 2];
  uri_of(a, sizeof a, "%sa-", c->uri); /* the prefix is the last option */
  uri_of(b, sizeof b, "%sb-", c->uri);
  tide_store *kept = c->store, *stores[2] = {NULL, NULL};
  OK(c, tide__store_open(a, NULL, &stores[0], &c->error));
  OK(c, tide__store_open(b, NULL, &stores[1], &c->error));
  c->store = stores[0];
  tide_commit first = contract_put(c, T, "Adder", "a", 0, 1);
  contract_put(c, "other", "Adder", "a", 0, 2);
  c->store = stores[1];
  tenants_are(c, NULL, 0);
  tide_commit second = contract_put(c, T, "Adder", "a", 0, 2); /* no conflict */
  contract_put(c, "config", "Adder", "a", 0, 1);
  const tide_commit *log_of_a[] = {&first}, *log_of_b[] = {&second};
  tenants_are(c, of_b, COUNT(of_b));
  contract_scan_gives(c, T, &(tide_query){0}, log_of_b, 1);
  c->store = stores[0];
  tenants_are(c, of_a, COUNT(of_a));
  contract_scan_gives(c, T, &(tide_query){0}, log_of_a, 1);
  tide__store_close(stores[0]);
  tide__store_close(stores[1]);
  c->store = kept;
}

/* ---- a log-in ---------------------------------------------------------------------------- */

static void test_a_wrong_password_is_said_at_once_and_not_shown(void **state) {
  (void)state;
  static const char *const logins[] = {"tidelog:opensesame", "tidelog:open%20sesame",
                                       "tidelog:open%2Fsesame", "nobody:opensesame"};
  char uri[512];
  const char *host = variable("TIDELOG_MONGODB_HOST");
  for (size_t i = 0; i < COUNT(logins); i++) {
    uri_of(uri, sizeof uri, "mongodb://%s@%s/?authSource=admin", logins[i], host);
    open_fails(uri, TIDE_STORE, 0, "uthentication", "sesame");
    uri_of(uri, sizeof uri, "mongodb://%s@%s/?authMechanism=SCRAM-SHA-256", logins[i], host);
    open_fails(uri, TIDE_STORE, 0, "uthentication", "sesame");
  }
  lives_in_silence(uri, TIDE_STORE);
  /* a mechanism that the server has not, or that there is not */
  uri_of(uri, sizeof uri, "mongodb://tidelog:opensesame@%s/?authMechanism=PLAIN", host);
  open_fails(uri, TIDE_STORE, -1, "MongoDB at ", "sesame");
  uri_of(uri, sizeof uri, "mongodb://tidelog:opensesame@%s/?authMechanism=NONE", host);
  open_fails(uri, TIDE_STORE, -1, "MongoDB at ", "sesame");
  /* the right password in a database that does not have the user */
  uri_of(uri, sizeof uri, "%s", variable("TIDELOG_MONGODB_URI"));
  char *source = strstr(uri, "authSource=admin");
  assert_non_null(source);
  memcpy(source, "authSource=nimda", strlen("authSource=nimda"));
  open_fails(uri, TIDE_STORE, 0, "uthentication", variable("TIDELOG_MONGODB_PASSWORD"));
}

static void test_a_password_is_masked_in_what_the_server_says(void **state) {
  (void)state;
  char uri[512];
  fault_rule(
      "'command': 'saslStart', 'times': 0, 'action': 'answer', 'reply': {'ok': 0, 'code': 18, "
      "'errmsg': 'not open sesame, nor open%%20sesame, nor open sesame'}");
  uri_of(uri, sizeof uri, "mongodb://tidelog:open%%20sesame@%s/?authSource=admin",
         variable("TIDELOG_MONGODB_HOST"));
  open_fails(uri, TIDE_STORE, 0, "not ***********, nor *************, nor ***********", "sesame");
}

static void test_without_a_log_in_one_gets_no_further_than_the_door(void **state) {
  (void)state;
  char uri[512];
  tide_store *store = NULL;
  tide_error error = {0};
  tide_head head;
  uri_of(uri, sizeof uri, "mongodb://%s/", variable("TIDELOG_MONGODB_HOST"));
  int code = tide__store_open(uri, NULL, &store, &error);
  if (code == TIDE_OK) code = tide__store_head(store, T, &head, &error);
  assert_int_equal(code, TIDE_STORE);
  assert_int_equal(error.transient, 0);
  tide__store_close(store);
}

/* ---- TLS ----------------------------------------------------------------------------- */

/* A URI of the server by TLS, with this host for its own and these options. */
static void tls_uri(char *uri, size_t size, const char *address, const char *ca, const char *key) {
  const char *host = variable("TIDELOG_MONGODB_HOST"), *tls = variable("TIDELOG_MONGODB_TLS");
  const char *port = strrchr(host, ':');
  assert_non_null(port);
  uri_of(uri, size, "mongodb://%s%s/?serverSelectionTimeoutMS=1000&socketTimeoutMS=1000&tls=true",
         address, port);
  size_t used = strlen(uri);
  if (ca != NULL) uri_of(uri + used, size - used, "&tlsCAFile=%s/%s", tls, ca);
  used = strlen(uri);
  if (key != NULL) uri_of(uri + used, size - used, "&tlsCertificateKeyFile=%s/%s", tls, key);
}

static void test_a_server_that_cannot_prove_itself_is_not_spoken_to(void **state) {
  (void)state;
  char uri[1024];
  tls_uri(uri, sizeof uri, "127.0.0.1", "other-ca.pem", NULL);
  open_fails(uri, TIDE_STORE, -1, "TLS handshake failed: certificate verify failed", NULL);
  lives_in_silence(uri, TIDE_STORE);
  tls_uri(uri, sizeof uri, "127.0.0.1", NULL, NULL);
  open_fails(uri, TIDE_STORE, -1, "TLS handshake failed: certificate verify failed", NULL);
}

static void test_a_certificate_of_another_host_is_refused(void **state) {
  (void)state;
  char uri[1024];
  tls_uri(uri, sizeof uri, "127.1", "ca.pem", NULL); /* the same address by another name */
  open_fails(uri, TIDE_STORE, -1, "hostname mismatch", NULL);
}

static void test_a_file_of_tls_that_is_missing_or_none_is_said(void **state) {
  (void)state;
  char uri[1024];
  tls_uri(uri, sizeof uri, "127.0.0.1", "missing.pem", NULL);
  open_fails(uri, TIDE_STORE, 0, "missing.pem cannot be read: there is no such file", NULL);
  tls_uri(uri, sizeof uri, "127.0.0.1", "ca.pem", "missing.pem");
  open_fails(uri, TIDE_STORE, 0, "missing.pem cannot be read: there is no such file", NULL);
  lives_in_silence(uri, TIDE_STORE);
  tls_uri(uri, sizeof uri, "127.0.0.1", "names", NULL); /* a file, but no certificate */
  open_fails(uri, TIDE_STORE, -1, "connecting by TLS", NULL);
  lives_in_silence(uri, TIDE_STORE);
}

static void test_a_server_that_wants_tls_is_not_reached_without(void **state) {
  (void)state;
  char uri[1024];
  uri_of(uri, sizeof uri, "mongodb://%s/?serverSelectionTimeoutMS=1000",
         variable("TIDELOG_MONGODB_HOST"));
  open_fails(uri, TIDE_STORE, -1, "connection closed", NULL);
}

static void test_a_client_without_a_certificate_is_refused(void **state) {
  (void)state;
  char uri[1024];
  tls_uri(uri, sizeof uri, "127.0.0.1", "ca.pem", NULL);
  open_fails(uri, TIDE_STORE, -1, "connecting by TLS", NULL);
  lives_in_silence(uri, TIDE_STORE);
}

/* ---- X.509, at the proxy ---------------------------------------------------------------- */

static void test_a_certificate_logs_in(void **state) {
  contract *c = *state;
  bson_t *before = fault_proxy("{'do': 'stats'}");
  contract_reopen(c);
  bson_t *after = fault_proxy("{'do': 'stats'}");
  /* the proxy lets nothing through that is not behind an authenticate by the certificate */
  assert_true(fault_number(after, "commands.authenticate") >
              fault_number(before, "commands.authenticate"));
  assert_int_equal(fault_number(after, "commands.saslStart"), -1);
  bson_destroy(before);
  bson_destroy(after);
  contract_put(c, T, "Adder", "a", 0, 1);
}

static void test_a_certificate_of_somebody_else_is_refused(void **state) {
  (void)state;
  static const char log_in[] = "&authMechanism=MONGODB-X509&authSource=$external";
  char uri[1024], more[1200];
  tls_uri(uri, sizeof uri, "127.0.0.1", "ca.pem", "server.pem"); /* of the same authority */
  uri_of(more, sizeof more, "%s%s", uri, log_in);
  open_fails(more, TIDE_STORE, 0, "Authentication failed", NULL);
  tls_uri(uri, sizeof uri, "127.0.0.1", "ca.pem", "client.pem"); /* as another user */
  uri_of(more, sizeof more, "%s%s", uri, log_in);
  char *host = strstr(more, "127.0.0.1");
  assert_non_null(host);
  uri_of(uri, sizeof uri, "mongodb://CN=nobody@%s", host);
  open_fails(uri, TIDE_STORE, 0, "Authentication failed", NULL);
}

static void test_an_expired_certificate_is_refused(void **state) {
  (void)state;
  char uri[1024];
  uri_of(uri, sizeof uri, "%s&serverSelectionTimeoutMS=1000", variable("TIDELOG_MONGODB_URI"));
  open_fails(uri, TIDE_STORE, -1, "TLS handshake failed: certificate verify failed", NULL);
  open_fails(uri, TIDE_STORE, -1, "expired", NULL);
  lives_in_silence(uri, TIDE_STORE);
}

/* ---- SRV ----------------------------------------------------------------------------- */

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

static void test_the_txt_record_may_name_the_replica_set(void **state) {
  contract *c = *state;
  const char *prefix = strstr(c->uri, "tidelogPrefix=");
  assert_non_null(prefix);
  char uri[sizeof c->uri];
  uri_of(uri, sizeof uri, "mongodb+srv://%s.tidelog.test/?tls=false&%s",
         variable("TIDELOG_MONGODB_SERVER"), prefix);
  lives_in_silence(uri, TIDE_OK);
}

static void test_a_txt_record_that_asks_for_less_is_refused(void **state) {
  (void)state;
  open_fails("mongodb+srv://weak.tidelog.test/?tls=false", TIDE_STORE, 0, "TXT record", NULL);
}

/* With a user, who is looked for in the database that the TXT record names. */
static void test_the_txt_record_names_the_database_of_users(void **state) {
  contract *c = *state;
  const char *user = strstr(c->uri, "//"), *prefix = strstr(c->uri, "tidelogPrefix=");
  assert_true(user != NULL && prefix != NULL);
  const int size = (int)strcspn(user, "@");
  char uri[sizeof c->uri];
  uri_of(uri, sizeof uri, "mongodb+srv:%.*s@db.tidelog.test/?tls=false&%s", size, user, prefix);
  lives_in_silence(uri, TIDE_OK);
  uri_of(uri, sizeof uri, "mongodb+srv:%.*s@nimda.tidelog.test/?tls=false&%s", size, user, prefix);
  open_fails(uri, TIDE_STORE, 0, "uthentication", variable("TIDELOG_MONGODB_PASSWORD"));
}

static void test_srv_names_that_lead_nowhere_are_said(void **state) {
  (void)state;
  open_fails("mongodb+srv://nobody.tidelog.test/?tls=false", TIDE_STORE, -1, "SRV", NULL);
  open_fails("mongodb+srv://elsewhere.tidelog.test/?tls=false", TIDE_STORE, -1, "elsewhere", NULL);
  lives_in_silence("mongodb+srv://nobody.tidelog.test/?tls=false", TIDE_STORE);
}

/* ---- what a server lacks, by the proxy ----------------------------------------------- */

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
  lives_in_silence(c->uri, TIDE_OK);
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
  lives_in_silence(c->uri, TIDE_OK);
}

static void test_a_standalone_server_has_neither_transactions_nor_streams(void **state) {
  contract *c = *state;
  open_as(c, "standalone", "directConnection=true");
  works(c);
  described_is(c, "server", "standalone");
  lives_in_silence(c->uri, TIDE_OK);
  described_is(c, "documents", "forward only");
  described_is(c, "news", "polling");
}

#define PLAIN(f) cmocka_unit_test(f)

int main(int argc, char **argv) {
  static const struct CMUnitTest any[] = {
      CASE(test_all_kinds_of_calls_work),
      CASE(test_a_process_with_a_store_prints_nothing),
      PLAIN(test_what_is_no_connection_string_is_refused_without_its_password),
      PLAIN(test_where_nobody_is_the_error_says_so),
      PLAIN(test_a_server_that_never_answers_is_given_up),
      PLAIN(test_what_fails_prints_nothing),
      CASE(test_prefixes_keep_tenants_apart),
  };
  static const struct CMUnitTest auth[] = {
      CASE(test_all_kinds_of_calls_work),
      CASE(test_a_process_with_a_store_prints_nothing),
      PLAIN(test_a_wrong_password_is_said_at_once_and_not_shown),
      PLAIN(test_without_a_log_in_one_gets_no_further_than_the_door),
      PROXY_CASE(test_a_password_is_masked_in_what_the_server_says),
  };
  static const struct CMUnitTest tls[] = {
      CASE(test_all_kinds_of_calls_work),
      CASE(test_a_process_with_a_store_prints_nothing),
      PLAIN(test_a_server_that_cannot_prove_itself_is_not_spoken_to),
      PLAIN(test_a_certificate_of_another_host_is_refused),
      PLAIN(test_a_file_of_tls_that_is_missing_or_none_is_said),
      PLAIN(test_a_server_that_wants_tls_is_not_reached_without),
  };
  static const struct CMUnitTest certificate[] = {
      CASE(test_all_kinds_of_calls_work),
      CASE(test_a_process_with_a_store_prints_nothing),
      PLAIN(test_a_client_without_a_certificate_is_refused),
  };
  static const struct CMUnitTest x509[] = {
      CASE(test_all_kinds_of_calls_work),
      CASE(test_a_process_with_a_store_prints_nothing),
      PLAIN(test_a_client_without_a_certificate_is_refused),
      CASE(test_a_certificate_logs_in),
      PLAIN(test_a_certificate_of_somebody_else_is_refused),
  };
  static const struct CMUnitTest expired[] = {PLAIN(test_an_expired_certificate_is_refused)};
  static const struct CMUnitTest srv[] = {
      CASE(test_a_name_is_resolved_by_srv_and_txt),
      CASE(test_the_txt_record_may_name_the_replica_set),
      PLAIN(test_a_txt_record_that_asks_for_less_is_refused),
      PLAIN(test_srv_names_that_lead_nowhere_are_said),
  };
  static const struct CMUnitTest srv_auth[] = {
      CASE(test_the_txt_record_names_the_database_of_users),
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
  };
  static const struct {
    const char *name;
    const struct CMUnitTest *cases;
    size_t count;
  } kinds[] = {{"any", any, COUNT(any)},      {"auth", auth, COUNT(auth)},
               {"tls", tls, COUNT(tls)},      {"certificate", certificate, COUNT(certificate)},
               {"x509", x509, COUNT(x509)},   {"expired", expired, COUNT(expired)},
               {"srv", srv, COUNT(srv)},      {"srv_auth", srv_auth, COUNT(srv_auth)},
               {"lacks", lacks, COUNT(lacks)}};
  if (argc == 3 && strcmp(argv[1], "live") == 0) return live(argv[2]);
  for (size_t i = 0; i < COUNT(kinds) && argc == 2; i++)
    if (strcmp(argv[1], kinds[i].name) == 0)
      return fault_run(kinds[i].name, kinds[i].cases, kinds[i].count);
  (void)fprintf(
      stderr, "usage: test_connection any|auth|tls|certificate|x509|expired|srv|srv_auth|lacks\n");
  return 2;
}
