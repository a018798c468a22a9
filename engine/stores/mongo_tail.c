/* mongo_tail.c - the tail of a tenant's log in MongoDB: its head, how it is followed, and
** what is known of the aggregates as of it.
**
** Whoever reads the tail applies it for all threads of the process, and tells the group in
** flight, by its commits' own names, which of them are in. So a head never moves past a
** commit of ours that its writer does not know of. */
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "stores/mongo_store.h"

#define PAGE_FIRST  64
#define PAGE_MOST   1000
#define KNOWN_MOST  50000 /* aggregates whose next version is kept */
#define LOOK_EVERY  250   /* ms */
#define LOOKS       5
#define LOOK_PAUSE  100 /* ms */
#define NUMBER_MOST (INT64_MAX - INT32_MAX)

/* ---- Commits as documents ------------------------------------------------------- */

static int foreign(const tide_commit *commit, const char *what, tide_error *error) {
  return tide__fail_store(error, 0,
                          "the document with _id %lld in the collection events is no commit of "
                          "Tidelog: its %s is missing or damaged",
                          (long long)commit->position, what);
}

static bool read_integer(const bson_iter_t *field, int64_t least, int64_t most, int64_t *value) {
  if (!BSON_ITER_HOLDS_INT64(field)) return false;
  *value = bson_iter_int64(field);
  return *value >= least && *value <= most;
}

static bool read_text(const bson_iter_t *field, const char **text) {
  uint32_t size;
  if (!BSON_ITER_HOLDS_UTF8(field)) return false;
  *text = bson_iter_utf8(field, &size);
  return tide__check_name("text", *text, size, NULL) == TIDE_OK;
}

static bool read_binary(const bson_iter_t *field, uint32_t size, const uint8_t **data) {
  bson_subtype_t subtype;
  uint32_t length;
  if (!BSON_ITER_HOLDS_BINARY(field)) return false;
  bson_iter_binary(field, &subtype, &length, data);
  return length == size;
}

/* One field; false where it is not as it must be. `seen` gets its bit. */
static bool read_field(const bson_iter_t *field, tide_commit *commit, const uint8_t **id,
                       unsigned *seen) {
  static const char *const keys[] = {"_id",  "type",      "id",     "version", "count",
                                     "time", "commandId", "commit", "hash",    "body"};
  const char *key = bson_iter_key(field);
  const uint8_t *data = NULL;
  unsigned which = 0;
  while (which < sizeof keys / sizeof *keys && strcmp(keys[which], key) != 0)
    which++;
  *seen |= 1U << which;
  switch (which) {
  case 0:
    return read_integer(field, 0, NUMBER_MOST, &commit->position);
  case 1:
    return read_text(field, &commit->type);
  case 2:
    return read_text(field, &commit->id);
  case 3:
    return read_integer(field, 0, NUMBER_MOST, &commit->version);
  case 4:
    commit->count = BSON_ITER_HOLDS_INT32(field) ? bson_iter_int32(field) : 0;
    return commit->count >= 1;
  case 5:
    commit->time = BSON_ITER_HOLDS_DATE_TIME(field) ? bson_iter_date_time(field) : 0;
    return BSON_ITER_HOLDS_DATE_TIME(field);
  case 6:
    return read_text(field, &commit->command_id);
  case 7:
    return read_binary(field, TIDE__COMMIT_ID, id);
  case 8:
    if (!read_binary(field, TIDE_HASH_SIZE, &data)) return false;
    memcpy(commit->hash, data, TIDE_HASH_SIZE);
    return true;
  case 9:
    return tide__body_of(field, &commit->body, &commit->body_size);
  default:
    return true; /* what others add does not disturb */
  }
}

int tide__mongo_parse(const bson_iter_t *document, bool body, tide_commit *commit,
                      const uint8_t **id, tide_error *error) {
  bson_iter_t fields;
  const uint8_t *own = NULL;
  unsigned seen = 0;
  const unsigned needed = 0x3FU | 0x80U | 0x100U | (body ? 0x200U : 0U); /* bits of keys */
  memset(commit, 0, sizeof *commit);
  if (!bson_iter_recurse(document, &fields)) return foreign(commit, "form", error);
  while (bson_iter_next(&fields))
    if (!read_field(&fields, commit, &own, &seen))
      return foreign(commit, bson_iter_key(&fields), error);
  if (fields.err_off != 0 || (seen & needed) != needed)
    return foreign(commit, "one or another field", error);
  if (id != NULL) *id = own;
  return TIDE_OK;
}

