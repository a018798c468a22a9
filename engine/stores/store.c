/* store.c - what every store has in common: all arguments are checked before a database
** sees them, and the log's own rules are checked on demand. */
#include "stores/store.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "core/bson_check.h"
#include "core/error.h"
#include "core/names.h"

void tide__bytes_free(tide_bytes *bytes) {
  if (bytes == NULL) return;
  free(bytes->data);
  bytes->data = NULL;
  bytes->size = 0;
}

void tide__store_close(tide_store *store) {
  if (store != NULL) store->ops->close(store);
}

static size_t length(const char *text) {
  return text == NULL ? 0 : strlen(text);
}

static int missing(const char *argument, tide_error *error) {
  return tide__fail(error, TIDE_MISSING_ARGUMENT, argument, "%s is missing", argument);
}

static int check_name(const char *argument, const char *name, tide_error *error) {
  return tide__check_name(argument, name, length(name), error);
}

/* The arguments that nearly every function has. */
static int check_tenant(const tide_store *store, const char *tenant, tide_error *error) {
  if (store == NULL) return missing("store", error);
  return tide__check_tenant(tenant, length(tenant), error);
}

static int check_aggregate(const tide_store *store, const char *tenant, const char *type,
                           const char *id, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code == TIDE_OK) code = check_name("aggregateType", type, error);
  if (code == TIDE_OK) code = check_name("aggregateId", id, error);
  return code;
}

static int check_bson(const char *argument, const uint8_t *data, size_t size, int depth,
                      tide_error *error) {
  if (size > TIDE_BODY_MAX)
    return tide__fail(error, TIDE_LIMIT, argument, "%s has %zu bytes, more than %d", argument, size,
                      TIDE_BODY_MAX);
  const char *why = tide__bson_check(data, size, depth);
  if (why == NULL) return TIDE_OK;
  return tide__fail(error, TIDE_INVALID_ARGUMENT, argument, "%s cannot be stored: %s", argument,
                    why);
}

static int check_writer(const char *writer, tide_error *error) {
  return tide__check_text("writer", writer, length(writer), TIDE_WRITER_MAX, error);
}

/* An integer that may not be less than 0, nor more than `most`. */
static int check_range(const char *argument, int64_t value, int64_t most, tide_error *error) {
  if (value >= 0 && value <= most) return TIDE_OK;
  return tide__fail(error, TIDE_INVALID_ARGUMENT, argument, "%s %lld is not from 0 to %lld",
                    argument, (long long)value, (long long)most);
}

static int check_documents(const tide_document *documents, size_t count, tide_error *error) {
  if (documents == NULL && count > 0) return missing("documents", error);
  for (size_t i = 0; i < count; i++) {
    int code = tide__check_path(documents[i].path, length(documents[i].path), error);
    if (code == TIDE_OK && documents[i].body != NULL)
      code = check_bson("document", documents[i].body, documents[i].size, TIDE_DEPTH_MAX, error);
    if (code == TIDE_OK && documents[i].writer != NULL) {
      code = check_writer(documents[i].writer, error);
      if (code == TIDE_OK) code = check_range("position", documents[i].position, INT64_MAX, error);
    }
    if (code != TIDE_OK) return code;
  }
  return TIDE_OK;
}

static int check_appended(const tide_commit *commit, tide_error *error) {
  int code = tide__commit_check(commit, error);
  if (code != TIDE_OK || strncmp(commit->type, TIDE_OWN_TYPES, strlen(TIDE_OWN_TYPES)) != 0)
    return code;
  return tide__fail(error, TIDE_INVALID_ARGUMENT, "aggregateType",
                    "aggregateType '%.80s' begins with '" TIDE_OWN_TYPES
                    "', as only the engine's own do",
                    commit->type);
}

