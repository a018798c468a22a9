/* mongo_scan.c - pulled reads of a tenant's log in MongoDB.
**
** A page is the one batch of a find, which leaves no cursor in the server; commits point into
** its bytes. Each commit must follow the one before it: a hole is waited for, never passed. */
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "stores/mongo_store.h"

#define PAGE_FIRST 16
#define PAGE_MOST  512

typedef struct mongo_scan {
  tide_scan base; /* first member */
  char tenant[TIDE_TENANT_MAX + 1];
  char *type, *id; /* NULL: the whole tenant */
  bool backwards;
  bool ended;     /* nothing comes any more */
  bool found;     /* a commit: it was at `last`, and `next` is the edge of its neighbour */
  int64_t last;   /* versions or positions */
  int64_t next;   /* before a commit was found: the query's `from` */
  int64_t limit;  /* commits still wanted, -1: all */
  int64_t page;   /* commits of the next page */
  bool has_reply; /* the page */
  tide__reply reply;
  bson_iter_t documents;
  tide_commit commit; /* handed out */
} mongo_scan;

int tide__mongo_scan(tide_store *base, const char *tenant, const tide_query *query,
                     tide_scan **scan, tide_error *error) {
  *scan = NULL;
  int code = tide__mongo_own((tide__mongo *)base, error);
  if (code != TIDE_OK) return code;
  /* libbson's types are aligned to more than malloc is */
  void *memory = NULL;
  if (posix_memalign(&memory, alignof(mongo_scan), sizeof(mongo_scan)) != 0)
    return tide__fail_memory(error);
  mongo_scan *opened = memset(memory, 0, sizeof *opened);
  opened->base.store = base;
  bson_strncpy(opened->tenant, tenant, sizeof opened->tenant);
  opened->backwards = query->backwards;
  opened->next = query->from;
  opened->limit = query->limit > 0 ? query->limit : -1;
  opened->page = PAGE_FIRST;
  if (query->type != NULL) {
    opened->type = strdup(query->type);
    opened->id = strdup(query->id);
    if (opened->type == NULL || opened->id == NULL) {
      tide__mongo_scan_close(&opened->base);
      return tide__fail_memory(error);
    }
  }
  *scan = &opened->base;
  return TIDE_OK;
}

static void drop_page(mongo_scan *scan) {
  if (scan->has_reply) tide__reply_free(&scan->reply);
  scan->has_reply = false;
}

void tide__mongo_scan_close(tide_scan *base) {
  mongo_scan *scan = (mongo_scan *)base;
  if (scan == NULL) return;
  drop_page(scan);
  free(scan->type);
  free(scan->id);
  free(scan);
}

/* ---- Pages ---------------------------------------------------------------------- */

static bson_t *page_command(const mongo_scan *scan, const char *relation, int64_t start, int sort,
                            int64_t limit) {
  const char *key = scan->type == NULL ? "_id" : "version";
  bson_t range = BSON_INITIALIZER, order = BSON_INITIALIZER, filter = BSON_INITIALIZER;
  bson_t *command = bson_new();
  if (scan->type != NULL) {
    BSON_APPEND_UTF8(&filter, "type", scan->type);
    BSON_APPEND_UTF8(&filter, "id", scan->id);
  }
  BSON_APPEND_INT64(&range, relation, start);
  BSON_APPEND_DOCUMENT(&filter, key, &range);
  BSON_APPEND_INT32(&order, key, sort);
  BSON_APPEND_UTF8(command, "find", "events");
  BSON_APPEND_DOCUMENT(command, "filter", &filter);
  BSON_APPEND_DOCUMENT(command, "sort", &order);
  BSON_APPEND_INT64(command, "limit", limit);
  BSON_APPEND_INT64(command, "batchSize", limit);
  BSON_APPEND_BOOL(command, "singleBatch", true);
  bson_destroy(&range);
  bson_destroy(&order);
  bson_destroy(&filter);
  return command;
}

