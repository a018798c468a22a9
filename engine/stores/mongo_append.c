/* mongo_append.c - proposing a group of commits to MongoDB.
**
** A group is proposed behind the head that we know, as one ordered insertMany, and only if a
** majority has all before it. Any answer but a clean one is resolved by reading the tail,
** which tells which of the group are in; the rest is decided again on what is there now, and
** proposed again. So it does not matter whether an answer was lost, late or a duplicate:
** docs/mongodb.md has the proof. */
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "stores/mongo_store.h"

/* A group is one command in one message: libmongoc would split at 48,000,000 bytes. */
#define GROUP_COMMITS 1000
#define GROUP_BYTES   ((size_t)8 << 20)

#define COMMANDS_ASKED 100 /* of an import, in one query */

#define PAUSE_AGAINST_OTHERS 4    /* at most 2^4 ms */
#define OTHERS_STAY          1000 /* ms: who wrote this long ago may write again    */
#define SLICE                100  /* ms that one of several writers goes on alone   */
#define TURN                 20   /* ms that it leaves the others then: longer than their pauses */

typedef struct group {
  tide__mongo *store;
  tide__connection *connection;
  tide__mongo_tenant *tenant;
  tide__proposal *proposals;
  size_t count;
  bool as_is;        /* commits that have their positions, times and hashes already */
  bool chosen;       /* some were sent */
  int64_t forgotten; /* tenant->forgotten when it began */
  bool uncertain;    /* an answer was lost: what was sent may be in, or come yet */
} group;

/* ---- Deciding ------------------------------------------------------------------- */

static bool same_aggregate(const tide_commit *a, const tide_commit *b) {
  return strcmp(a->id, b->id) == 0 && strcmp(a->type, b->type) == 0;
}

/* Another thread that reads the tail may settle it at any time. */
static bool is_open(const group *g, size_t index) {
  (void)pthread_mutex_lock(&g->tenant->lock);
  bool open = g->proposals[index].outcome == 0;
  (void)pthread_mutex_unlock(&g->tenant->lock);
  return open;
}

static void settle(const group *g, tide__proposal *p, tide_outcome outcome,
                   const tide_commit *found) {
  (void)pthread_mutex_lock(&g->tenant->lock);
  tide__mongo_settle(p, outcome, found);
  (void)pthread_mutex_unlock(&g->tenant->lock);
}

/* The version that comes next: behind the group's own commits that are to be sent, else as
** known. -1: nobody knows. Under tenant->lock. */
static int64_t next_of(const group *g, size_t index) {
  const tide__proposal *p = &g->proposals[index];
  for (size_t i = index; i-- > 0;)
    if (g->proposals[i].sent && same_aggregate(g->proposals[i].commit, p->commit))
      return g->proposals[i].commit->version + g->proposals[i].commit->count;
  int64_t known = tide__mongo_known_next(g->tenant, p->commit->type, p->commit->id);
  return known > p->next ? known : p->next; /* what was known may have had to make room */
}

/* A commit that is where a proposal wants to be. */
typedef struct rival {
  bool there;
  bool own; /* it is the proposal itself */
  tide_commit commit;
} rival;

