/* open.c - which store a URI means: the one file that knows them all. */
#include <string.h>

#include "core/error.h"
#include "stores/store.h"

#define SHOWN_URI 80 /* bytes of a scheme that a message shows */

int tide__store_open(const char *uri, const tide_store_options *options, tide_store **store,
                     tide_error *error) {
  static const tide_store_options defaults;
  if (store == NULL) return tide__fail(error, TIDE_MISSING_ARGUMENT, "store", "store is missing");
  *store = NULL;
  if (uri == NULL || uri[0] == '\0')
    return tide__fail(error, TIDE_MISSING_ARGUMENT, "uri", "uri is missing");
  tide_store_options chosen = options == NULL ? defaults : *options;
  if (chosen.busy_timeout < 0 || chosen.max_open < 0)
    return tide__fail(error, TIDE_INVALID_ARGUMENT,
                      chosen.busy_timeout < 0 ? "busyTimeout" : "maxOpen", "%s is less than 0",
                      chosen.busy_timeout < 0 ? "busyTimeout" : "maxOpen");
  if (chosen.busy_timeout == 0) chosen.busy_timeout = 10000;
  if (chosen.max_open == 0) chosen.max_open = 64;
  if (strncmp(uri, "sqlite:", 7) == 0) return tide__sqlite_open(uri + 7, &chosen, store, error);
  if (strncmp(uri, "mongodb://", 10) == 0 || strncmp(uri, "mongodb+srv://", 14) == 0)
    return tide__mongo_open(uri, &chosen, store, error);
  if (strcmp(uri, "memory:") == 0) return tide__memory_open(&chosen, store, error);
  if (strncmp(uri, "memory:", 7) == 0)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "uri", "uri has something behind memory:");
  /* Only the scheme is shown: what follows it may hold a password. */
  const char *colon = strchr(uri, ':');
  if (colon == NULL)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "uri",
                      "uri has no scheme: it is sqlite:FOLDER, mongodb://… or memory:");
  int scheme = colon - uri > SHOWN_URI ? SHOWN_URI : (int)(colon - uri);
  return tide__fail(error, TIDE_INVALID_ARGUMENT, "uri",
                    "uri with the scheme '%.*s' is none of sqlite:FOLDER, mongodb://…, "
                    "mongodb+srv://… and memory:",
                    scheme, uri);
}