static int read_commits(const mongo_scan *scan, tide__connection *connection,
                        const tide__mongo_tenant *tenant, const char *relation, int64_t start,
                        int sort, int64_t limit, tide__reply *reply, tide_error *error) {
  bson_t *command = page_command(scan, relation, start, sort, limit);
  int code = tide__mongo_ask((tide__mongo *)scan->base.store, connection, tenant->database, command,
                             reply, error);
  bson_destroy(command);
  return code;
}

/* Where a forward scan starts: at the commit that holds `from`, which may begin before it. */
static int find_start(const mongo_scan *scan, tide__connection *connection,
                      tide__mongo_tenant *tenant, int64_t *start, tide_error *error) {
  tide__reply reply;
  bson_iter_t documents;
  tide_commit before;
  (void)pthread_mutex_lock(&tenant->lock);
  int64_t edge = scan->type == NULL ? tenant->head.position
                                    : tide__mongo_known_next(tenant, scan->type, scan->id);
  (void)pthread_mutex_unlock(&tenant->lock);
  if (edge == scan->next) return TIDE_OK; /* a commit ends there: so most readers go on */
  int code = read_commits(scan, connection, tenant, "$lt", scan->next, -1, 1, &reply, error);
  if (code == TIDE_OK && tide__batch(&reply, &documents) && bson_iter_next(&documents)) {
    code = tide__mongo_parse(&documents, false, &before, NULL, error);
    int64_t key = scan->type == NULL ? before.position : before.version;
    if (code == TIDE_OK && key + before.count > scan->next) *start = key;
  }
  tide__reply_free(&reply);
  return code;
}

/* The first key of the page that was read, -1 where it is empty. */
static int64_t first_key(const mongo_scan *scan) {
  bson_iter_t documents = scan->documents, field;
  if (!bson_iter_next(&documents) || !bson_iter_recurse(&documents, &field) ||
      !bson_iter_find(&field, scan->type == NULL ? "_id" : "version") ||
      !BSON_ITER_HOLDS_INT64(&field))
    return -1;
  return bson_iter_int64(&field);
}

static int read_page(mongo_scan *scan, tide__connection *connection, tide__mongo_tenant *tenant,
                     tide_error *error) {
  const char *relation = scan->backwards ? "$lte" : "$gte";
  int sort = scan->backwards ? -1 : 1;
  int64_t start = scan->next, wanted = scan->page;
  if (scan->limit >= 0 && scan->limit < wanted) wanted = scan->limit;
  drop_page(scan);
  int code =
      read_commits(scan, connection, tenant, relation, start, sort, wanted, &scan->reply, error);
  scan->has_reply = true;
  if (code != TIDE_OK) return code;
  if (!tide__batch(&scan->reply, &scan->documents))
    return tide__fail_store(error, 0, "MongoDB gave an answer without documents");
  if (!scan->found && !scan->backwards && scan->next > 0 && first_key(scan) != scan->next) {
    code = find_start(scan, connection, tenant, &start, error);
    if (code == TIDE_OK && start != scan->next) {
      drop_page(scan);
      code = read_commits(scan, connection, tenant, relation, start, sort, wanted, &scan->reply,
                          error);
      scan->has_reply = true;
      if (code == TIDE_OK && !tide__batch(&scan->reply, &scan->documents))
        code = tide__fail_store(error, 0, "MongoDB gave an answer without documents");
    }
  }
  scan->page = scan->page * 4 < PAGE_MOST ? scan->page * 4 : PAGE_MOST;
  return code;
}

/* ---- One commit ----------------------------------------------------------------- */

/* Does it follow the one before it? */
static bool follows(const mongo_scan *scan, const tide_commit *c) {
  int64_t key = scan->type == NULL ? c->position : c->version;
  int64_t edge = scan->backwards ? key + c->count - 1 : key;
  return scan->found ? edge == scan->next : scan->backwards || edge <= scan->next;
}

static void move(mongo_scan *scan, const tide_commit *c) {
  int64_t key = scan->type == NULL ? c->position : c->version;
  scan->found = true;
  scan->last = key;
  scan->next = scan->backwards ? key - 1 : key + c->count;
  if (scan->limit > 0) scan->limit--;
}

