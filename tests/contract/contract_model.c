/* contract_model.c - thousands of random operations against a model that is too simple to
** be wrong: arrays that are searched from end to end. The seed is printed; set
** TIDELOG_TEST_SEED for another one, TIDELOG_TEST_QUICK for a quarter of the operations. */
#include <stdio.h>
#include <stdlib.h>

#include "contract.h"

enum {
  steps = 3000,
  tenants = 3,
  types = 2,
  ids = 3,
  threads = 2,
  paths = 6,
  most_commits = 12000,
  group_most = 6
};

static const char *const tenant_names[tenants] = {"alpha", "beta", "gamma"};
static const char *const type_names[types] = {"Adder", "Calculator"};
static const char *const id_names[ids] = {"a", "A", "'b"};
static const char *const command_names[] = {"1", "2", "3", "4", "5", "6", "7", "8"};
static const char *const thread_names[threads] = {"reader", "Reader"};
static const char *const owner_names[] = {"worker1", "worker2"};
static const char *const path_names[paths] = {"/a", "/a/1", "/a/2", "/a/2/x", "/a%", "/b"};

typedef struct model_thread {
  int64_t token;
  const char *owner; /* NULL: free */
  tide_bytes cursors;
} model_thread;

typedef struct model_tenant {
  tide_commit *commits;
  size_t count;
  tide_snapshot snapshots[types][ids]; /* state.data NULL: none */
  tide_bytes documents[paths];         /* data NULL: none */
  model_thread threads[threads];
} model_tenant;

typedef struct model {
  contract *c;
  uint64_t random;
  int64_t bodies;
  model_tenant tenants[tenants];
} model;

/* xorshift64*, by S. Vigna */
static uint32_t below(model *m, uint32_t limit) {
  m->random ^= m->random >> 12;
  m->random ^= m->random << 25;
  m->random ^= m->random >> 27;
  return (uint32_t)((m->random * UINT64_C(2685821657736338717)) >> 33) % limit;
}

static bool is_of(const tide_commit *commit, const char *type, const char *id) {
  return type == NULL || (strcmp(commit->type, type) == 0 && strcmp(commit->id, id) == 0);
}

static int64_t next_version(const model_tenant *t, const char *type, const char *id) {
  int64_t next = 0;
  for (size_t i = 0; i < t->count; i++)
    if (is_of(&t->commits[i], type, id)) next += t->commits[i].count;
  return next;
}

static int64_t next_position(const model_tenant *t) {
  return t->count == 0 ? 0 : t->commits[t->count - 1].position + t->commits[t->count - 1].count;
}

static const tide_commit *find_command(const model_tenant *t, const char *type, const char *id,
                                       const char *command_id) {
  for (size_t i = 0; command_id != NULL && i < t->count; i++)
    if (is_of(&t->commits[i], type, id) && t->commits[i].command_id != NULL &&
        strcmp(t->commits[i].command_id, command_id) == 0)
      return &t->commits[i];
  return NULL;
}

/* ---- One operation each ---------------------------------------------------- */

static void step_append(model *m, int tenant) {
  contract *c = m->c;
  model_tenant *t = &m->tenants[tenant];
  tide_commit commits[group_most];
  tide_outcome outcomes[group_most];
  const size_t count = 1 + below(m, group_most);
  int64_t planned[types][ids] = {{0}};
  for (size_t i = 0; i < count; i++) {
    const uint32_t type = below(m, types), id = below(m, ids), luck = below(m, 10);
    int64_t version = next_version(t, type_names[type], id_names[id]) + planned[type][id];
    const int32_t events = 1 + (int32_t)below(m, 4);
    if (luck == 0 && version > 0) version -= 1 + below(m, 2) % (uint32_t)version;
    if (luck == 1) version += 1 + below(m, 3);
    if (luck > 1) planned[type][id] += events;
    commits[i] = contract_commit(c, type_names[type], id_names[id], version, events,
                                 below(m, 8) == 0 ? command_names[below(m, 8)] : NULL);
  }
  OK(c, tide__store_append(c->store, tenant_names[tenant], commits, count, outcomes, &c->error));
  for (size_t i = 0; i < count; i++) {
    tide_commit *commit = &commits[i];
    const tide_commit *first = find_command(t, commit->type, commit->id, commit->command_id);
    if (first != NULL) {
      assert_int_equal(outcomes[i], TIDE_DUPLICATE);
      assert_int_equal(commit->position, first->position);
    } else if (commit->version != next_version(t, commit->type, commit->id)) {
      assert_int_equal(outcomes[i], TIDE_CONFLICT);
    } else {
      assert_int_equal(outcomes[i], TIDE_APPENDED);
      assert_int_equal(commit->position, next_position(t));
      assert_true(t->count == 0 || commit->time >= t->commits[t->count - 1].time);
      assert_true(t->count < most_commits);
      t->commits[t->count++] = *commit;
    }
  }
}