/* The commit that has the proposal's first version, or its command id. */
static int find_rival(const group *g, const tide__proposal *p, bool by_command, rival *to,
                      tide_error *error) {
  tide__reply reply;
  bson_iter_t documents;
  const uint8_t *id;
  const tide_commit *c = p->commit;
  bson_t filter = BSON_INITIALIZER, range = BSON_INITIALIZER;
  memset(to, 0, sizeof *to);
  BSON_APPEND_UTF8(&filter, "type", c->type);
  BSON_APPEND_UTF8(&filter, "id", c->id);
  BSON_APPEND_INT64(&range, "$lte", c->version);
  if (by_command)
    BSON_APPEND_UTF8(&filter, "commandId", c->command_id);
  else
    BSON_APPEND_DOCUMENT(&filter, "version", &range);
  bson_t *command =
      BCON_NEW("find", BCON_UTF8("events"), "filter", BCON_DOCUMENT(&filter), "sort", "{",
               "version", BCON_INT32(-1), "}", "projection", "{", "body", BCON_INT32(0), "}",
               "limit", BCON_INT64(1), "singleBatch", BCON_BOOL(true));
  int code = tide__mongo_ask(g->store, g->connection, g->tenant->database, command, &reply, error);
  if (code == TIDE_OK && tide__batch(&reply, &documents) && bson_iter_next(&documents)) {
    code = tide__mongo_parse(&documents, false, &to->commit, &id, error);
    to->there =
        code == TIDE_OK && (by_command || to->commit.version + to->commit.count > c->version);
    to->own = to->there && memcmp(id, p->id, TIDE__COMMIT_ID) == 0;
    to->commit.type = to->commit.id = to->commit.command_id = NULL; /* they are the reply's */
  }
  tide__reply_free(&reply);
  bson_destroy(command);
  bson_destroy(&filter);
  bson_destroy(&range);
  return code;
}

/* Settles a proposal whose command id is there already. */
static int look_for_command(const group *g, tide__proposal *p, bool *there, tide_error *error) {
  rival found;
  *there = false;
  if (p->commit->command_id == NULL) return TIDE_OK;
  int code = find_rival(g, p, true, &found, error);
  if (code != TIDE_OK || !found.there) return code;
  if (g->as_is && !found.own) return tide__fail_import(p->commit, p->commit->version, error);
  settle(g, p, found.own ? TIDE_APPENDED : TIDE_DUPLICATE, &found.commit);
  *there = true;
  return TIDE_OK;
}

/* A refused version may be a command that comes again. */
static int refuse(const group *g, tide__proposal *p, tide_error *error) {
  bool there;
  int code = look_for_command(g, p, &there, error);
  if (code == TIDE_OK && !there) settle(g, p, TIDE_CONFLICT, NULL);
  return code;
}

/* What a proposal cannot be decided without; an unknown aggregate is taken for a new one: the
** key on its version 0 knows better. */
static int ask_version(const group *g, tide__proposal *p, tide_error *error) {
  const tide_commit *c = p->commit;
  (void)pthread_mutex_lock(&g->tenant->lock);
  int64_t next = tide__mongo_known_next(g->tenant, c->type, c->id);
  (void)pthread_mutex_unlock(&g->tenant->lock);
  int code = TIDE_OK;
  if (p->look_at_version || (next < 0 && p->next < 0 && c->version > 0)) {
    p->look_at_version = false;
    code = tide__mongo_find_next(g->store, g->connection, g->tenant, c->type, c->id, &next, error);
  }
  if (code == TIDE_OK && next > p->next) p->next = next;
  return code;
}

/* What the group cannot be decided without is asked for first: `tenant->lock` is not held
** during a command. */
static int ask_versions(const group *g, tide_error *error) {
  int code = TIDE_OK;
  for (size_t i = 0; i < g->count && code == TIDE_OK; i++) {
    tide__proposal *p = &g->proposals[i];
    bool there = false;
    if (!is_open(g, i)) continue;
    if (p->look_at_command) {
      p->look_at_command = false;
      code = look_for_command(g, p, &there, error);
    }
    if (code == TIDE_OK && !there) code = ask_version(g, p, error);
  }
  return code;
}

/* Gives a commit its place behind `head`, which it moves. What is imported has one; that each
** follows the one before it has been checked. */
static int place(const group *g, tide_commit *commit, tide_head *head, int64_t now,
                 tide_error *error) {
  if (!g->as_is) return tide__commit_seal(commit, head, now, error);
  head->position = commit->position + commit->count;
  return TIDE_OK;
}