static int fail_gap(const mongo_scan *scan, tide__mongo_tenant *tenant, const tide_commit *c,
                    tide_error *error) {
  int64_t key = scan->type == NULL ? c->position : c->version;
  if (scan->type == NULL && !scan->backwards)
    return tide__mongo_fail_hole(tenant, scan->next, key, error);
  return tide__fail_store(error, 0, "the log of %s is damaged: %s %lld is beside %lld",
                          tenant->name, scan->type == NULL ? "position" : "version", (long long)key,
                          (long long)scan->next);
}

/* The log goes on behind where this scan has ended: it read from a primary that did not know
** yet what a majority has. */
static bool is_behind(const mongo_scan *scan, tide__mongo_tenant *tenant) {
  (void)pthread_mutex_lock(&tenant->lock);
  bool behind =
      scan->type == NULL && !scan->backwards && scan->next < tenant->head.position && scan->found;
  (void)pthread_mutex_unlock(&tenant->lock);
  return behind;
}

/* The next commit of the page, or *got false at its end. */
static int next_in_page(mongo_scan *scan, bool *got, tide_error *error) {
  *got = scan->has_reply && bson_iter_next(&scan->documents);
  if (!*got) return TIDE_OK;
  return tide__mongo_parse(&scan->documents, true, &scan->commit, NULL, error);
}

static int next_commit(mongo_scan *scan, tide__connection *connection, tide__mongo_tenant *tenant,
                       bool *got, tide_error *error) {
  tide__patience patience = tide__patience_begin((tide__mongo *)scan->base.store);
  for (;;) {
    int code = next_in_page(scan, got, error);
    if (code == TIDE_OK && !*got) {
      code = read_page(scan, connection, tenant, error);
      if (code == TIDE_OK) code = next_in_page(scan, got, error);
    }
    if (code != TIDE_OK) {
      drop_page(scan);
      return code;
    }
    if (*got && follows(scan, &scan->commit)) return TIDE_OK;
    if (!*got && !is_behind(scan, tenant)) {
      if (scan->backwards && scan->found && scan->last > 0)
        return tide__fail_store(error, 0, "the log of %s is damaged: nothing is before %s %lld",
                                tenant->name, scan->type == NULL ? "position" : "version",
                                (long long)scan->last);
      return TIDE_OK;
    }
    /* What is missing may become visible yet. */
    drop_page(scan);
    if (!tide__patience_again(&patience)) {
      if (*got) return fail_gap(scan, tenant, &scan->commit, error);
      return tide__fail_store(error, 1, "the log of %s ends at position %lld, before its head",
                              tenant->name, (long long)scan->next);
    }
  }
}

/* The next commit, from the database where the page has none that follows. */
static int fetch_commit(mongo_scan *scan, bool *got, tide_error *error) {
  tide__mongo *store = (tide__mongo *)scan->base.store;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  int code = tide__mongo_enter(scan->base.store, scan->tenant, &tenant, &connection, error);
  if (code != TIDE_OK) return code;
  code = tide__mongo_know(store, connection, tenant, error);
  if (code == TIDE_OK && tide__mongo_is_known(tenant))
    code = next_commit(scan, connection, tenant, got, error);
  tide__mongo_leave(scan->base.store, tenant, connection);
  return code;
}

int tide__mongo_scan_next(tide_scan *base, const tide_commit **commit, tide_error *error) {
  mongo_scan *scan = (mongo_scan *)base;
  bool got = false;
  *commit = NULL;
  int code = tide__mongo_own((tide__mongo *)base->store, error);
  if (code != TIDE_OK || scan->ended || scan->limit == 0) return code;
  /* the page first: it needs no connection */
  code = next_in_page(scan, &got, error);
  if (code == TIDE_OK && !(got && follows(scan, &scan->commit))) {
    drop_page(scan);
    got = false;
    code = fetch_commit(scan, &got, error);
  }
  if (code != TIDE_OK) {
    drop_page(scan);
    return code;
  }
  if (got) {
    move(scan, &scan->commit);
    *commit = &scan->commit;
  } else {
    scan->ended = scan->backwards;
    drop_page(scan);
  }
  return TIDE_OK;
}