void tide__mongo_document(const tide_commit *commit, const uint8_t id[TIDE__COMMIT_ID],
                          bson_t *to) {
  BSON_APPEND_INT64(to, "_id", commit->position);
  BSON_APPEND_UTF8(to, "type", commit->type);
  BSON_APPEND_UTF8(to, "id", commit->id);
  BSON_APPEND_INT64(to, "version", commit->version);
  BSON_APPEND_INT32(to, "count", commit->count);
  BSON_APPEND_DATE_TIME(to, "time", commit->time);
  if (commit->command_id != NULL) BSON_APPEND_UTF8(to, "commandId", commit->command_id);
  BSON_APPEND_BINARY(to, "commit", BSON_SUBTYPE_BINARY, id, TIDE__COMMIT_ID);
  BSON_APPEND_BINARY(to, "hash", BSON_SUBTYPE_BINARY, commit->hash, TIDE_HASH_SIZE);
  tide__append_body(to, "body", commit->body, commit->body_size);
}

/* ---- What is known of the aggregates -------------------------------------------- */

typedef struct known {
  tide__link link; /* first member */
  int64_t next;
  char names[];
} known;

static void free_known(tide__link *link) {
  free(link);
}

int64_t tide__mongo_known_next(const tide__mongo_tenant *tenant, const char *type, const char *id) {
  const known *found = (const known *)tide__map_find(&tenant->known_next, type, id, "");
  return found == NULL ? -1 : found->next;
}

/* A version only grows. Without memory less is known: no harm, a question more. */
static void know_next(tide__mongo_tenant *tenant, const char *type, const char *id, int64_t next) {
  known *found = (known *)tide__map_find(&tenant->known_next, type, id, "");
  if (found != NULL) {
    if (found->next < next) found->next = next;
    return;
  }
  if (tenant->known_next.count >= KNOWN_MOST) tide__map_free(&tenant->known_next, free_known);
  size_t type_size = strlen(type) + 1, id_size = strlen(id) + 1;
  known *made = malloc(sizeof *made + type_size + id_size);
  if (made == NULL) return;
  memcpy(made->names, type, type_size);
  memcpy(made->names + type_size, id, id_size);
  made->link.key[0] = made->names;
  made->link.key[1] = made->names + type_size;
  made->link.key[2] = "";
  made->next = next;
  if (!tide__map_add(&tenant->known_next, &made->link)) free(made);
}

void tide__mongo_apply(tide__mongo_tenant *tenant, const tide_commit *commit) {
  tenant->last = commit->position;
  tenant->torn = tide__commit_is_tombstone(commit);
  tenant->head.position = commit->position + commit->count;
  tenant->head.time = commit->time;
  memcpy(tenant->head.hash, commit->hash, TIDE_HASH_SIZE);
  know_next(tenant, commit->type, commit->id, commit->version + commit->count);
}

/* ---- Following ------------------------------------------------------------------ */

void tide__mongo_settle(tide__proposal *proposal, tide_outcome outcome, const tide_commit *found) {
  if (proposal->outcome != 0) return;
  proposal->outcome = outcome;
  if (found == NULL) return;
  proposal->position = found->position;
  proposal->time = found->time;
  memcpy(proposal->hash, found->hash, TIDE_HASH_SIZE);
}

/* Is it one of those in flight? Then its writer need not send it again. */
static bool tell(tide__mongo_tenant *tenant, const tide_commit *commit, const uint8_t *id) {
  for (size_t i = 0; i < tenant->proposal_count; i++) {
    if (memcmp(tenant->proposals[i].id, id, TIDE__COMMIT_ID) != 0) continue;
    tide__mongo_settle(&tenant->proposals[i], TIDE_APPENDED, commit);
    return true;
  }
  return false;
}