int tide__store_append(tide_store *store, const char *tenant, tide_commit *commits, size_t count,
                       tide_outcome *outcomes, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code != TIDE_OK) return code;
  if (commits == NULL || count == 0) return missing("commits", error);
  if (outcomes == NULL) return missing("outcomes", error);
  for (size_t i = 0; i < count && code == TIDE_OK; i++)
    code = check_appended(&commits[i], error);
  if (code != TIDE_OK) return code;
  return store->ops->append(store, tenant, commits, count, outcomes, error);
}

int tide__store_scan(tide_store *store, const char *tenant, const tide_query *query,
                     tide_scan **scan, tide_error *error) {
  if (scan == NULL) return missing("scan", error);
  *scan = NULL;
  int code = check_tenant(store, tenant, error);
  if (code != TIDE_OK) return code;
  if (query == NULL) return missing("query", error);
  if ((query->type == NULL) != (query->id == NULL))
    return missing(query->type == NULL ? "aggregateType" : "aggregateId", error);
  if (query->type != NULL) {
    code = check_aggregate(store, tenant, query->type, query->id, error);
    if (code != TIDE_OK) return code;
  }
  if (query->from < 0 || query->limit < 0) {
    const char *which = query->from < 0 ? "from" : "limit";
    return tide__fail(error, TIDE_INVALID_ARGUMENT, which, "%s is less than 0", which);
  }
  return store->ops->scan(store, tenant, query, scan, error);
}

int tide__scan_next(tide_scan *scan, const tide_commit **commit, tide_error *error) {
  if (commit == NULL) return missing("commit", error);
  *commit = NULL;
  if (scan == NULL) return missing("scan", error);
  return scan->store->ops->scan_next(scan, commit, error);
}

void tide__scan_close(tide_scan *scan) {
  if (scan != NULL) scan->store->ops->scan_close(scan);
}

int tide__store_head(tide_store *store, const char *tenant, tide_head *head, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code != TIDE_OK) return code;
  if (head == NULL) return missing("head", error);
  memset(head, 0, sizeof *head);
  return store->ops->head(store, tenant, head, error);
}

int tide__store_wait(tide_store *store, const char *tenant, int64_t position, int64_t timeout,
                     int64_t *head, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code == TIDE_OK) code = check_range("position", position, INT64_MAX, error);
  if (code == TIDE_OK) code = check_range("timeout", timeout, TIDE_WAIT_MAX, error);
  if (code != TIDE_OK) return code;
  if (head == NULL) return missing("head", error);
  *head = 0;
  return store->ops->wait(store, tenant, position, timeout, head, error);
}

int tide__store_import(tide_store *store, const char *tenant, const tide_commit *commits,
                       size_t count, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code != TIDE_OK) return code;
  if (commits == NULL || count == 0) return missing("commits", error);
  tide_head head = {.position = commits[0].position, .time = commits[0].time};
  for (size_t i = 0; i < count && code == TIDE_OK; i++) {
    code = tide__commit_check(&commits[i], error);
    if (code == TIDE_OK) code = check_range("position", commits[i].position, INT64_MAX, error);
    /* The first one's hash is the store's to verify, which has the one before it. */
    if (code == TIDE_OK)
      code = i == 0 || tide__commit_is_tombstone(&commits[i - 1])
                 ? tide__commit_verify_torn(&commits[i], &head, error)
                 : tide__commit_verify(&commits[i], &head, error);
  }
  if (code != TIDE_OK) return code;
  return store->ops->import(store, tenant, commits, count, error);
}

int tide__store_find_command(tide_store *store, const char *tenant, const char *type,
                             const char *id, const char *command_id, int64_t *position,
                             int64_t *version, tide_error *error) {
  int code = check_aggregate(store, tenant, type, id, error);
  if (code == TIDE_OK) code = check_name("commandId", command_id, error);
  if (code != TIDE_OK) return code;
  if (position == NULL || version == NULL)
    return missing(position == NULL ? "position" : "version", error);
  *position = *version = -1;
  return store->ops->find_command(store, tenant, type, id, command_id, position, version, error);
}

