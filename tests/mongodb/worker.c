/* worker.c - engine processes at the store's level, for the Lua scripts beside it: a writer
** that may be killed and whose server may be, and the checker of what they left.
**
**   mongodb_worker write URI WRITER SEED TENANTS COMMITS PATIENCE   COMMITS 0: until its
**                                                                standard input ends
**   mongodb_worker check URI TENANTS SAID        SAID: a file with all lines that writers said
**   mongodb_worker command URI DATABASE JSON     one command to the server; prints its reply
**
** A commit's body follows from its writer and number, so that the checker can make it again.
** Some commits are on aggregates that are everybody's, and written again where another came
** first; some on the writer's own. Half of them have a command id: after an error that leaves
** it open whether they were written these are sent again, the others are given up.
**
** What a writer says, each before it goes on with another group:
**   A writer number tenant position value hash   acknowledged ("-": it was known already)
**   U writer number                              given up: it may be there once
**   D writer commits sum conflicts most proposals reproposals errors ms   at its end; `most`:
**                                                attempts that one commit took */
#include <inttypes.h>
#include <mongoc/mongoc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "stores/store.h"

#define TYPE        "Log"
#define SHARED      3 /* aggregates of a tenant that all writers write */
#define OWN         5 /* and of each writer                            */
#define GROUP_MOST  8 /* commits                                       */
#define TENANT_MOST 16
#define WRITER_MOST 256
#define NUMBER_MOST 100000
#define VALUE_MOST  1000
#define LIFE        360000 /* ms: the longest of a writer */
#define HEX_SIZE    (2 * TIDE_HASH_SIZE + 1)

typedef struct chance {
  uint64_t state;
} chance;