static void check_scan(model *m, int tenant, const tide_query *query) {
  static const tide_commit *expected[most_commits];
  const model_tenant *t = &m->tenants[tenant];
  size_t count = 0;
  for (size_t k = 0; k < t->count; k++) {
    const tide_commit *commit = &t->commits[query->backwards ? t->count - 1 - k : k];
    if (!is_of(commit, query->type, query->id)) continue;
    const int64_t first = query->type != NULL ? commit->version : commit->position;
    if (query->backwards ? first > query->from : first + commit->count <= query->from) continue;
    if (query->limit > 0 && (int64_t)count == query->limit) break;
    expected[count++] = commit;
  }
  contract_scan_gives(m->c, tenant_names[tenant], query, expected, count);
}

static void step_scan(model *m, int tenant) {
  const model_tenant *t = &m->tenants[tenant];
  tide_query query = {.backwards = below(m, 2) == 0, .limit = 1 + below(m, 30)};
  int64_t end = next_position(t);
  if (below(m, 2) == 0) {
    query.type = type_names[below(m, types)];
    query.id = id_names[below(m, ids)];
    end = next_version(t, query.type, query.id);
  }
  query.from = below(m, (uint32_t)end + 3);
  check_scan(m, tenant, &query);
}

static void step_find_command(model *m, int tenant) {
  contract *c = m->c;
  const char *type = type_names[below(m, types)], *id = id_names[below(m, ids)];
  const char *command = command_names[below(m, 8)];
  const tide_commit *expected = find_command(&m->tenants[tenant], type, id, command);
  int64_t position = 99, version = 99;
  OK(c, tide__store_find_command(c->store, tenant_names[tenant], type, id, command, &position,
                                 &version, &c->error));
  assert_int_equal(position, expected == NULL ? -1 : expected->position);
  if (expected != NULL) assert_int_equal(version, expected->version);
}

static void step_put_snapshot(model *m, int tenant) {
  contract *c = m->c;
  const uint32_t type = below(m, types), id = below(m, ids);
  model_tenant *t = &m->tenants[tenant];
  tide_snapshot *kept = &t->snapshots[type][id];
  const int64_t next = next_version(t, type_names[type], id_names[id]);
  tide_snapshot snapshot = {.version = below(m, (uint32_t)next + 2),
                            .state = contract_body(c, m->bodies++)};
  snapshot.code[3] = (uint8_t)(below(m, 10) == 0);
  const int code = tide__store_put_snapshot(c->store, tenant_names[tenant], type_names[type],
                                            id_names[id], &snapshot, &c->error);
  if (snapshot.version >= next) {
    REFUSED(c, TIDE_INVALID_ARGUMENT, "version", code);
  } else {
    OK(c, code);
    if (kept->state.data == NULL || kept->version < snapshot.version ||
        memcmp(kept->code, snapshot.code, TIDE_CODE_SIZE) != 0)
      *kept = snapshot;
  }
}