/* Does what is left of an import follow the head? Under tenant->lock. */
static int check_import(const group *g, tide_error *error) {
  for (size_t i = 0; i < g->count && g->as_is; i++)
    if (g->proposals[i].outcome == 0)
      return tide__import_follows(g->proposals[i].commit, &g->tenant->head, g->tenant->torn, error);
  return TIDE_OK;
}

/* Chooses what is sent, in order, and places it behind the head as it is now. A commit with
** another version than the next one is left for `refuse`. */
static int decide(group *g, bool *refused, tide_error *error) {
  const int64_t now = tide__now();
  g->chosen = *refused = false;
  (void)pthread_mutex_lock(&g->tenant->lock);
  tide_head head = g->tenant->head;
  int code = g->tenant->warm && g->tenant->forgotten == g->forgotten
                 ? check_import(g, error)
                 : tide__mongo_fail_other_log(g->tenant, error);
  for (size_t i = 0; i < g->count; i++)
    g->proposals[i].sent = false;
  for (size_t i = 0; i < g->count && code == TIDE_OK; i++) {
    tide__proposal *p = &g->proposals[i];
    if (p->outcome != 0) continue;
    int64_t next = next_of(g, i);
    if (next < 0) next = 0;
    p->mismatch = p->commit->version != next;
    p->overtaken = p->tried && p->commit->version < next;
    *refused = *refused || p->mismatch;
    if (p->mismatch) continue;
    code = place(g, p->commit, &head, now, error);
    p->sent = code == TIDE_OK;
    p->tried = p->tried || p->sent;
    g->chosen = g->chosen || p->sent;
  }
  (void)pthread_mutex_unlock(&g->tenant->lock);
  return code;
}

/* A commit that was sent and was overtaken may be in without our having read of it: another
** thread has asked for the aggregate's version. Only somebody else's commit in its place
** refuses it. *again: something was found, or is to be seen yet. */
static int recognize(const group *g, tide__patience *patience, bool *again, tide_error *error) {
  bool unseen = false;
  *again = false;
  for (size_t i = 0; i < g->count; i++) {
    tide__proposal *p = &g->proposals[i];
    rival found;
    if (!p->overtaken || !is_open(g, i)) continue;
    int code = find_rival(g, p, false, &found, error);
    if (code != TIDE_OK) return code;
    if (found.own) settle(g, p, TIDE_APPENDED, &found.commit);
    *again = *again || found.own;
    unseen = unseen || !found.there;
  }
  if (!unseen) return TIDE_OK;
  *again = true;
  if (tide__patience_again(patience)) return TIDE_OK;
  return tide__fail_store(error, 1,
                          "MongoDB at %.100s does not show yet what it has of %s: it is unknown "
                          "whether the commits were written",
                          g->store->uri.place, g->tenant->name);
}

/* The commits that were not chosen are refused; but only after those before them on the same
** aggregate are in, for these may be refused themselves. */
static int refuse_others(const group *g, tide_error *error) {
  for (size_t i = 0; i < g->count; i++) {
    tide__proposal *p = &g->proposals[i];
    if (!p->mismatch || !is_open(g, i)) continue;
    bool waits = false;
    for (size_t k = 0; k < i && !waits; k++)
      waits = g->proposals[k].sent && same_aggregate(g->proposals[k].commit, p->commit) &&
              is_open(g, k);
    if (waits) continue;
    int code = refuse(g, p, error);
    if (code != TIDE_OK) return code;
  }
  return TIDE_OK;
}

/* An import is refused as a whole, before anything of it is written. */
static int refuse_import(const group *g, tide_error *error) {
  int code = TIDE_OK;
  (void)pthread_mutex_lock(&g->tenant->lock);
  for (size_t i = 0; i < g->count && code == TIDE_OK; i++)
    if (g->proposals[i].outcome == 0 && g->proposals[i].mismatch)
      code = tide__fail_import(g->proposals[i].commit, next_of(g, i), error);
  (void)pthread_mutex_unlock(&g->tenant->lock);
  return code;
}

/* ---- Sending -------------------------------------------------------------------- */