int tide__store_get_snapshot(tide_store *store, const char *tenant, const char *type,
                             const char *id, tide_snapshot *snapshot, tide_error *error) {
  int code = check_aggregate(store, tenant, type, id, error);
  if (code != TIDE_OK) return code;
  if (snapshot == NULL) return missing("snapshot", error);
  memset(snapshot, 0, sizeof *snapshot);
  return store->ops->get_snapshot(store, tenant, type, id, snapshot, error);
}

int tide__store_put_snapshot(tide_store *store, const char *tenant, const char *type,
                             const char *id, const tide_snapshot *snapshot, tide_error *error) {
  int code = check_aggregate(store, tenant, type, id, error);
  if (code != TIDE_OK) return code;
  if (snapshot == NULL) return missing("snapshot", error);
  if (snapshot->version < 0)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "version", "version is less than 0");
  code = check_bson("snapshot", snapshot->state.data, snapshot->state.size, TIDE_BODY_DEPTH_MAX,
                    error);
  if (code != TIDE_OK) return code;
  return store->ops->put_snapshot(store, tenant, type, id, snapshot, error);
}

int tide__store_lease(tide_store *store, const char *tenant, const char *thread, const char *owner,
                      int64_t duration, tide_lease *lease, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code == TIDE_OK) code = check_name("thread", thread, error);
  if (code == TIDE_OK) code = check_name("owner", owner, error);
  if (code != TIDE_OK) return code;
  if (lease == NULL) return missing("lease", error);
  memset(lease, 0, sizeof *lease);
  if (duration < 1 || duration > TIDE_LEASE_MAX)
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "timeout",
                      "timeout %lld is not from 1 to %lld milliseconds", (long long)duration,
                      (long long)TIDE_LEASE_MAX);
  return store->ops->lease(store, tenant, thread, owner, duration, lease, error);
}

int tide__store_commit_cursors(tide_store *store, const char *tenant, const char *thread,
                               const char *owner, int64_t token, const tide_bytes *cursors,
                               const tide_document *documents, size_t count, bool release,
                               tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code == TIDE_OK) code = check_name("thread", thread, error);
  if (code == TIDE_OK) code = check_name("owner", owner, error);
  if (code == TIDE_OK && cursors != NULL)
    code = check_bson("cursors", cursors->data, cursors->size, TIDE_DEPTH_MAX, error);
  if (code == TIDE_OK) code = check_documents(documents, count, error);
  if (code != TIDE_OK) return code;
  return store->ops->commit_cursors(store, tenant, thread, owner, token, cursors, documents, count,
                                    release, error);
}

int tide__store_list_threads(tide_store *store, const char *tenant, const char *after, size_t limit,
                             tide_bytes *names, size_t *count, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code != TIDE_OK) return code;
  if (names == NULL || count == NULL) return missing(names == NULL ? "names" : "count", error);
  memset(names, 0, sizeof *names);
  *count = 0;
  if (limit == 0) return tide__fail(error, TIDE_INVALID_ARGUMENT, "limit", "limit is less than 1");
  return store->ops->list_threads(store, tenant, after == NULL ? "" : after, limit, names, count,
                                  error);
}

int tide__store_get_thread(tide_store *store, const char *tenant, const char *name,
                           tide_thread *thread, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code == TIDE_OK) code = check_name("thread", name, error);
  if (code != TIDE_OK) return code;
  if (thread == NULL) return missing("thread", error);
  memset(thread, 0, sizeof *thread);
  return store->ops->get_thread(store, tenant, name, thread, error);
}

int tide__store_put_thread(tide_store *store, const char *tenant, const char *name, int64_t token,
                           const tide_bytes *cursors, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code == TIDE_OK) code = check_name("thread", name, error);
  if (code == TIDE_OK) code = check_range("token", token, TIDE_TOKEN_MAX, error);
  if (code != TIDE_OK) return code;
  if (cursors == NULL) return missing("cursors", error);
  code = check_bson("cursors", cursors->data, cursors->size, TIDE_DEPTH_MAX, error);
  if (code != TIDE_OK) return code;
  return store->ops->put_thread(store, tenant, name, token, cursors, error);
}