/* `forgets`: after a reopen a snapshot may be gone. */
static void check_snapshot(model *m, int tenant, uint32_t type, uint32_t id, bool forgets) {
  contract *c = m->c;
  tide_snapshot *expected = &m->tenants[tenant].snapshots[type][id], got;
  OK(c, tide__store_get_snapshot(c->store, tenant_names[tenant], type_names[type], id_names[id],
                                 &got, &c->error));
  if (got.state.data == NULL && forgets) expected->state.data = NULL;
  assert_true((got.state.data == NULL) == (expected->state.data == NULL));
  if (got.state.data != NULL) {
    assert_int_equal(got.version, expected->version);
    assert_memory_equal(got.code, expected->code, TIDE_CODE_SIZE);
    assert_int_equal(got.state.size, expected->state.size);
    assert_memory_equal(got.state.data, expected->state.data, got.state.size);
  }
  tide__bytes_free(&got.state);
}

static size_t random_documents(model *m, tide_document *documents, size_t most) {
  const size_t count = below(m, (uint32_t)most + 1);
  for (size_t i = 0; i < count; i++) {
    documents[i] = (tide_document){.path = path_names[below(m, paths)]};
    if (below(m, 3) > 0) {
      const tide_bytes body = contract_body(m->c, m->bodies++);
      documents[i].body = body.data;
      documents[i].size = body.size;
    }
  }
  return count;
}

static void apply_documents(model_tenant *t, const tide_document *documents, size_t count) {
  for (size_t i = 0; i < count; i++)
    for (int k = 0; k < paths; k++)
      if (strcmp(path_names[k], documents[i].path) == 0)
        t->documents[k] = (tide_bytes){(uint8_t *)(uintptr_t)documents[i].body, documents[i].size};
}

static void step_put_documents(model *m, int tenant) {
  contract *c = m->c;
  tide_document documents[4];
  const size_t count = random_documents(m, documents, COUNT(documents));
  OK(c, tide__store_put_documents(c->store, tenant_names[tenant], documents, count, &c->error));
  apply_documents(&m->tenants[tenant], documents, count);
}

static void check_documents(model *m, int tenant) {
  contract *c = m->c;
  const model_tenant *t = &m->tenants[tenant];
  static const int sorted[paths] = {0, 4, 1, 2, 3, 5}; /* bytewise: % comes before / */
  tide_bytes list;
  size_t count, expected = 0;
  OK(c, tide__store_list_documents(c->store, tenant_names[tenant], "/a", NULL, 100, &list, &count,
                                   &c->error));
  const char *path = (const char *)list.data;
  for (int i = 0; i < paths; i++) {
    const tide_bytes *body = &t->documents[sorted[i]];
    contract_document_is(c, tenant_names[tenant], path_names[sorted[i]],
                         body->data != NULL ? body : NULL);
    if (body->data == NULL || path_names[sorted[i]][1] != 'a') continue;
    assert_true(expected < count);
    assert_string_equal(path, path_names[sorted[i]]);
    path += strlen(path) + 1;
    expected++;
  }
  assert_int_equal(count, expected);
  tide__bytes_free(&list);
}

static void step_lease(model *m, int tenant) {
  contract *c = m->c;
  const uint32_t thread = below(m, threads);
  model_thread *th = &m->tenants[tenant].threads[thread];
  const char *owner = owner_names[below(m, 2)];
  tide_lease lease;
  OK(c, tide__store_lease(c->store, tenant_names[tenant], thread_names[thread], owner, 600000,
                          &lease, &c->error));
  assert_true(lease.held == (th->owner == NULL || strcmp(th->owner, owner) == 0));
  if (lease.held) {
    th->owner = owner;
    if (th->token == 0) th->token = lease.token - 1; /* where it begins is the store's */
    assert_int_equal(lease.token, ++th->token);
    if (th->cursors.data == NULL) {
      assert_int_equal(lease.cursors.size, 5);
    } else {
      assert_int_equal(lease.cursors.size, th->cursors.size);
      assert_memory_equal(lease.cursors.data, th->cursors.data, th->cursors.size);
    }
  }
  tide__bytes_free(&lease.cursors);
}