static void send_group(group *g, tide__reply *reply) {
  bson_t **documents = calloc(g->count, sizeof *documents);
  size_t count = 0;
  if (documents == NULL) {
    memset(reply, 0, sizeof *reply);
    bson_init(&reply->bson);
    reply->answer = TIDE__REFUSED;
    bson_strncpy(reply->error.message, "out of memory", sizeof reply->error.message);
    return;
  }
  for (size_t i = 0; i < g->count; i++) {
    if (!g->proposals[i].sent) continue;
    documents[count] = bson_new();
    tide__mongo_document(g->proposals[i].commit, g->proposals[i].id, documents[count++]);
  }
  atomic_fetch_add(&g->store->proposals, 1);
  tide__mongo_insert(g->connection, g->tenant->database, "events", documents, count, reply);
  for (size_t i = 0; i < count; i++)
    bson_destroy(documents[i]);
  free(documents);
}

/* A clean acknowledgement: all that was sent is in, and a majority has it. */
static void acknowledge(group *g) {
  (void)pthread_mutex_lock(&g->tenant->lock);
  for (size_t i = 0; i < g->count; i++) {
    tide__proposal *p = &g->proposals[i];
    if (!p->sent || p->outcome != 0) continue;
    tide__mongo_settle(p, TIDE_APPENDED, p->commit);
    /* another thread may have read it, and moved the head, already */
    if (p->commit->position == g->tenant->head.position) tide__mongo_apply(g->tenant, p->commit);
  }
  g->tenant->looked = tide__monotonic();
  const int64_t now = g->tenant->looked, alone = now - g->tenant->others;
  if (alone >= SLICE && alone < OTHERS_STAY && now - g->tenant->turn >= SLICE)
    g->tenant->turn = now + TURN;
  (void)pthread_mutex_unlock(&g->tenant->lock);
}

/* Who has just got a group in knows the head best, and would be the first for ever: where
** others write, too, it pauses now and then, so that one of them gets in and goes on. */
static int take_turn(const group *g, tide_error *error) {
  (void)pthread_mutex_lock(&g->tenant->lock);
  const int64_t left = g->tenant->turn - tide__monotonic();
  (void)pthread_mutex_unlock(&g->tenant->lock);
  if (left <= 0) return TIDE_OK;
  tide__mongo_sleep(left);
  return tide__mongo_catch_up(g->store, g->connection, g->tenant, NULL, error);
}

/* The proposal that a unique key refused. */
static tide__proposal *refused_one(group *g, int64_t index) {
  for (size_t i = 0; i < g->count; i++)
    if (g->proposals[i].sent && index-- == 0) return &g->proposals[i];
  return NULL;
}

/* What is to be asked after a key refused a commit. On _id another writer came first, or we
** did ourselves: the tail tells. */
static void read_refusal(group *g, const tide__reply *reply) {
  tide__proposal *p = refused_one(g, reply->index);
  if (p == NULL || strcmp(reply->key, "_id") == 0) return;
  bool nameless = reply->key[0] == '\0'; /* a server that does not say which */
  p->look_at_command = p->commit->command_id != NULL && (reply->on_command || nameless);
  p->look_at_version = nameless || !p->look_at_command;
}

static size_t open_proposals(const group *g) {
  size_t open = 0;
  (void)pthread_mutex_lock(&g->tenant->lock);
  for (size_t i = 0; i < g->count; i++)
    open += g->proposals[i].outcome == 0;
  (void)pthread_mutex_unlock(&g->tenant->lock);
  return open;
}

static int give_up(const group *g, const tide__reply *reply, tide_error *error) {
  if (reply->answer == TIDE__UNRESOLVED) return tide__mongo_fail(g->store, "writing", reply, error);
  return tide__fail_store(error, 1, "other writers came first on %s for %d ms: %s", g->tenant->name,
                          g->store->patience,
                          g->uncertain ? "it is unknown whether the commits were written"
                                       : "the commits were not written");
}

