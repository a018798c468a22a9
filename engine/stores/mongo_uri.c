/* mongo_uri.c - MongoDB connection strings: what may stand in them, what is set where they
** say nothing, and what never shows. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "stores/mongo_store.h"

#define OWN_OPTION        "tidelogPrefix="
#define CONNECT_TIMEOUT   5000  /* ms */
#define SOCKET_TIMEOUT    20000 /* ms: longer than any command of ours */
#define SELECTION_TIMEOUT 10000 /* ms: longer than an election */

static int invalid(tide_error *error, const char *why) {
  return tide__fail(error, TIDE_INVALID_ARGUMENT, "uri",
                    "uri is no MongoDB connection string that can be used: %s", why);
}

static int read_prefix(const char *text, size_t size, char *to, tide_error *error) {
  bool good = size >= 1 && size <= TIDE__PREFIX_MAX && text[0] != '_' && text[0] != '-';
  for (size_t i = 0; i < size && good; i++)
    good = (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= '0' && text[i] <= '9') ||
           text[i] == '_' || text[i] == '-';
  if (!good)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "uri",
                      "tidelogPrefix is not [a-z0-9][a-z0-9_-]{0,%d}", TIDE__PREFIX_MAX - 1);
  memcpy(to, text, size);
  to[size] = '\0';
  return TIDE_OK;
}

/* Takes our own option out of the text, which libmongoc would not know. */
static int take_prefix(char *text, char *prefix, tide_error *error) {
  char *query = strchr(text, '?');
  if (query == NULL) return TIDE_OK;
  for (char *option = query + 1; *option != '\0';) {
    size_t size = strcspn(option, "&");
    char *behind = option + size + (option[size] == '&' ? 1 : 0);
    if (strncasecmp(option, OWN_OPTION, sizeof OWN_OPTION - 1) != 0) {
      option = behind;
      continue;
    }
    int code =
        read_prefix(option + sizeof OWN_OPTION - 1, size - (sizeof OWN_OPTION - 1), prefix, error);
    if (code != TIDE_OK) return code;
    memmove(option, behind, strlen(behind) + 1);
  }
  size_t end = strlen(text);
  if (text[end - 1] == '&' || text[end - 1] == '?') text[end - 1] = '\0';
  return TIDE_OK;
}

/* What the protocol stands on cannot be asked for otherwise. */
static int check_concerns(const mongoc_uri_t *uri, tide_error *error) {
  const mongoc_write_concern_t *write = mongoc_uri_get_write_concern(uri);
  const int32_t w = mongoc_write_concern_get_w(write);
  if (w != MONGOC_WRITE_CONCERN_W_DEFAULT && w != MONGOC_WRITE_CONCERN_W_MAJORITY)
    return invalid(error, "w is not majority, and less would lose acknowledged commits");
  if (mongoc_write_concern_journal_is_set(write) && !mongoc_write_concern_get_journal(write))
    return invalid(error, "journal=false would lose acknowledged commits");
  if (mongoc_read_prefs_get_mode(mongoc_uri_get_read_prefs_t(uri)) != MONGOC_READ_PRIMARY)
    return invalid(error, "readPreference is not primary, and others may be behind");
  const char *level = mongoc_read_concern_get_level(mongoc_uri_get_read_concern(uri));
  if (level != NULL && strcmp(level, "majority") != 0)
    return invalid(error, "readConcernLevel is not majority, and less may be taken back");
  return TIDE_OK;
}

/* libmongoc tells of a file that it cannot read only in its log. */
static int check_files(const tide__mongo_uri *uri, tide_error *error) {
  static const char *const options[] = {"tlsCAFile", "tlsCertificateKeyFile"};
  for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
    const char *file = mongoc_uri_get_option_as_utf8(uri->uri, options[i], NULL);
    if (file == NULL || access(file, R_OK) == 0) continue;
    const int why = errno;
    return tide__fail_store(error, 0, "MongoDB at %.100s, connecting: %s %.200s cannot be read: %s",
                            uri->place, options[i], file,
                            why == ENOENT ? "there is no such file" : "it may not be opened");
  }
  return TIDE_OK;
}