static void step_commit_cursors(model *m, int tenant) {
  contract *c = m->c;
  model_tenant *t = &m->tenants[tenant];
  const uint32_t thread = below(m, threads);
  model_thread *th = &t->threads[thread];
  const char *owner = th->owner != NULL && below(m, 4) > 0 ? th->owner : owner_names[below(m, 2)];
  const int64_t token = th->token - (below(m, 5) == 0);
  const bool release = below(m, 3) == 0, leaves = below(m, 4) == 0;
  const tide_bytes cursors = contract_body(c, m->bodies++);
  tide_document documents[3];
  const size_t count = random_documents(m, documents, COUNT(documents));
  const int code =
      tide__store_commit_cursors(c->store, tenant_names[tenant], thread_names[thread], owner, token,
                                 leaves ? NULL : &cursors, documents, count, release, &c->error);
  if (th->owner == NULL || strcmp(th->owner, owner) != 0 || th->token != token) {
    REFUSED(c, TIDE_CONCURRENCY, NULL, code);
    return;
  }
  OK(c, code);
  if (!leaves) th->cursors = cursors;
  if (release) th->owner = NULL;
  apply_documents(t, documents, count);
}

/* ---- The whole ------------------------------------------------------------- */

static void check_everything(model *m, bool forgets) {
  for (int tenant = 0; tenant < tenants; tenant++) {
    const tide_query forwards = {0}, backwards = {.backwards = true, .from = INT64_MAX};
    assert_int_equal(contract_verify(m->c, tenant_names[tenant]),
                     next_position(&m->tenants[tenant]));
    check_scan(m, tenant, &forwards);
    check_scan(m, tenant, &backwards);
    check_documents(m, tenant);
    for (uint32_t type = 0; type < types; type++) {
      for (uint32_t id = 0; id < ids; id++) {
        const tide_query query = {.type = type_names[type], .id = id_names[id]};
        check_scan(m, tenant, &query);
        check_snapshot(m, tenant, type, id, forgets);
      }
    }
  }
}

static void step(model *m) {
  const int tenant = (int)below(m, tenants);
  switch (below(m, 12)) {
  case 0:
  case 1:
  case 2:
    step_append(m, tenant);
    break;
  case 3:
  case 4:
    step_scan(m, tenant);
    break;
  case 5:
    step_find_command(m, tenant);
    break;
  case 6:
    step_put_snapshot(m, tenant);
    break;
  case 7:
    check_snapshot(m, tenant, below(m, types), below(m, ids), false);
    break;
  case 8:
    step_put_documents(m, tenant);
    break;
  case 9:
    check_documents(m, tenant);
    break;
  case 10:
    step_lease(m, tenant);
    break;
  default:
    step_commit_cursors(m, tenant);
  }
}

static void test_random_operations_do_what_the_model_does(void **state) {
  const char *seed = getenv("TIDELOG_TEST_SEED");
  model m = {.c = *state, .random = seed != NULL ? strtoull(seed, NULL, 10) : 20261123};
  print_message("seed %llu\n", (unsigned long long)m.random);
  m.random = (m.random + 1) * UINT64_C(0x9E3779B97F4A7C15); /* never 0 for a seed in use */
  for (int i = 0; i < tenants; i++) {
    m.tenants[i].commits = calloc(most_commits, sizeof(tide_commit));
    assert_non_null(m.tenants[i].commits);
  }
  const int count = getenv("TIDELOG_TEST_QUICK") != NULL ? steps / 4 : steps;
  for (int i = 1; i <= count; i++) {
    step(&m);
    if (i % 500 == 0 && m.c->persistent) {
      contract_reopen(m.c);
      check_everything(&m, true);
    }
  }
  check_everything(&m, false);
  contract_reopen(m.c);
  check_everything(&m, true);
  for (int i = 0; i < tenants; i++)
    free(m.tenants[i].commits);
}

static const struct CMUnitTest tests[] = {CASE(test_random_operations_do_what_the_model_does)};
GROUP(model_cases, tests);