int tide__mongo_fail_hole(tide__mongo_tenant *tenant, int64_t expected, int64_t found,
                          tide_error *error) {
  return tide__fail_store(error, 0,
                          "the order of %s has a hole: position %lld follows where %lld is "
                          "expected (tidelog mongodb close-hole can close it)",
                          tenant->name, (long long)found, (long long)expected);
}

/* Applies a page of the tail; another thread may have applied some of it already. *behind:
** the position behind a hole, -1 where there is none. */
static int apply_page(tide__mongo_tenant *tenant, const tide__reply *reply, size_t *count,
                      bool *moved, int64_t *behind, tide_error *error) {
  bson_iter_t documents;
  int code = TIDE_OK;
  *count = 0;
  *behind = -1;
  if (!tide__batch(reply, &documents)) return TIDE_OK;
  (void)pthread_mutex_lock(&tenant->lock);
  while (code == TIDE_OK && bson_iter_next(&documents)) {
    tide_commit commit;
    const uint8_t *id = NULL;
    code = tide__mongo_parse(&documents, false, &commit, &id, error);
    if (code != TIDE_OK) break;
    ++*count;
    if (commit.position < tenant->head.position) continue;
    if (commit.position > tenant->head.position) {
      *behind = commit.position;
      break;
    }
    tide__mongo_apply(tenant, &commit);
    if (!tell(tenant, &commit, id)) tenant->others = tide__monotonic();
    *moved = true;
  }
  if (code == TIDE_OK) tenant->looked = tide__monotonic();
  (void)pthread_mutex_unlock(&tenant->lock);
  return code;
}

static bson_t *tail_command(int64_t from, int64_t limit) {
  return BCON_NEW("find", BCON_UTF8("events"), "filter", "{", "_id", "{", "$gte", BCON_INT64(from),
                  "}", "}", "sort", "{", "_id", BCON_INT32(1), "}", "projection", "{", "body",
                  BCON_INT32(0), "}", "limit", BCON_INT64(limit), "batchSize", BCON_INT64(limit),
                  "singleBatch", BCON_BOOL(true));
}

/* The first look at a log begins at its end: who opens it need not read it. */
static int warm_up(tide__mongo *store, tide__connection *connection, tide__mongo_tenant *tenant,
                   tide_error *error) {
  tide__reply reply;
  bson_iter_t documents;
  (void)pthread_mutex_lock(&tenant->lock);
  bool warm = tenant->warm;
  (void)pthread_mutex_unlock(&tenant->lock);
  if (warm) return TIDE_OK;
  bson_t *command =
      BCON_NEW("find", BCON_UTF8("events"), "filter", "{", "_id", "{", "$gte", BCON_INT64(0), "}",
               "}", "sort", "{", "_id", BCON_INT32(-1), "}", "projection", "{", "body",
               BCON_INT32(0), "}", "limit", BCON_INT64(1), "singleBatch", BCON_BOOL(true));
  int code = tide__mongo_ask(store, connection, tenant->database, command, &reply, error);
  if (code == TIDE_OK) {
    tide_commit commit;
    (void)pthread_mutex_lock(&tenant->lock);
    if (!tenant->warm && tide__batch(&reply, &documents) && bson_iter_next(&documents)) {
      code = tide__mongo_parse(&documents, false, &commit, NULL, error);
      if (code == TIDE_OK) tide__mongo_apply(tenant, &commit);
    }
    tenant->warm = tenant->warm || code == TIDE_OK;
    (void)pthread_mutex_unlock(&tenant->lock);
  }
  tide__reply_free(&reply);
  bson_destroy(command);
  return code;
}