static uint64_t next_random(chance *r) { /* splitmix64, Vigna 2015 */
  uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

static int below(chance *r, int limit) {
  return (int)(next_random(r) % (uint64_t)limit);
}

static void *need(void *memory) {
  if (memory != NULL) return memory;
  (void)fputs("mongodb_worker: out of memory\n", stderr);
  exit(1);
}

static void fail(const char *doing, const tide_error *error) {
  (void)fprintf(stderr, "mongodb_worker: %s: %s\n", doing, error->message);
  exit(1);
}

static tide_store *open_store(const char *uri, int patience) {
  const tide_store_options options = {.busy_timeout = patience};
  tide_error error = {0};
  tide_store *store = NULL;
  if (tide__store_open(uri, &options, &store, &error) != TIDE_OK) fail("open", &error);
  return store;
}

static void name_tenant(int tenant, char name[16]) {
  (void)snprintf(name, 16, "tenant%d", tenant);
}

static void name_aggregate(int writer, int aggregate, char name[32]) {
  if (aggregate < SHARED)
    (void)snprintf(name, 32, "shared%d", aggregate);
  else
    (void)snprintf(name, 32, "own%d-%d", writer, aggregate - SHARED);
}

/* What one commit is made of. */
typedef struct task {
  int writer, number, tenant, aggregate;
  int group, index; /* `index`: among those of its group */
  /* what follows from the writer and the number: */
  int count, value, filling;
  bool keyed;
  /* while it is written: */
  int attempts;
  bool open;
  char id[32], command_id[32];
} task;

static void derive(task *t) {
  chance r = {(uint64_t)t->writer << 32 ^ (uint64_t)t->number};
  t->count = 1 + below(&r, 4);
  t->value = below(&r, VALUE_MOST);
  t->keyed = below(&r, 2) == 0;
  t->filling = below(&r, 80) == 0 ? below(&r, 60000) : below(&r, 300);
  name_aggregate(t->writer, t->aggregate, t->id);
  (void)snprintf(t->command_id, sizeof t->command_id, "%d-%d", t->writer, t->number);
}

static bson_t *make_body(const task *t) {
  chance r = {(uint64_t)t->writer << 40 ^ (uint64_t)t->number << 8};
  uint8_t *filling = need(malloc((size_t)t->filling + 1));
  for (int i = 0; i < t->filling; i++)
    filling[i] = (uint8_t)next_random(&r);
  bson_t *body = need(bson_new());
  BSON_APPEND_INT32(body, "writer", t->writer);
  BSON_APPEND_INT32(body, "number", t->number);
  BSON_APPEND_INT32(body, "tenant", t->tenant);
  BSON_APPEND_INT32(body, "aggregate", t->aggregate);
  BSON_APPEND_INT32(body, "group", t->group);
  BSON_APPEND_INT32(body, "index", t->index);
  BSON_APPEND_INT32(body, "value", t->value);
  BSON_APPEND_BINARY(body, "filling", BSON_SUBTYPE_BINARY, filling, (uint32_t)t->filling);
  free(filling);
  return body;
}

/* ---- write -------------------------------------------------------------------------------- */

typedef struct process {
  tide_store *store;
  int me, tenants;
  chance random;
  int64_t next[TENANT_MOST][SHARED + OWN]; /* versions */
  int numbers, groups;                     /* so far */
  int64_t commits, sum, conflicts, errors;
  int most;
  int64_t ends;
} process;

/* After an error that may pass: false where it does not, or not in this life. */
static bool passes(process *w, const char *doing, tide_error *error) {
  if (error->code != TIDE_STORE || !error->transient) fail(doing, error);
  if (tide__monotonic() > w->ends) fail("for too long", error);
  w->errors++;
  memset(error, 0, sizeof *error);
  return true;
}

static int read_version(const process *w, int tenant, int aggregate, int64_t *next,
                        tide_error *error) {
  char name[16], id[32];
  const tide_commit *commit = NULL;
  tide_scan *scan = NULL;
  name_tenant(tenant, name);
  name_aggregate(w->me, aggregate, id);
  const tide_query last = {
      .type = TYPE, .id = id, .from = INT64_MAX, .backwards = true, .limit = 1};
  int code = tide__store_scan(w->store, name, &last, &scan, error);
  if (code == TIDE_OK) code = tide__scan_next(scan, &commit, error);
  if (code == TIDE_OK) *next = commit == NULL ? 0 : commit->version + commit->count;
  tide__scan_close(scan);
  return code;
}

static void find_version(process *w, int tenant, int aggregate) {
  tide_error error = {0};
  while (read_version(w, tenant, aggregate, &w->next[tenant][aggregate], &error) != TIDE_OK &&
         passes(w, "scan", &error))
    continue;
}

static void say(const char *text, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t wrote = write(STDOUT_FILENO, text + done, size - done);
    if (wrote < 0) exit(1);
    done += (size_t)wrote;
  }
}

static void hex(const uint8_t *hash, char text[HEX_SIZE]) {
  for (int i = 0; i < TIDE_HASH_SIZE; i++)
    (void)snprintf(text + (ptrdiff_t)2 * i, 3, "%02x", hash[i]);
}

/* The commits of the open tasks, in order. */
static int make_commits(const process *w, task *tasks, int size, tide_commit *commits,
                        bson_t **bodies, task **of) {
  int64_t next[SHARED + OWN];
  int count = 0;
  memcpy(next, w->next[tasks[0].tenant], sizeof next);
  for (int i = 0; i < size; i++) {
    task *t = &tasks[i];
    if (!t->open) continue;
    t->attempts++;
    of[count] = t;
    bodies[count] = make_body(t);
    commits[count] = (tide_commit){.type = TYPE,
                                   .id = t->id,
                                   .version = next[t->aggregate],
                                   .count = t->count,
                                   .command_id = t->keyed ? t->command_id : NULL,
                                   .body = bson_get_data(bodies[count]),
                                   .body_size = bodies[count]->len};
    next[t->aggregate] += t->count;
    count++;
  }
  return count;
}