int tide__store_put_documents(tide_store *store, const char *tenant, const tide_document *documents,
                              size_t count, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code == TIDE_OK) code = check_documents(documents, count, error);
  if (code != TIDE_OK || count == 0) return code;
  return store->ops->put_documents(store, tenant, documents, count, error);
}

int tide__store_get_document(tide_store *store, const char *tenant, const char *path,
                             const char *writer, tide_bytes *body, int64_t *reflects,
                             tide_error *error) {
  int64_t unwanted;
  int code = check_tenant(store, tenant, error);
  if (code == TIDE_OK) code = tide__check_path(path, length(path), error);
  if (code == TIDE_OK && writer != NULL) code = check_writer(writer, error);
  if (code != TIDE_OK) return code;
  if (body == NULL) return missing("body", error);
  memset(body, 0, sizeof *body);
  if (reflects == NULL) reflects = &unwanted;
  *reflects = 0;
  return store->ops->get_document(store, tenant, path, writer, body, reflects, error);
}

int tide__store_list_documents(tide_store *store, const char *tenant, const char *prefix,
                               const char *after, size_t limit, tide_bytes *paths, size_t *count,
                               tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code != TIDE_OK) return code;
  if (prefix == NULL) return missing("prefix", error);
  if (paths == NULL || count == NULL) return missing(paths == NULL ? "paths" : "count", error);
  memset(paths, 0, sizeof *paths);
  *count = 0;
  if (prefix[0] != '/' || strlen(prefix) > TIDE_PATH_MAX || !tide__is_utf8(prefix, strlen(prefix)))
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "prefix",
                      "prefix does not begin with '/' or is not at most %d bytes of UTF-8",
                      TIDE_PATH_MAX);
  if (limit == 0) return tide__fail(error, TIDE_INVALID_ARGUMENT, "limit", "limit is less than 1");
  return store->ops->list_documents(store, tenant, prefix, after == NULL ? "" : after, limit, paths,
                                    count, error);
}

int tide__store_tenants(tide_store *store, tide_bytes *names, size_t *count, tide_error *error) {
  if (store == NULL) return missing("store", error);
  if (names == NULL || count == NULL) return missing(names == NULL ? "names" : "count", error);
  memset(names, 0, sizeof *names);
  *count = 0;
  return store->ops->tenants(store, names, count, error);
}

int tide__store_describe(tide_store *store, const char *tenant, tide_bytes *bson,
                         tide_error *error) {
  if (store == NULL) return missing("store", error);
  int code = tenant == NULL ? TIDE_OK : check_tenant(store, tenant, error);
  if (code != TIDE_OK) return code;
  if (bson == NULL) return missing("bson", error);
  memset(bson, 0, sizeof *bson);
  return store->ops->describe(store, tenant, bson, error);
}

static int no_need(const tide_store *store, const char *method, tide_error *error) {
  return tide__fail(error, TIDE_NOT_IMPLEMENTED, method, "a %s: store has no need of %s",
                    store->ops->scheme, method);
}

int tide__store_setup(tide_store *store, const char *tenant, tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code != TIDE_OK) return code;
  if (store->ops->setup == NULL) return no_need(store, "setup", error);
  return store->ops->setup(store, tenant, error);
}

int tide__store_close_hole(tide_store *store, const char *tenant, int64_t position,
                           const char *actor, const char *reason, int64_t *events,
                           tide_error *error) {
  int code = check_tenant(store, tenant, error);
  if (code == TIDE_OK) code = check_range("position", position, INT64_MAX, error);
  if (code == TIDE_OK) code = check_name("actor", actor, error);
  if (code == TIDE_OK)
    code = tide__check_text("reason", reason, length(reason), TIDE_PATH_MAX, error);
  if (code != TIDE_OK) return code;
  if (events == NULL) return missing("events", error);
  *events = 0;
  if (store->ops->close_hole == NULL) return no_need(store, "closeHole", error);
  return store->ops->close_hole(store, tenant, position, actor, reason, events, error);
}

