/* commit.c - the commit and the SHA-256 that chains it to the one before it. */
#include "core/commit.h"

#include <openssl/evp.h>
#include <string.h>

#include "core/error.h"
#include "core/names.h"

/* Checks the frame of a BSON document only; its content is the encoder's. */
static int check_body(const tide_commit *commit, tide_error *error) {
  const uint8_t *b = commit->body;
  size_t size = commit->body_size;
  if (size > TIDE_BODY_MAX)
    return tide__fail(error, TIDE_LIMIT, "body",
                      "the command's events and payload take %zu bytes, more than %d", size,
                      TIDE_BODY_MAX);
  uint32_t framed = 0;
  if (b != NULL && size >= 5)
    framed = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
  if (framed != size || size < 5 || b[size - 1] != 0)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "body",
                      "the body is not one BSON document (%zu bytes)", size);
  return TIDE_OK;
}

static size_t length(const char *text) {
  return text == NULL ? 0 : strlen(text);
}

int tide__commit_check(const tide_commit *commit, tide_error *error) {
  int code = tide__check_name("aggregateType", commit->type, length(commit->type), error);
  if (code == TIDE_OK)
    code = tide__check_name("aggregateId", commit->id, length(commit->id), error);
  if (code == TIDE_OK && commit->command_id != NULL)
    code = tide__check_name("commandId", commit->command_id, length(commit->command_id), error);
  if (code != TIDE_OK) return code;
  if (commit->version < 0 || commit->version > INT64_MAX - INT32_MAX)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "version",
                      "version %lld is not from 0 to 2^63 - 2^31", (long long)commit->version);
  if (commit->count < 1)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "count",
                      "a commit has 1 or more events, not %d", (int)commit->count);
  return check_body(commit, error);
}

static void put_int(uint8_t *to, int bytes, uint64_t value) {
  for (int i = 0; i < bytes; i++)
    to[i] = (uint8_t)(value >> (8 * i));
}

/* A text that may be NULL, after its size; NULL has a size that no text has. */
static int hash_text(EVP_MD_CTX *context, const char *text) {
  uint8_t size[4];
  size_t bytes = length(text);
  put_int(size, 4, text == NULL ? UINT32_MAX : bytes);
  return EVP_DigestUpdate(context, size, sizeof size) == 1 &&
         (bytes == 0 || EVP_DigestUpdate(context, text, bytes) == 1);
}

/* SHA-256 over: the previous hash; position, version and time as 64-bit and count as
** 32-bit little-endian integers; type, id and command id, each after its size as 32 bits;
** the body. Sizes come before texts so that no two commits give the same bytes. */
static int hash_commit(const tide_commit *commit, const uint8_t previous[TIDE_HASH_SIZE],
                       uint8_t hash[TIDE_HASH_SIZE], tide_error *error) {
  uint8_t fixed[TIDE_HASH_SIZE + 3 * 8 + 4];
  memcpy(fixed, previous, TIDE_HASH_SIZE);
  put_int(fixed + TIDE_HASH_SIZE, 8, (uint64_t)commit->position);
  put_int(fixed + TIDE_HASH_SIZE + 8, 8, (uint64_t)commit->version);
  put_int(fixed + TIDE_HASH_SIZE + 16, 8, (uint64_t)commit->time);
  put_int(fixed + TIDE_HASH_SIZE + 24, 4, (uint32_t)commit->count);
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  int good = context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1 &&
             EVP_DigestUpdate(context, fixed, sizeof fixed) == 1 &&
             hash_text(context, commit->type) && hash_text(context, commit->id) &&
             hash_text(context, commit->command_id) &&
             EVP_DigestUpdate(context, commit->body, commit->body_size) == 1 &&
             EVP_DigestFinal_ex(context, hash, NULL) == 1;
  EVP_MD_CTX_free(context);
  if (!good) return tide__fail_store(error, 0, "libcrypto could not compute a SHA-256");
  return TIDE_OK;
}

int tide__commit_seal(tide_commit *commit, tide_head *head, int64_t now, tide_error *error) {
  if (head->position > INT64_MAX - commit->count)
    return tide__fail(error, TIDE_LIMIT, "position", "the tenant's positions have run out");
  tide_commit sealed = *commit;
  sealed.position = head->position;
  sealed.time = head->position > 0 && head->time > now ? head->time : now;
  int code = hash_commit(&sealed, head->hash, sealed.hash, error);
  if (code != TIDE_OK) return code;
  *commit = sealed;
  head->position += sealed.count;
  head->time = sealed.time;
  memcpy(head->hash, sealed.hash, TIDE_HASH_SIZE);
  return TIDE_OK;
}

static int check_place(const tide_commit *commit, const tide_head *head, tide_error *error) {
  if (commit->position != head->position)
    return tide__fail_store(error, 0, "position %lld follows where %lld is expected",
                            (long long)commit->position, (long long)head->position);
  if (head->position > 0 && commit->time < head->time)
    return tide__fail_store(error, 0,
                            "the commit at position %lld has an earlier time than the "
                            "one before it",
                            (long long)commit->position);
  if (commit->count < 1 || commit->position > INT64_MAX - commit->count)
    return tide__fail_store(error, 0, "the commit at position %lld cannot have %d events",
                            (long long)commit->position, (int)commit->count);
  return TIDE_OK;
}

static void move_behind(const tide_commit *commit, tide_head *head) {
  head->position += commit->count;
  head->time = commit->time;
  memcpy(head->hash, commit->hash, TIDE_HASH_SIZE);
}

int tide__commit_verify(const tide_commit *commit, tide_head *head, tide_error *error) {
  uint8_t hash[TIDE_HASH_SIZE];
  int code = check_place(commit, head, error);
  if (code == TIDE_OK) code = hash_commit(commit, head->hash, hash, error);
  if (code != TIDE_OK) return code;
  if (memcmp(hash, commit->hash, TIDE_HASH_SIZE) != 0)
    return tide__fail_store(error, 0,
                            "the commit at position %lld was altered: its hash does not "
                            "match",
                            (long long)commit->position);
  move_behind(commit, head);
  return TIDE_OK;
}

bool tide__commit_is_tombstone(const tide_commit *commit) {
  return strcmp(commit->type, TIDE_TOMBSTONE) == 0;
}

int tide__commit_verify_torn(const tide_commit *commit, tide_head *head, tide_error *error) {
  int code = check_place(commit, head, error);
  if (code == TIDE_OK) move_behind(commit, head);
  return code;
}