/* Says what became of the tasks, and looks up the versions that were others. */
static void settle(process *w, task *const *of, const tide_commit *commits,
                   const tide_outcome *outcomes, int count) {
  char text[GROUP_MOST * 192], digits[HEX_SIZE];
  bool look[SHARED + OWN] = {false};
  size_t used = 0;
  for (int i = 0; i < count; i++) {
    task *t = of[i];
    look[t->aggregate] = look[t->aggregate] || outcomes[i] != TIDE_APPENDED;
    if (outcomes[i] == TIDE_CONFLICT) {
      w->conflicts++;
      continue;
    }
    t->open = false;
    w->commits++;
    w->sum += t->value;
    if (t->attempts > w->most) w->most = t->attempts;
    (void)snprintf(digits, sizeof digits, "-");
    if (outcomes[i] == TIDE_APPENDED) {
      hex(commits[i].hash, digits);
      w->next[t->tenant][t->aggregate] = commits[i].version + commits[i].count;
    }
    used +=
        (size_t)snprintf(text + used, sizeof text - used, "A %d %d %d %" PRId64 " %d %s\n",
                         t->writer, t->number, t->tenant, commits[i].position, t->value, digits);
  }
  say(text, used);
  for (int a = 0; a < SHARED + OWN; a++)
    if (look[a]) find_version(w, of[0]->tenant, a);
}

/* Nobody knows which of them are in. */
static void give_up(process *w, task *const *of, int count) {
  char text[GROUP_MOST * 32];
  size_t used = 0;
  for (int i = 0; i < count; i++) {
    if (of[i]->keyed) continue;
    of[i]->open = false;
    used += (size_t)snprintf(text + used, sizeof text - used, "U %d %d\n", of[i]->writer,
                             of[i]->number);
  }
  say(text, used);
  for (int a = 0; a < SHARED + OWN; a++)
    find_version(w, of[0]->tenant, a);
}

static void write_group(process *w, int64_t room) {
  task tasks[GROUP_MOST];
  const bool own = below(&w->random, 2) == 0;
  const int tenant = below(&w->random, w->tenants);
  int size = below(&w->random, 3) == 0 ? 1 : 1 + below(&w->random, GROUP_MOST);
  if (size > room) size = (int)room;
  w->groups++;
  for (int i = 0; i < size; i++) {
    tasks[i] = (task){.writer = w->me, .number = w->numbers++, .tenant = tenant, .open = true};
    tasks[i].aggregate = own ? SHARED + below(&w->random, OWN) : below(&w->random, SHARED);
    tasks[i].group = w->groups;
    tasks[i].index = i;
    derive(&tasks[i]);
  }
  for (;;) {
    tide_commit commits[GROUP_MOST];
    tide_outcome outcomes[GROUP_MOST];
    bson_t *bodies[GROUP_MOST];
    task *of[GROUP_MOST];
    char name[16];
    tide_error error = {0};
    const int count = make_commits(w, tasks, size, commits, bodies, of);
    if (count == 0) return;
    name_tenant(tenant, name);
    const int code = tide__store_append(w->store, name, commits, (size_t)count, outcomes, &error);
    for (int i = 0; i < count; i++)
      bson_destroy(bodies[i]);
    if (code == TIDE_OK)
      settle(w, of, commits, outcomes, count);
    else if (passes(w, "append", &error))
      give_up(w, of, count);
  }
}

/* Whoever started it has closed its input. */
static bool is_told_to_end(void) {
  struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
  return poll(&input, 1, 0) > 0;
}

static int64_t described(const tide_bytes *bson, const char *field) {
  bson_t read;
  bson_iter_t i;
  return bson_init_static(&read, bson->data, bson->size) && bson_iter_init_find(&i, &read, field)
             ? bson_iter_as_int64(&i)
             : -1;
}