/* ---- check: the log's own rules ------------------------------------------ */

/* The next version of each aggregate seen, in a POSIX search tree. */
typedef struct seen {
  int64_t next;
  const char *id; /* behind the type, in names */
  char names[];
} seen;

static int compare_seen(const void *a, const void *b) {
  const seen *x = a, *y = b;
  int order = strcmp(x->names, y->names);
  return order != 0 ? order : strcmp(x->id, y->id);
}

static int check_versions(void **tree, const tide_commit *commit, tide_error *error) {
  size_t type = strlen(commit->type) + 1, id = strlen(commit->id) + 1;
  seen *mine = malloc(sizeof *mine + type + id);
  if (mine == NULL) return tide__fail_memory(error);
  mine->next = 0;
  memcpy(mine->names, commit->type, type);
  memcpy(mine->names + type, commit->id, id);
  mine->id = mine->names + type;
  void *node = tsearch(mine, tree, compare_seen);
  if (node == NULL) {
    free(mine);
    return tide__fail_memory(error);
  }
  seen *known = *(seen **)node;
  if (known != mine) free(mine);
  if (commit->version != known->next)
    return tide__fail_store(error, 0,
                            "the commit at position %lld of %s '%s' has version %lld where %lld "
                            "is expected",
                            (long long)commit->position, commit->type, commit->id,
                            (long long)commit->version, (long long)known->next);
  known->next += commit->count;
  return TIDE_OK;
}

static int check_commit(const tide_commit *commit, tide_head *head, bool *torn, void **tree,
                        tide_error *error) {
  int code = *torn ? tide__commit_verify_torn(commit, head, error)
                   : tide__commit_verify(commit, head, error);
  *torn = tide__commit_is_tombstone(commit);
  if (code == TIDE_OK) code = check_versions(tree, commit, error);
  if (code != TIDE_OK) return code;
  const char *why = tide__bson_check(commit->body, commit->body_size, TIDE_BODY_DEPTH_MAX);
  if (why == NULL) return TIDE_OK;
  return tide__fail_store(error, 0, "the body of the commit at position %lld is damaged: %s",
                          (long long)commit->position, why);
}

int tide__store_check(tide_store *store, const char *tenant, int64_t *commits, int64_t *events,
                      tide_error *error) {
  tide_head head = {0}, end = {0};
  tide_query all = {0};
  tide_scan *scan = NULL;
  const tide_commit *commit;
  void *tree = NULL;
  bool torn = false;
  if (commits != NULL) *commits = 0;
  if (events != NULL) *events = 0;
  int code = check_tenant(store, tenant, error);
  if (code == TIDE_OK) code = store->ops->check(store, tenant, error);
  /* The head first: what is appended meanwhile lies behind it. */
  if (code == TIDE_OK) code = store->ops->head(store, tenant, &end, error);
  if (code == TIDE_OK) code = store->ops->scan(store, tenant, &all, &scan, error);
  while (code == TIDE_OK && head.position < end.position) {
    code = tide__scan_next(scan, &commit, error);
    if (code != TIDE_OK) break;
    if (commit == NULL) {
      code = tide__fail_store(error, 0, "the log ends at position %lld before its head %lld",
                              (long long)head.position, (long long)end.position);
      break;
    }
    code = check_commit(commit, &head, &torn, &tree, error);
    if (code == TIDE_OK && commits != NULL) *commits += 1;
    if (code == TIDE_OK && events != NULL) *events += commit->count;
  }
  tide__scan_close(scan);
  tdestroy(tree, free);
  return code;
}