int tide__mongo_catch_up(tide__mongo *store, tide__connection *connection,
                         tide__mongo_tenant *tenant, bool *news, tide_error *error) {
  size_t limit = PAGE_FIRST, count = 0;
  int64_t behind = -1;
  bool moved = false;
  tide__patience patience = tide__patience_begin(store);
  if (news != NULL) *news = false;
  int code = tide__mongo_know(store, connection, tenant, error);
  if (code != TIDE_OK || !tide__mongo_is_known(tenant)) return code;
  code = warm_up(store, connection, tenant, error);
  while (code == TIDE_OK) {
    tide__reply reply;
    (void)pthread_mutex_lock(&tenant->lock);
    const int64_t from = tenant->head.position;
    (void)pthread_mutex_unlock(&tenant->lock);
    bson_t *command = tail_command(from, (int64_t)limit);
    code = tide__mongo_ask(store, connection, tenant->database, command, &reply, error);
    if (code == TIDE_OK) code = apply_page(tenant, &reply, &count, &moved, &behind, error);
    tide__reply_free(&reply);
    bson_destroy(command);
    if (code != TIDE_OK) break;
    if (behind >= 0) { /* never passed: what is missing may become visible yet */
      if (tide__patience_again(&patience)) continue;
      code = tide__mongo_fail_hole(tenant, from, behind, error);
      break;
    }
    if (count < limit) break;
    limit = PAGE_MOST;
  }
  if (news != NULL) *news = moved;
  return code;
}

int tide__mongo_head(tide_store *base, const char *name, tide_head *head, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_look(store, connection, tenant, error);
  if (code == TIDE_OK) code = tide__mongo_catch_up(store, connection, tenant, NULL, error);
  if (code == TIDE_OK) {
    (void)pthread_mutex_lock(&tenant->lock);
    *head = tenant->head;
    (void)pthread_mutex_unlock(&tenant->lock);
  }
  tide__mongo_leave(base, tenant, connection);
  return code;
}

/* ---- Looking whether it is still the same log ----------------------------------- */

static void forget(tide__mongo_tenant *tenant) {
  tenant->forgotten++;
  tide__map_free(&tenant->known_next, free_known);
  memset(&tenant->head, 0, sizeof tenant->head);
  tenant->last = -1;
  tenant->torn = false;
  tenant->known = tenant->ready = tenant->warm = false;
}

/* Is the first document of the reply the commit with this hash? */
static bool is_same(const tide__reply *reply, const uint8_t hash[TIDE_HASH_SIZE]) {
  bson_iter_t documents, field;
  const uint8_t *data;
  return tide__batch(reply, &documents) && bson_iter_next(&documents) &&
         bson_iter_recurse(&documents, &field) && bson_iter_find(&field, "hash") &&
         read_binary(&field, TIDE_HASH_SIZE, &data) && memcmp(data, hash, TIDE_HASH_SIZE) == 0;
}

/* Is the last commit that is known, or without one the mark, still there? */
static int is_there(tide__mongo *store, tide__connection *connection,
                    const tide__mongo_tenant *tenant, int64_t last,
                    const uint8_t hash[TIDE_HASH_SIZE], bool *same, tide_error *error) {
  tide__reply reply;
  bson_iter_t documents;
  bson_t *command =
      last >= 0 ? BCON_NEW("find", BCON_UTF8("events"), "filter", "{", "_id", BCON_INT64(last), "}",
                           "projection", "{", "hash", BCON_INT32(1), "}", "limit", BCON_INT64(1),
                           "singleBatch", BCON_BOOL(true))
                : BCON_NEW("find", BCON_UTF8("tidelog"), "filter", "{", "_id", BCON_UTF8("store"),
                           "}", "limit", BCON_INT64(1), "singleBatch", BCON_BOOL(true));
  int code = tide__mongo_ask(store, connection, tenant->database, command, &reply, error);
  if (code == TIDE_OK)
    *same = last >= 0 ? is_same(&reply, hash)
                      : tide__batch(&reply, &documents) && bson_iter_next(&documents);
  tide__reply_free(&reply);
  bson_destroy(command);
  return code;
}

int tide__mongo_fail_other_log(const tide__mongo_tenant *tenant, tide_error *error) {
  return tide__fail_store(error, 1,
                          "the log of %s is not the one that was there before: its database was "
                          "dropped or put back while it was in use; what was known of it is "
                          "forgotten, and the same call finds what is there now",
                          tenant->name);
}