static int run_writer(char **arguments) {
  process *w = need(calloc(1, sizeof *w));
  const int64_t began = tide__monotonic(), commits = strtoll(arguments[4], NULL, 10);
  char line[256];
  tide_bytes about = {0};
  tide_error error = {0};
  w->me = (int)strtol(arguments[1], NULL, 10);
  w->random.state = strtoull(arguments[2], NULL, 10);
  w->tenants = (int)strtol(arguments[3], NULL, 10);
  w->ends = began + LIFE;
  w->store = open_store(arguments[0], (int)strtol(arguments[5], NULL, 10));
  while (commits == 0 ? !is_told_to_end() && tide__monotonic() < w->ends : w->numbers < commits)
    write_group(w, commits == 0 ? GROUP_MOST : commits - w->numbers);
  if (tide__store_describe(w->store, NULL, &about, &error) != TIDE_OK) fail("describe", &error);
  const int size =
      snprintf(line, sizeof line,
               "D %d %" PRId64 " %" PRId64 " %" PRId64 " %d %" PRId64 " %" PRId64 " %" PRId64
               " %" PRId64 "\n",
               w->me, w->commits, w->sum, w->conflicts, w->most, described(&about, "proposals"),
               described(&about, "reproposals"), w->errors, tide__monotonic() - began);
  say(line, (size_t)size);
  tide__bytes_free(&about);
  tide__store_close(w->store);
  free(w);
  return 0;
}

/* ---- check -------------------------------------------------------------------------------- */

/* What is known of one commit of a writer. */
typedef struct fact {
  bool said, given_up;
  int found, tenant;
  int64_t position;
  char hash[HEX_SIZE];
} fact;

typedef struct writers_end {
  fact *facts;
  int count;
  bool done, gave_up;
  int said_group;        /* the last one of which something was said */
  int open_group, index; /* the one of which something was found that was not said: -1 */
} writers_end;

typedef struct aggregate {
  char id[32];
  int64_t next;
} aggregate;

typedef struct checker {
  writers_end writers[WRITER_MOST];
  aggregate aggregates[SHARED + WRITER_MOST * OWN];
  size_t aggregate_count;
  int64_t commits, events, said, lost, unsaid, given_up, given_up_found, sum, wrong;
} checker;

static void wrong(checker *c, const char *what, int tenant, int64_t position) {
  if (c->wrong++ < 10)
    (void)printf("wrong: %s in tenant%d at position %" PRId64 "\n", what, tenant, position);
}

static fact *fact_of(checker *c, int writer, int number) {
  static fact none;
  if (writer < 0 || writer >= WRITER_MOST || number < 0 || number >= NUMBER_MOST) return &none;
  writers_end *w = &c->writers[writer];
  if (number >= w->count) {
    const int count = number < 512 ? 1024 : number * 2;
    w->facts = need(realloc(w->facts, (size_t)count * sizeof *w->facts));
    memset(w->facts + w->count, 0, (size_t)(count - w->count) * sizeof *w->facts);
    w->count = count;
  }
  return &w->facts[number];
}

static bool read_line(checker *c, const char *line) {
  int writer = -1, number = -1, tenant = 0, value = 0;
  int64_t position = 0;
  char hash[HEX_SIZE];
  if (sscanf(line, "A %d %d %d %" SCNd64 " %d %64s", &writer, &number, &tenant, &position, &value,
             hash) == 6) {
    fact *f = fact_of(c, writer, number);
    if (f->said || f->given_up) wrong(c, "said twice", tenant, position);
    f->said = true;
    f->tenant = tenant;
    f->position = position;
    memcpy(f->hash, hash, sizeof hash);
    c->said++;
    return true;
  }
  if (sscanf(line, "U %d %d", &writer, &number) == 2) {
    fact_of(c, writer, number)->given_up = true;
    c->writers[writer].gave_up = true;
    c->given_up++;
    return true;
  }
  if (sscanf(line, "D %d", &writer) != 1 || writer < 0 || writer >= WRITER_MOST) return false;
  c->writers[writer].done = true;
  return true;
}

static void read_said(checker *c, const char *path) {
  char line[512];
  FILE *file = fopen(path, "r");
  if (file == NULL) {
    perror(path);
    exit(1);
  }
  while (fgets(line, sizeof line, file) != NULL) {
    if (read_line(c, line)) continue;
    (void)fprintf(stderr, "mongodb_worker: no writer says: %s\n", line);
    exit(1);
  }
  (void)fclose(file); /* it was only read */
}