/* Sends what was decided, and finds out what became of it. */
static int resolve(group *g, tide__patience *patience, tide_error *error) {
  tide__reply reply;
  bool news = false;
  int code = TIDE_OK;
  send_group(g, &reply);
  if (reply.answer == TIDE__DONE) {
    acknowledge(g);
  } else if (reply.answer == TIDE__REFUSED) {
    /* that says nothing of an earlier try whose answer was lost */
    if (g->uncertain) reply.answer = TIDE__UNRESOLVED;
    code =
        tide__mongo_fail(g->store, g->uncertain ? "writing" : "writing the commits", &reply, error);
  } else {
    size_t before = open_proposals(g);
    if (reply.answer == TIDE__DUPLICATE) read_refusal(g, &reply);
    g->uncertain = g->uncertain || reply.answer == TIDE__UNRESOLVED;
    /* the pause comes first: what is read behind it is what the next try is placed on */
    bool again = tide__patience_again(patience);
    code = tide__mongo_catch_up(g->store, g->connection, g->tenant, &news, error);
    if (reply.answer == TIDE__DUPLICATE) atomic_fetch_add(&g->store->reproposals, 1);
    /* who has just got on tries again at once; against others, not much later than they */
    if (open_proposals(g) < before) patience->attempt = 0;
    if (news && patience->attempt > PAUSE_AGAINST_OTHERS) patience->attempt = PAUSE_AGAINST_OTHERS;
    if (code == TIDE_OK && open_proposals(g) > 0 && !again) code = give_up(g, &reply, error);
  }
  tide__reply_free(&reply);
  return code;
}

/* Adds commits with command ids to a query that finds those that are known, as many as one
** query takes; the index of the first that was not added. */
static size_t add_commands(bson_t *filter, const group *g, size_t at) {
  bson_t any;
  uint32_t taken = 0;
  BSON_APPEND_ARRAY_BEGIN(filter, "$or", &any);
  for (; at < g->count && taken < COMMANDS_ASKED; at++) {
    const tide_commit *c = g->proposals[at].commit;
    char digits[16];
    const char *key;
    bson_t one;
    if (c->command_id == NULL) continue;
    bson_uint32_to_string(taken++, &key, digits, sizeof digits);
    BSON_APPEND_DOCUMENT_BEGIN(&any, key, &one);
    BSON_APPEND_UTF8(&one, "type", c->type);
    BSON_APPEND_UTF8(&one, "id", c->id);
    BSON_APPEND_UTF8(&one, "commandId", c->command_id);
    bson_append_document_end(&any, &one);
  }
  bson_append_array_end(filter, &any);
  return at;
}

static size_t skip_others(const group *g, size_t at) {
  while (at < g->count && g->proposals[at].commit->command_id == NULL)
    at++;
  return at;
}

/* A command id of an import that is there already would be refused in the middle of a group. */
static int check_known_commands(const group *g, tide_error *error) {
  int code = TIDE_OK;
  for (size_t at = skip_others(g, 0); at < g->count && code == TIDE_OK; at = skip_others(g, at)) {
    tide__reply reply;
    bson_iter_t documents;
    bson_t filter = BSON_INITIALIZER;
    const tide_commit *first = g->proposals[at].commit;
    at = add_commands(&filter, g, at);
    bson_t *command =
        BCON_NEW("find", BCON_UTF8("events"), "filter", BCON_DOCUMENT(&filter), "projection", "{",
                 "_id", BCON_INT32(1), "}", "limit", BCON_INT64(1), "singleBatch", BCON_BOOL(true));
    code = tide__mongo_ask(g->store, g->connection, g->tenant->database, command, &reply, error);
    if (code == TIDE_OK && tide__batch(&reply, &documents) && bson_iter_next(&documents))
      code = tide__fail_import(first, first->version, error);
    tide__reply_free(&reply);
    bson_destroy(command);
    bson_destroy(&filter);
  }
  return code;
}