static bool set_default(mongoc_uri_t *uri, const char *option, int32_t value) {
  return mongoc_uri_has_option(uri, option) || mongoc_uri_set_option_as_int32(uri, option, value);
}

static bool set_defaults(mongoc_uri_t *uri) {
  return (mongoc_uri_get_appname(uri) != NULL ||
          mongoc_uri_set_appname(uri, "tidelog/" TIDE_VERSION)) &&
         set_default(uri, MONGOC_URI_CONNECTTIMEOUTMS, CONNECT_TIMEOUT) &&
         set_default(uri, MONGOC_URI_SOCKETTIMEOUTMS, SOCKET_TIMEOUT) &&
         set_default(uri, MONGOC_URI_SERVERSELECTIONTIMEOUTMS, SELECTION_TIMEOUT);
}

/* Where the hosts begin, behind what may be a user and a password. Up to the end, where nobody
** has found the string valid: a password may hold a '/' that should have been escaped. */
static const char *hosts_of(const char *text, bool valid) {
  const char *authority = strstr(text, "//") + 2, *hosts = authority;
  const size_t size = valid ? strcspn(authority, "/?") : strlen(authority);
  for (const char *c = authority; c < authority + size; c++)
    if (*c == '@') hosts = c + 1;
  return hosts;
}

static char *place_of(const char *hosts) {
  return strndup(hosts, strcspn(hosts, "/?"));
}

/* The password as it is written, up to the '@' in front of the hosts. */
static char *written_password(const char *text) {
  const char *user = strstr(text, "//") + 2, *hosts = hosts_of(text, true);
  const char *colon = hosts == user ? NULL : memchr(user, ':', (size_t)(hosts - user));
  return colon == NULL ? strdup("") : strndup(colon + 1, (size_t)(hosts - colon) - 2);
}

int tide__mongo_uri_read(const char *text, tide__mongo_uri *to, tide_error *error) {
  bson_error_t why;
  const char *password = NULL;
  memset(to, 0, sizeof *to);
  char *copy = strdup(text);
  if (copy == NULL) return tide__fail_memory(error);
  const char *hosts = hosts_of(copy, false);
  to->place = place_of(hosts);
  int code = to->place == NULL ? tide__fail_memory(error) : TIDE_OK;
  if (code == TIDE_OK) code = take_prefix(copy, to->prefix, error);
  if (code != TIDE_OK) goto end;
  to->uri = mongoc_uri_new_with_error(copy, &why);
  if (to->uri == NULL) {
    /* libmongoc's reason may show any part of it, so it is given only without secrets */
    code =
        invalid(error, hosts == strstr(copy, "//") + 2
                           ? why.message
                           : "it is mongodb://[user:password@]host[:port][,…][/?option=value&…], "
                             "where : / ? @ in user and password are %-escaped");
    goto end;
  }
  free(to->place);
  to->place = place_of(hosts_of(copy, true));
  code = to->place == NULL ? tide__fail_memory(error) : check_concerns(to->uri, error);
  if (code == TIDE_OK) code = check_files(to, error);
  if (code != TIDE_OK) goto end;
  password = mongoc_uri_get_password(to->uri);
  to->secret = strdup(password == NULL ? "" : password);
  to->written = written_password(copy);
  if (to->secret == NULL || to->written == NULL || !set_defaults(to->uri))
    code = tide__fail_memory(error);
end:
  free(copy);
  if (code != TIDE_OK) tide__mongo_uri_free(to);
  return code;
}

void tide__mongo_uri_free(tide__mongo_uri *uri) {
  if (uri->uri != NULL) mongoc_uri_destroy(uri->uri);
  free(uri->place);
  free(uri->secret);
  free(uri->written);
  memset(uri, 0, sizeof *uri);
}