int tide__mongo_look(tide__mongo *store, tide__connection *connection, tide__mongo_tenant *tenant,
                     tide_error *error) {
  uint8_t hash[TIDE_HASH_SIZE];
  bool same = false;
  (void)pthread_mutex_lock(&tenant->lock);
  bool due = tenant->known && tide__monotonic() - tenant->looked >= LOOK_EVERY;
  int64_t last = tenant->last;
  memcpy(hash, tenant->head.hash, sizeof hash);
  (void)pthread_mutex_unlock(&tenant->lock);
  if (!due) return TIDE_OK;
  /* More than once: a primary that was just elected may not yet know what a majority has. */
  for (int i = 0; i < LOOKS && !same; i++) {
    if (i > 0) tide__mongo_sleep(LOOK_PAUSE);
    int code = is_there(store, connection, tenant, last, hash, &same, error);
    if (code != TIDE_OK) return code;
  }
  (void)pthread_mutex_lock(&tenant->lock);
  if (same)
    tenant->looked = tide__monotonic();
  else
    forget(tenant);
  (void)pthread_mutex_unlock(&tenant->lock);
  if (same) return TIDE_OK;
  return tide__mongo_fail_other_log(tenant, error);
}

/* ---- Looking up ----------------------------------------------------------------- */

int tide__mongo_find_next(tide__mongo *store, tide__connection *connection,
                          tide__mongo_tenant *tenant, const char *type, const char *id,
                          int64_t *next, tide_error *error) {
  tide__reply reply;
  bson_iter_t documents;
  tide_commit commit;
  *next = 0;
  bson_t *command =
      BCON_NEW("find", BCON_UTF8("events"), "filter", "{", "type", BCON_UTF8(type), "id",
               BCON_UTF8(id), "}", "sort", "{", "version", BCON_INT32(-1), "}", "projection", "{",
               "body", BCON_INT32(0), "}", "limit", BCON_INT64(1), "singleBatch", BCON_BOOL(true));
  int code = tide__mongo_ask(store, connection, tenant->database, command, &reply, error);
  if (code == TIDE_OK && tide__batch(&reply, &documents) && bson_iter_next(&documents)) {
    code = tide__mongo_parse(&documents, false, &commit, NULL, error);
    if (code == TIDE_OK) *next = commit.version + commit.count;
  }
  tide__reply_free(&reply);
  bson_destroy(command);
  if (code != TIDE_OK) return code;
  (void)pthread_mutex_lock(&tenant->lock);
  know_next(tenant, type, id, *next);
  *next = tide__mongo_known_next(tenant, type, id) > *next
              ? tide__mongo_known_next(tenant, type, id)
              : *next;
  (void)pthread_mutex_unlock(&tenant->lock);
  return TIDE_OK;
}

int tide__mongo_commit_of(tide__mongo *store, tide__connection *connection,
                          tide__mongo_tenant *tenant, const char *type, const char *id,
                          const char *command_id, int64_t *position, int64_t *version,
                          tide_error *error) {
  tide__reply reply;
  bson_iter_t documents;
  tide_commit commit;
  *position = *version = -1;
  bson_t *command =
      BCON_NEW("find", BCON_UTF8("events"), "filter", "{", "type", BCON_UTF8(type), "id",
               BCON_UTF8(id), "commandId", BCON_UTF8(command_id), "}", "projection", "{", "body",
               BCON_INT32(0), "}", "limit", BCON_INT64(1), "singleBatch", BCON_BOOL(true));
  int code = tide__mongo_ask(store, connection, tenant->database, command, &reply, error);
  if (code == TIDE_OK && tide__batch(&reply, &documents) && bson_iter_next(&documents)) {
    code = tide__mongo_parse(&documents, false, &commit, NULL, error);
    if (code == TIDE_OK) *position = commit.position;
    if (code == TIDE_OK) *version = commit.version;
  }
  tide__reply_free(&reply);
  bson_destroy(command);
  return code;
}

int tide__mongo_find_command(tide_store *base, const char *name, const char *type, const char *id,
                             const char *command_id, int64_t *position, int64_t *version,
                             tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  int code = tide__mongo_enter(base, name, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_know(store, connection, tenant, error);
  if (code == TIDE_OK && tide__mongo_is_known(tenant))
    code = tide__mongo_commit_of(store, connection, tenant, type, id, command_id, position, version,
                                 error);
  tide__mongo_leave(base, tenant, connection);
  return code;
}