static aggregate *find_aggregate(checker *c, const char *id) {
  size_t i = 0;
  while (i < c->aggregate_count && strcmp(c->aggregates[i].id, id) != 0)
    i++;
  if (i == sizeof c->aggregates / sizeof *c->aggregates) return NULL;
  if (i == c->aggregate_count) {
    aggregate *made = &c->aggregates[c->aggregate_count++];
    memset(made, 0, sizeof *made);
    (void)snprintf(made->id, sizeof made->id, "%s", id);
  }
  return &c->aggregates[i];
}

/* The task that a commit was made from. */
static bool read_task(const tide_commit *commit, task *t) {
  bson_t body;
  bson_iter_t i;
  if (!bson_init_static(&body, commit->body, commit->body_size) || !bson_iter_init(&i, &body))
    return false;
  *t = (task){.writer = -1};
  while (bson_iter_next(&i)) {
    const char *key = bson_iter_key(&i);
    if (strcmp(key, "writer") == 0) t->writer = bson_iter_int32(&i);
    if (strcmp(key, "number") == 0) t->number = bson_iter_int32(&i);
    if (strcmp(key, "tenant") == 0) t->tenant = bson_iter_int32(&i);
    if (strcmp(key, "aggregate") == 0) t->aggregate = bson_iter_int32(&i);
    if (strcmp(key, "group") == 0) t->group = bson_iter_int32(&i);
    if (strcmp(key, "index") == 0) t->index = bson_iter_int32(&i);
  }
  if (t->writer < 0 || t->writer >= WRITER_MOST || t->number < 0 || t->number >= NUMBER_MOST)
    return false;
  derive(t);
  return true;
}

static bool as_made(const tide_commit *commit, const task *t) {
  bson_t *body = make_body(t);
  const bool same = body->len == commit->body_size &&
                    memcmp(bson_get_data(body), commit->body, body->len) == 0 &&
                    commit->count == t->count && strcmp(commit->id, t->id) == 0 &&
                    t->keyed == (commit->command_id != NULL) &&
                    (!t->keyed || strcmp(commit->command_id, t->command_id) == 0);
  bson_destroy(body);
  return same;
}

/* A writer says a group before it begins another: only of its last one can something be in
** that it did not say, and in order; and all that was not said before its end is not there. */
static void check_unsaid(checker *c, const task *t, int64_t position) {
  writers_end *w = &c->writers[t->writer];
  c->unsaid++;
  if (w->done) wrong(c, "a commit that its writer does not know of", t->tenant, position);
  if (w->open_group >= 0 && w->open_group != t->group)
    wrong(c, "a second group that was not said", t->tenant, position);
  if (t->aggregate >= SHARED && !w->gave_up && t->index != w->index)
    wrong(c, "a group without its beginning", t->tenant, position);
  w->open_group = t->group;
  w->index++;
}

static void check_commit(checker *c, int tenant, const tide_commit *commit, int64_t expected) {
  char digits[HEX_SIZE];
  task t;
  if (commit->position != expected) wrong(c, "a gap", tenant, commit->position);
  aggregate *a = find_aggregate(c, commit->id);
  if (a == NULL || commit->version != a->next) wrong(c, "a version", tenant, commit->position);
  if (a != NULL) a->next = commit->version + commit->count;
  if (!read_task(commit, &t) || !as_made(commit, &t) || t.tenant != tenant) {
    wrong(c, "a commit that nobody made", tenant, commit->position);
    return;
  }
  c->sum += t.value;
  hex(commit->hash, digits);
  fact *f = fact_of(c, t.writer, t.number);
  if (f->found++ > 0) wrong(c, "a commit that is there twice", tenant, commit->position);
  if (f->given_up) {
    c->given_up_found++;
  } else if (!f->said) {
    check_unsaid(c, &t, commit->position);
  } else {
    writers_end *w = &c->writers[t.writer];
    if (t.group > w->said_group) w->said_group = t.group;
    if (f->position != commit->position || f->tenant != tenant ||
        (strcmp(f->hash, "-") != 0 && strcmp(f->hash, digits) != 0))
      wrong(c, "another commit than the one that was said", tenant, commit->position);
  }
}