static int begin_import(const group *g, tide_error *error) {
  int code = tide__mongo_catch_up(g->store, g->connection, g->tenant, NULL, error);
  if (code != TIDE_OK) return code;
  (void)pthread_mutex_lock(&g->tenant->lock);
  code = check_import(g, error);
  (void)pthread_mutex_unlock(&g->tenant->lock);
  return code == TIDE_OK ? check_known_commands(g, error) : code;
}

static int propose(group *g, tide_error *error) {
  tide__patience patience = tide__patience_begin(g->store);
  bool refused = false, again = false, fresh = g->as_is;
  int code = tide__mongo_look(g->store, g->connection, g->tenant, error);
  (void)pthread_mutex_lock(&g->tenant->lock);
  bool warm = g->tenant->warm;
  g->forgotten = g->tenant->forgotten;
  (void)pthread_mutex_unlock(&g->tenant->lock);
  if (code == TIDE_OK && g->as_is)
    code = begin_import(g, error);
  else if (code == TIDE_OK && !warm)
    code = tide__mongo_catch_up(g->store, g->connection, g->tenant, NULL, error);
  else if (code == TIDE_OK)
    code = take_turn(g, error);
  while (code == TIDE_OK && open_proposals(g) > 0) {
    code = ask_versions(g, error);
    if (code == TIDE_OK) code = decide(g, &refused, error);
    if (code != TIDE_OK) break;
    if (refused && !fresh) { /* what is known may lie behind: only what is there now refuses */
      fresh = true;
      code = tide__mongo_catch_up(g->store, g->connection, g->tenant, NULL, error);
      continue;
    }
    if (refused) code = recognize(g, &patience, &again, error);
    if (code != TIDE_OK || (refused && again)) continue;
    if (refused && g->as_is) return refuse_import(g, error);
    if (g->chosen) code = resolve(g, &patience, error);
    if (code == TIDE_OK && refused) code = refuse_others(g, error);
  }
  return code;
}

/* Tells the writer where its commit is, or the one that had its command id. */
static void take_place(const tide__proposal *p) {
  if (p->outcome == TIDE_CONFLICT) return;
  p->commit->position = p->position;
  if (p->outcome == TIDE_DUPLICATE) return;
  p->commit->time = p->time;
  memcpy(p->commit->hash, p->hash, TIDE_HASH_SIZE);
}

/* Proposes with the tenant told of it, so that whoever reads the tail finds them. */
static int propose_group(tide__mongo *store, tide__connection *connection,
                         tide__mongo_tenant *tenant, tide_commit *commits, tide_outcome *outcomes,
                         size_t count, bool as_is, tide_error *error) {
  group g = {
      .store = store, .connection = connection, .tenant = tenant, .count = count, .as_is = as_is};
  g.proposals = calloc(count, sizeof *g.proposals);
  if (g.proposals == NULL) return tide__fail_memory(error);
  int code = TIDE_OK;
  for (size_t i = 0; i < count && code == TIDE_OK; i++) {
    g.proposals[i].commit = &commits[i];
    g.proposals[i].next = -1;
    code = tide__mongo_new_name(g.proposals[i].id, error);
  }
  (void)pthread_mutex_lock(&tenant->lock);
  tenant->proposals = g.proposals;
  tenant->proposal_count = count;
  (void)pthread_mutex_unlock(&tenant->lock);
  if (code == TIDE_OK) code = propose(&g, error);
  (void)pthread_mutex_lock(&tenant->lock);
  tenant->proposals = NULL;
  tenant->proposal_count = 0;
  (void)pthread_mutex_unlock(&tenant->lock);
  for (size_t i = 0; i < count && code == TIDE_OK && outcomes != NULL; i++) {
    outcomes[i] = g.proposals[i].outcome;
    take_place(&g.proposals[i]);
  }
  free(g.proposals);
  return code;
}

