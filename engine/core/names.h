/* names.h - the rules for what users name: tenants, aggregates, threads,
** handlers, command ids and document paths. The rules are the strictest
** database's, so that a tenant can move from one store to another. */
#ifndef TIDE_CORE_NAMES_H
#define TIDE_CORE_NAMES_H

#include <stddef.h>

#include "tidelog.h"

#define TIDE_TENANT_MAX 38   /* bytes: [a-z0-9][a-z0-9_-]{0,37} */
#define TIDE_NAME_MAX   256  /* bytes: types, ids, threads, handlers, command ids */
#define TIDE_PATH_MAX   1024 /* bytes: document paths */
#define TIDE_WRITER_MAX (2 * TIDE_NAME_MAX + 1) /* bytes: who writes a document, THREAD/HANDLER */

/* Each returns TIDE_OK, TIDE_MISSING_ARGUMENT (NULL or empty) or
** TIDE_INVALID_ARGUMENT with error->argument set to `argument` and a message
** that shows the (shortened) value and the rule. `size` is in bytes; the text
** need not be NUL-terminated and may hold a NUL, which is refused. */
int tide__check_tenant(const char *tenant, size_t size, tide_error *error);

/* 1 to TIDE_NAME_MAX bytes of UTF-8 without control characters. */
int tide__check_name(const char *argument, const char *name, size_t size, tide_error *error);

/* 1 to `most` bytes of UTF-8 without control characters. */
int tide__check_text(const char *argument, const char *text, size_t size, size_t most,
                     tide_error *error);

/* Starts with '/', 2 to TIDE_PATH_MAX bytes of UTF-8 without control characters. */
int tide__check_path(const char *path, size_t size, tide_error *error);

/* 1 if the bytes are UTF-8 (NUL allowed). */
int tide__is_utf8(const char *text, size_t size);

#endif
