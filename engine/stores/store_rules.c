/* store_rules.c - the rules that all stores keep in the same way: who has a lease, what an
** import may follow, how one waits where the database tells no news. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/clock.h"
#include "core/error.h"
#include "stores/store.h"

int tide__import_follows(const tide_commit *first, const tide_head *head, bool torn,
                         tide_error *error) {
  tide_head end = *head;
  tide_error why = {0};
  int code =
      torn ? tide__commit_verify_torn(first, &end, &why) : tide__commit_verify(first, &end, &why);
  if (code == TIDE_OK) return TIDE_OK;
  if (first->position != head->position)
    return tide__fail(error, TIDE_CONCURRENCY, "position",
                      "the log ends at position %lld, and the import goes on at %lld",
                      (long long)head->position, (long long)first->position);
  return tide__fail(error, TIDE_CONCURRENCY, "hash",
                    "the import does not follow the log at position %lld: it is of another "
                    "history, or was altered",
                    (long long)head->position);
}

int tide__fail_import(const tide_commit *commit, int64_t next, tide_error *error) {
  if (commit->version == next)
    return tide__fail_store(error, 0,
                            "the import has the commandId of the commit at position %lld twice",
                            (long long)commit->position);
  return tide__fail_store(error, 0,
                          "the import has version %lld of %s '%s' at position %lld where %lld "
                          "is expected",
                          (long long)commit->version, commit->type, commit->id,
                          (long long)commit->position, (long long)next);
}

int tide__wait_by_polling(tide_store *store, const char *tenant, int64_t position, int64_t timeout,
                          int64_t *head, tide_error *error) {
  const int64_t end = tide__monotonic() + timeout;
  for (int64_t pause = 1;; pause = pause < 25 ? pause * 2 : 50) {
    tide_head now = {0};
    int code = store->ops->head(store, tenant, &now, error);
    if (code != TIDE_OK) return code;
    *head = now.position;
    const int64_t left = end - tide__monotonic();
    if (now.position > position || left <= 0) return TIDE_OK;
    if (pause > left) pause = left;
    const struct timespec time = {0, (long)pause * 1000000};
    (void)nanosleep(&time, NULL); /* cut short by a signal: looks sooner */
  }
}

/* As BSON has sizes: 32 bits, the lowest first. */
static uint8_t *put_size(uint8_t *at, size_t size) {
  for (int i = 0; i < 4; i++)
    *at++ = (uint8_t)(size >> (8 * i));
  return at;
}

int tide__describe(const char *const pairs[][2], size_t count, tide_bytes *bson,
                   tide_error *error) {
  size_t size = 5; /* the frame; an element: its type, key and NUL, size, text and NUL */
  for (size_t i = 0; i < count; i++)
    size += 7 + strlen(pairs[i][0]) + strlen(pairs[i][1]);
  uint8_t *at = calloc(1, size);
  if (at == NULL) return tide__fail_memory(error);
  *bson = (tide_bytes){at, size};
  at = put_size(at, size);
  for (size_t i = 0; i < count; i++) {
    const size_t key = strlen(pairs[i][0]) + 1, text = strlen(pairs[i][1]) + 1;
    *at++ = 2;
    memcpy(at, pairs[i][0], key);
    at = put_size(at + key, text);
    memcpy(at, pairs[i][1], text);
    at += text;
  }
  return TIDE_OK;
}

bool tide__lease_of_another(const char *holder, int64_t until, const char *owner, int64_t now) {
  return holder != NULL && holder[0] != '\0' && until > now && until <= now + TIDE_LEASE_MAX &&
         strcmp(holder, owner) != 0;
}

int tide__fail_lease(const char *thread, int64_t token, int64_t current, tide_error *error) {
  if (token == current)
    return tide__fail(
        error, TIDE_CONCURRENCY, "lease",
        "the lease %lld on thread %.80s has expired or was given up: a longer timeout "
        "gives handlers more time",
        (long long)token, thread);
  return tide__fail(error, TIDE_CONCURRENCY, "lease",
                    "the lease %lld on thread %.80s was lost: another reader has the lease %lld",
                    (long long)token, thread, (long long)current);
}

int tide__fail_held(const char *thread, const char *owner, int64_t until, tide_error *error) {
  char time[TIDE_TIME_TEXT];
  tide__time_format(until, time);
  return tide__fail(error, TIDE_CONCURRENCY, "lease",
                    "the lease on thread %.80s is held by %.80s until %s", thread, owner, time);
}
