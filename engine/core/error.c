/* error.c - filling the caller's tide_error. */
#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *tide_error_name(int code) {
  switch (code) {
  case TIDE_INVALID_ARGUMENT:
    return "InvalidArgumentError";
  case TIDE_MISSING_ARGUMENT:
    return "MissingArgumentError";
  case TIDE_NOT_IMPLEMENTED:
    return "NotImplementedError";
  case TIDE_CONCURRENCY:
    return "ConcurrencyError";
  case TIDE_PRECONDITION:
    return "PreconditionError";
  case TIDE_ACCESS_DENIED:
    return "AccessDeniedError";
  case TIDE_LIMIT:
    return "LimitError";
  case TIDE_STORE:
    return "StoreError";
  case TIDE_NO_MEMORY:
    return "NoMemoryError";
  case TIDE_DOMAIN:
    return "DomainError";
  default:
    return "Error";
  }
}

const char *tide_version(void) {
  return TIDE_VERSION;
}

/* How many of the first `size` bytes end at a whole UTF-8 character. */
static size_t whole_characters(const char *text, size_t size) {
  size_t lead = size;
  while (lead > 0 && ((unsigned char)text[lead - 1] & 0xC0) == 0x80)
    lead--;
  if (lead == 0) return size;
  unsigned char first = (unsigned char)text[lead - 1];
  size_t need = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
  return lead - 1 + need > size ? lead - 1 : size;
}

static void fill(tide_error *error, int code, int transient, const char *argument,
                 const char *format, va_list arguments) {
  error->code = code;
  error->transient = transient;
  size_t length = argument == NULL ? 0 : strlen(argument);
  if (length >= sizeof error->argument)
    length = whole_characters(argument, sizeof error->argument - 1);
  if (length > 0) memcpy(error->argument, argument, length);
  error->argument[length] = '\0';
  int written = vsnprintf(error->message, sizeof error->message, format, arguments);
  if (written < 0) error->message[0] = '\0';
  if (written >= (int)sizeof error->message)
    error->message[whole_characters(error->message, sizeof error->message - 1)] = '\0';
}

int tide__fail(tide_error *error, int code, const char *argument, const char *format, ...) {
  if (error != NULL) {
    va_list arguments;
    va_start(arguments, format);
    fill(error, code, 0, argument, format, arguments);
    va_end(arguments);
  }
  return code;
}

int tide__fail_store(tide_error *error, int transient, const char *format, ...) {
  if (error != NULL) {
    va_list arguments;
    va_start(arguments, format);
    fill(error, TIDE_STORE, transient, NULL, format, arguments);
    va_end(arguments);
  }
  return TIDE_STORE;
}

int tide__fail_memory(tide_error *error) {
  return tide__fail(error, TIDE_NO_MEMORY, NULL, "out of memory");
}