static void check_tenant(checker *c, tide_store *store, int tenant) {
  char name[16];
  const tide_query all = {0};
  const tide_commit *commit = NULL;
  tide_scan *scan = NULL;
  tide_error error = {0};
  int64_t commits = 0, events = 0, seen = 0, position = 0;
  name_tenant(tenant, name);
  c->aggregate_count = 0;
  if (tide__store_check(store, name, &commits, &events, &error) != TIDE_OK) fail("check", &error);
  if (tide__store_scan(store, name, &all, &scan, &error) != TIDE_OK) fail("scan", &error);
  for (;; seen++) {
    if (tide__scan_next(scan, &commit, &error) != TIDE_OK) fail("scan", &error);
    if (commit == NULL) break;
    check_commit(c, tenant, commit, position);
    position = commit->position + commit->count;
  }
  tide__scan_close(scan);
  if (commits != seen || events != position) wrong(c, "the check's count", tenant, position);
  c->commits += commits;
  c->events += events;
}

static void check_writers(checker *c) {
  for (int i = 0; i < WRITER_MOST; i++) {
    writers_end *w = &c->writers[i];
    for (int k = 0; k < w->count; k++)
      if (w->facts[k].said && w->facts[k].found == 0) c->lost++;
    if (w->open_group >= 0 && w->open_group < w->said_group)
      wrong(c, "a group that was passed, of a writer with the number", 0, i);
    free(w->facts);
  }
}

static int run_checker(char **arguments) {
  checker *c = need(calloc(1, sizeof *c));
  tide_store *store = open_store(arguments[0], 0);
  for (int i = 0; i < WRITER_MOST; i++)
    c->writers[i].open_group = -1;
  read_said(c, arguments[2]);
  for (int i = 0; i < (int)strtol(arguments[1], NULL, 10); i++)
    check_tenant(c, store, i);
  tide__store_close(store);
  check_writers(c);
  (void)printf("checked %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64
               " %" PRId64 " %" PRId64 " %" PRId64 "\n",
               c->commits, c->events, c->said, c->lost, c->unsaid, c->given_up, c->given_up_found,
               c->sum, c->wrong);
  const int status = c->lost == 0 && c->wrong == 0 ? 0 : 1;
  free(c);
  return status;
}

/* ---- command ------------------------------------------------------------------------------- */

static int run_command(char **arguments) {
  bson_error_t error = {0};
  bson_t reply = BSON_INITIALIZER;
  mongoc_init();
  mongoc_client_t *client = mongoc_client_new(arguments[0]);
  bson_t *command = bson_new_from_json((const uint8_t *)arguments[2], -1, &error);
  bool done = client != NULL && command != NULL;
  if (done) {
    bson_destroy(&reply);
    done = mongoc_client_command_simple(client, arguments[1], command, NULL, &reply, &error);
  }
  char *text = done ? bson_as_relaxed_extended_json(&reply, NULL) : NULL;
  if (done)
    (void)puts(text);
  else
    (void)fprintf(stderr, "mongodb_worker: %s\n", error.message);
  bson_free(text);
  bson_destroy(&reply);
  bson_destroy(command);
  mongoc_client_destroy(client);
  return done ? 0 : 1;
}

int main(int count, char **arguments) {
  if (count == 8 && strcmp(arguments[1], "write") == 0) return run_writer(arguments + 2);
  if (count == 5 && strcmp(arguments[1], "check") == 0) return run_checker(arguments + 2);
  if (count == 5 && strcmp(arguments[1], "command") == 0) return run_command(arguments + 2);
  (void)fputs(
      "usage: mongodb_worker write URI WRITER SEED TENANTS COMMITS PATIENCE | check URI "
      "TENANTS SAID | command URI DATABASE JSON\n",
      stderr);
  return 2;
}