/* As many commits as one group takes: at least one. */
static size_t group_size(const tide_commit *commits, size_t count) {
  size_t taken = 0, bytes = 0;
  while (taken < count && taken < GROUP_COMMITS) {
    bytes += commits[taken].body_size;
    if (taken > 0 && bytes > GROUP_BYTES) break;
    taken++;
  }
  return taken;
}

static void keep_link(tide__link *link) {
  (void)link; /* they are an array's */
}

/* What an import must not do, before anything of it is written, or a tenant is made for it. */
static int check_commands(const tide_commit *commits, size_t count, tide_error *error) {
  tide__map seen = {0};
  int code = TIDE_OK;
  tide__link *links = calloc(count, sizeof *links);
  if (links == NULL) return tide__fail_memory(error);
  for (size_t i = 0; i < count && code == TIDE_OK; i++) {
    const tide_commit *c = &commits[i];
    if (c->command_id == NULL) continue;
    links[i].key[0] = c->type;
    links[i].key[1] = c->id;
    links[i].key[2] = c->command_id;
    if (tide__map_find(&seen, c->type, c->id, c->command_id) != NULL)
      code = tide__fail_import(c, c->version, error);
    else if (!tide__map_add(&seen, &links[i]))
      code = tide__fail_memory(error);
  }
  tide__map_free(&seen, keep_link);
  free(links);
  return code;
}

static int check_new_tenant(const tide_commit *commits, tide_error *error) {
  static const tide_head empty;
  return tide__import_follows(commits, &empty, false, error);
}

static int propose_all(tide_store *base, const char *name, tide_commit *commits, size_t count,
                       tide_outcome *outcomes, bool as_is, tide_error *error) {
  tide__mongo *store = (tide__mongo *)base;
  tide__mongo_tenant *tenant;
  tide__connection *connection;
  bool first = false; /* can anything be appended to a tenant without commits? */
  for (size_t i = 0; i < count; i++)
    first = first || commits[i].version == 0;
  int code = tide__mongo_take(store, name, &tenant, error);
  if (code != TIDE_OK) return code;
  /* The turn first, then a connection: who waits for its turn holds none. */
  (void)pthread_mutex_lock(&tenant->appending);
  code = tide__mongo_pop(store, &connection, error);
  if (code == TIDE_OK) code = tide__mongo_know(store, connection, tenant, error);
  bool known = tide__mongo_is_known(tenant);
  if (code == TIDE_OK && as_is) {
    code = check_commands(commits, count, error);
    if (code == TIDE_OK && !known) code = check_new_tenant(commits, error);
  }
  if (code == TIDE_OK && (known || first)) {
    code = tide__mongo_make(store, connection, tenant, error);
    for (size_t at = 0, size; at < count && code == TIDE_OK; at += size) {
      size = group_size(commits + at, count - at);
      code = propose_group(store, connection, tenant, commits + at,
                           outcomes == NULL ? NULL : outcomes + at, size, as_is, error);
    }
  } else if (code == TIDE_OK) {
    for (size_t i = 0; i < count && outcomes != NULL; i++)
      outcomes[i] = TIDE_CONFLICT;
  }
  tide__mongo_push(store, connection);
  (void)pthread_mutex_unlock(&tenant->appending);
  tide__mongo_give(store, tenant);
  return code;
}

int tide__mongo_append(tide_store *base, const char *tenant, tide_commit *commits, size_t count,
                       tide_outcome *outcomes, tide_error *error) {
  return propose_all(base, tenant, commits, count, outcomes, false, error);
}

int tide__mongo_import(tide_store *base, const char *tenant, const tide_commit *commits,
                       size_t count, tide_error *error) {
  tide_commit *copies = malloc(count * sizeof *copies);
  if (copies == NULL) return tide__fail_memory(error);
  memcpy(copies, commits, count * sizeof *copies);
  int code = propose_all(base, tenant, copies, count, NULL, true, error);
  free(copies);
  return code;
}
