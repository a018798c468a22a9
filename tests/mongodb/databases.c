/* databases.c - marked URIs, and dropping what they lead to. */
#include "databases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char option[] = "tidelogPrefix=";

bool databases_have_server(void) {
  return getenv("TIDELOG_MONGODB_URI") != NULL;
}

void databases_uri(const char *uri, const char *mark, char *marked, size_t size) {
  const char *prefix = strstr(uri, option);
  int length;
  if (prefix == NULL) {
    length = snprintf(marked, size, "%s&%s%s", uri, option, mark);
  } else {
    prefix += strlen(option);
    const int until = (int)(prefix + strcspn(prefix, "&") - uri);
    length = snprintf(marked, size, "%.*s%s%s", until, uri, mark, uri + until);
  }
  assert_in_range(length, 1, size - 1);
}

/* The URI's prefix; "" where it has none. */
static void prefix_of(const char *uri, char *prefix, size_t size) {
  const char *found = strstr(uri, option);
  const char *begins = found != NULL ? found + strlen(option) : "";
  const int length = snprintf(prefix, size, "%.*s", (int)strcspn(begins, "&"), begins);
  assert_in_range(length, 0, size - 1);
}

mongoc_client_t *databases_client(void) {
  char uri[1024];
  const char *direct = getenv("TIDELOG_MONGODB_DIRECT");
  assert_non_null(direct);
  const char *found = strstr(direct, option); /* the store's, not the driver's */
  if (found == NULL) {
    assert_in_range(snprintf(uri, sizeof uri, "%s", direct), 1, sizeof uri - 1);
  } else {
    const char *rest = found + strcspn(found, "&");
    assert_in_range(snprintf(uri, sizeof uri, "%.*s%s", (int)(found - direct), direct, rest), 1,
                    sizeof uri - 1);
  }
  mongoc_init();
  mongoc_client_t *client = mongoc_client_new(uri);
  assert_non_null(client);
  return client;
}

void databases_name(const char *uri, const char *tenant, char *name, size_t size) {
  char prefix[64];
  prefix_of(uri, prefix, sizeof prefix);
  assert_in_range(snprintf(name, size, "%s%s", prefix, tenant), 1, size - 1);
}

void databases_drop(const char *uri) {
  char prefix[64];
  bson_error_t error;
  prefix_of(uri, prefix, sizeof prefix);
  assert_true(prefix[0] != '\0'); /* it would drop everything */
  mongoc_client_t *client = databases_client();
  char **names = mongoc_client_get_database_names_with_opts(client, NULL, &error);
  if (names == NULL) fail_msg("the databases cannot be listed: %s", error.message);
  for (size_t i = 0; names[i] != NULL; i++) {
    if (strncmp(names[i], prefix, strlen(prefix)) != 0) continue;
    mongoc_database_t *database = mongoc_client_get_database(client, names[i]);
    if (!mongoc_database_drop(database, &error)) fail_msg("%s: %s", names[i], error.message);
    mongoc_database_destroy(database);
  }
  bson_strfreev(names);
  mongoc_client_destroy(client);
}
