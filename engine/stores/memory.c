/* memory.c - the store "memory:", private to its handle and gone when it is
** closed: for tests, for trying things out, and as the plainest reading of the
** contract in store.h.
**
** A commit is one block of memory that never changes until the store is closed.
** A tenant has its commits in the order of their positions; an aggregate has the
** indexes of its own ones. Whatever can fail is done before anything is changed,
** or is undone, so that a failed call leaves no trace. */
#include "stores/store.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/error.h"
#include "core/hash_map.h"

/* ---- What a tenant holds -------------------------------------------------- */

typedef struct aggregate {
  tide__link link; /* by type, id; first member */
  size_t *commits;
  size_t count, capacity;
  int64_t next; /* version of the next event; 0: it has none yet */
  int64_t snapshot_version;
  uint8_t snapshot_code[TIDE_CODE_SIZE];
  tide_bytes snapshot; /* data NULL: none */
} aggregate;

typedef struct entry {
  tide__link link; /* by type, id, command id where it has one; first member */
  aggregate *aggregate;
  tide_commit commit; /* points into bytes */
  char bytes[];
} entry;

typedef struct thread {
  tide__link link; /* by name; first member */
  int64_t token;
  int64_t until;
  char *owner;        /* NULL: nobody's */
  tide_bytes cursors; /* data NULL: {} */
} thread;

typedef struct document {
  size_t size;
  const uint8_t *body; /* NULL: to be deleted */
  char path[];         /* the body follows its NUL */
} document;

typedef struct tenant {
  char *name;
  tide_head head;
  entry **commits;
  size_t count, capacity;
  tide__map aggregates, commands, threads;
  document **documents; /* sorted by path */
  size_t documents_count, documents_capacity;
} tenant;

typedef struct memory {
  tide_store base; /* first member */
  pid_t pid;
  pthread_mutex_t mutex;
  tenant **tenants; /* sorted by name */
  size_t count, capacity;
} memory;

typedef struct memory_scan {
  tide_scan base; /* first member */
  char *tenant, *type, *id;
  int64_t from;
  int64_t limit; /* commits that may still be read; -1: no limit */
  bool backwards, started, ended;
  size_t index; /* of the next commit, once started */
  tide_commit commit;
  char *bytes; /* what commit points to */
  size_t capacity;
} memory_scan;

static const uint8_t empty_bson[5] = {5, 0, 0, 0, 0};

/* Makes room for `more` elements. 0: no memory, nothing changed. */
static int reserve(void **array, size_t *capacity, size_t count, size_t more, size_t element) {
  if (more > SIZE_MAX / element / 2 || count > SIZE_MAX / element / 2 - more) return 0;
  if (count + more <= *capacity) return 1;
  size_t wanted = *capacity * 2;
  if (wanted < count + more) wanted = count + more;
  if (wanted < 8) wanted = 8;
  void *grown = realloc(*array, wanted * element);
  if (grown == NULL) return 0;
  *array = grown;
  *capacity = wanted;
  return 1;
}

/* realloc through a void ** would alias; each array has its own line here. */
#define RESERVE(array, capacity, count, more, ok)                                                  \
  do {                                                                                             \
    void *reserved_ = (array);                                                                     \
    (ok) = reserve(&reserved_, &(capacity), (count), (more), sizeof *(array));                     \
    (array) = reserved_;                                                                           \
  } while (0)

static int copy_bytes(tide_bytes *to, const uint8_t *data, size_t size) {
  uint8_t *copy = malloc(size == 0 ? 1 : size);
  if (copy == NULL) return 0;
  if (size > 0) memcpy(copy, data, size);
  to->data = copy;
  to->size = size;
  return 1;
}

static void free_aggregate(tide__link *link) {
  aggregate *a = (aggregate *)link;
  free(a->commits);
  tide__bytes_free(&a->snapshot);
  free(a);
}

static void free_thread(tide__link *link) {
  thread *t = (thread *)link;
  free(t->owner);
  tide__bytes_free(&t->cursors);
  free(t);
}

static void free_tenant(tenant *t) {
  if (t == NULL) return;
  for (size_t i = 0; i < t->count; i++) {
    free(t->commits[i]);
  }
  free(t->commits);
  tide__map_free(&t->commands, NULL);
  tide__map_free(&t->aggregates, free_aggregate);
  tide__map_free(&t->threads, free_thread);
  for (size_t i = 0; i < t->documents_count; i++) {
    free(t->documents[i]);
  }
  free(t->documents);
  free(t->name);
  free(t);
}

/* ---- The lock, and tenants ------------------------------------------------ */

static int lock(memory *m, tide_error *error) {
  if (getpid() != m->pid) {
    return tide__fail_store(error, 0, "the store was opened before a fork(): open another one");
  }
  pthread_mutex_lock(&m->mutex);
  return TIDE_OK;
}

static void unlock(memory *m) {
  pthread_mutex_unlock(&m->mutex);
}

/* The index of the first tenant that is not before `name`. */
static size_t tenant_index(const memory *m, const char *name) {
  size_t low = 0, high = m->count;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (strcmp(m->tenants[middle]->name, name) < 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

static tenant *find_tenant(const memory *m, const char *name) {
  const size_t i = tenant_index(m, name);
  return i < m->count && strcmp(m->tenants[i]->name, name) == 0 ? m->tenants[i] : NULL;
}

/* The tenant, or a new one that nobody sees before end_write. NULL: no memory. */
static tenant *begin_write(memory *m, const char *name) {
  tenant *t = find_tenant(m, name);
  if (t != NULL) return t;
  int ok;
  RESERVE(m->tenants, m->capacity, m->count, 1, ok);
  if (!ok) return NULL;
  t = calloc(1, sizeof *t);
  if (t == NULL) return NULL;
  t->name = strdup(name);
  if (t->name == NULL) {
    free(t);
    return NULL;
  }
  return t;
}

/* Ends what begin_write began; `written`: something is in it now. */
static void end_write(memory *m, tenant *t, bool written) {
  const size_t i = tenant_index(m, t->name);
  if (i < m->count && m->tenants[i] == t) return;
  if (!written) {
    free_tenant(t);
    return;
  }
  memmove(&m->tenants[i + 1], &m->tenants[i], (m->count - i) * sizeof *m->tenants);
  m->tenants[i] = t;
  m->count++;
}

static aggregate *find_aggregate(const tenant *t, const char *type, const char *id) {
  return (aggregate *)tide__map_find(&t->aggregates, type, id, "");
}

/* Finds it or makes an empty one, which is the same as none. NULL: no memory. */
static aggregate *make_aggregate(tenant *t, const char *type, const char *id) {
  aggregate *a = find_aggregate(t, type, id);
  if (a != NULL) return a;
  const size_t type_size = strlen(type) + 1, id_size = strlen(id) + 1;
  a = calloc(1, sizeof *a + type_size + id_size);
  if (a == NULL) return NULL;
  char *text = (char *)(a + 1);
  a->link.key[0] = memcpy(text, type, type_size);
  a->link.key[1] = memcpy(text + type_size, id, id_size);
  a->link.key[2] = "";
  if (!tide__map_add(&t->aggregates, &a->link)) {
    free(a);
    return NULL;
  }
  return a;
}

/* ---- The log -------------------------------------------------------------- */

static size_t commit_bytes(const tide_commit *c) {
  return strlen(c->type) + 1 + strlen(c->id) + 1 +
         (c->command_id != NULL ? strlen(c->command_id) + 1 : 0) + c->body_size;
}

/* Copies a commit, with what it points to in `bytes`. */
static void copy_commit(tide_commit *to, char *bytes, const tide_commit *from) {
  *to = *from;
  const char **const strings[3] = {&to->type, &to->id, &to->command_id};
  for (int i = 0; i < 3; i++) {
    if (*strings[i] == NULL) continue;
    const size_t size = strlen(*strings[i]) + 1;
    *strings[i] = memcpy(bytes, *strings[i], size);
    bytes += size;
  }
  memcpy(bytes, from->body, from->body_size);
  to->body = (const uint8_t *)bytes;
}

/* Makes the commit the one that follows the head: an imported one is that already. */
static int place(tide_commit *commit, tide_head *head, bool imported, int64_t now,
                 tide_error *error) {
  if (!imported) return tide__commit_seal(commit, head, now, error);
  return tide__commit_verify_torn(commit, head, error); /* its hash was checked before */
}

/* Appends one commit to a tenant that the caller has locked. */
static int append_one(tenant *t, const tide_commit *commit, bool imported, int64_t now,
                      tide_error *error) {
  aggregate *a = make_aggregate(t, commit->type, commit->id);
  if (a == NULL) return tide__fail_memory(error);
  int ok;
  RESERVE(a->commits, a->capacity, a->count, 1, ok);
  if (ok) RESERVE(t->commits, t->capacity, t->count, 1, ok);
  if (!ok) return tide__fail_memory(error);
  entry *e = malloc(sizeof *e + commit_bytes(commit));
  if (e == NULL) return tide__fail_memory(error);
  copy_commit(&e->commit, e->bytes, commit);
  e->aggregate = a;
  if (commit->command_id != NULL) {
    e->link.key[0] = e->commit.type;
    e->link.key[1] = e->commit.id;
    e->link.key[2] = e->commit.command_id;
    if (!tide__map_add(&t->commands, &e->link)) {
      free(e);
      return tide__fail_memory(error);
    }
  }
  const int code = place(&e->commit, &t->head, imported, now, error);
  if (code != TIDE_OK) {
    if (commit->command_id != NULL) tide__map_remove(&t->commands, &e->link);
    free(e);
    return code;
  }
  a->commits[a->count++] = t->count;
  a->next += commit->count;
  t->commits[t->count++] = e;
  return TIDE_OK;
}

/* Takes back the commits from index `count` on. */
static void undo_appends(tenant *t, size_t count, const tide_head *head) {
  while (t->count > count) {
    entry *e = t->commits[--t->count];
    e->aggregate->count--;
    e->aggregate->next -= e->commit.count;
    if (e->commit.command_id != NULL) tide__map_remove(&t->commands, &e->link);
    free(e);
  }
  t->head = *head;
}

static int memory_append(tide_store *store, const char *tenant_name, tide_commit *commits,
                         size_t count, tide_outcome *outcomes, tide_error *error) {
  memory *m = (memory *)store;
  for (size_t i = 0; i < count; i++) {
    const int code = tide__commit_check(&commits[i], error);
    if (code != TIDE_OK) return code;
  }
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  tenant *t = begin_write(m, tenant_name);
  if (t == NULL) {
    unlock(m);
    return tide__fail_memory(error);
  }
  const size_t before = t->count;
  const tide_head head = t->head;
  const int64_t now = tide__now();
  for (size_t i = 0; i < count && code == TIDE_OK; i++) {
    const tide_commit *c = &commits[i];
    const aggregate *a = find_aggregate(t, c->type, c->id);
    if (c->command_id != NULL &&
        tide__map_find(&t->commands, c->type, c->id, c->command_id) != NULL) {
      outcomes[i] = TIDE_DUPLICATE;
    } else if (c->version != (a != NULL ? a->next : 0)) {
      outcomes[i] = TIDE_CONFLICT;
    } else {
      outcomes[i] = TIDE_APPENDED;
      code = append_one(t, c, false, now, error);
    }
  }
  if (code != TIDE_OK) {
    undo_appends(t, before, &head);
  } else {
    size_t next = before;
    for (size_t i = 0; i < count; i++) {
      tide_commit *c = &commits[i];
      if (outcomes[i] == TIDE_APPENDED && t->commits != NULL) {
        const tide_commit *appended = &t->commits[next++]->commit;
        c->position = appended->position;
        c->time = appended->time;
        memcpy(c->hash, appended->hash, TIDE_HASH_SIZE);
      } else if (outcomes[i] == TIDE_DUPLICATE) {
        const entry *first = (entry *)tide__map_find(&t->commands, c->type, c->id, c->command_id);
        c->position = first->commit.position;
      }
    }
  }
  end_write(m, t, t->count > before);
  unlock(m);
  return code;
}

static int import_one(tenant *t, const tide_commit *c, tide_error *error) {
  const aggregate *a = find_aggregate(t, c->type, c->id);
  const int64_t next = a != NULL ? a->next : 0;
  if (c->version != next || (c->command_id != NULL &&
                             tide__map_find(&t->commands, c->type, c->id, c->command_id) != NULL)) {
    return tide__fail_import(c, next, error);
  }
  return append_one(t, c, true, 0, error);
}

static int memory_import(tide_store *store, const char *tenant_name, const tide_commit *commits,
                         size_t count, tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  tenant *t = begin_write(m, tenant_name);
  if (t == NULL) {
    unlock(m);
    return tide__fail_memory(error);
  }
  const size_t before = t->count;
  const tide_head head = t->head;
  const bool torn = before > 0 && tide__commit_is_tombstone(&t->commits[before - 1]->commit);
  code = tide__import_follows(&commits[0], &head, torn, error);
  for (size_t i = 0; i < count && code == TIDE_OK; i++) {
    code = import_one(t, &commits[i], error);
  }
  if (code != TIDE_OK) undo_appends(t, before, &head);
  end_write(m, t, t->count > before);
  unlock(m);
  return code;
}

static void memory_scan_close(tide_scan *base) {
  memory_scan *s = (memory_scan *)base;
  if (s == NULL) return;
  free(s->tenant);
  free(s->type);
  free(s->id);
  free(s->bytes);
  free(s);
}

static int memory_scan_open(tide_store *store, const char *tenant_name, const tide_query *query,
                            tide_scan **scan, tide_error *error) {
  memory *m = (memory *)store;
  *scan = NULL;
  const int code = lock(m, error);
  if (code != TIDE_OK) return code;
  unlock(m);
  memory_scan *s = calloc(1, sizeof *s);
  if (s == NULL) return tide__fail_memory(error);
  s->base.store = store;
  s->from = query->from;
  s->limit = query->limit > 0 ? query->limit : -1;
  s->backwards = query->backwards;
  s->tenant = strdup(tenant_name);
  if (s->tenant == NULL) goto fail;
  if (query->type != NULL) {
    s->type = strdup(query->type);
    s->id = strdup(query->id);
    if (s->type == NULL || s->id == NULL) goto fail;
  }
  *scan = &s->base;
  return TIDE_OK;
fail:
  memory_scan_close(&s->base);
  return tide__fail_memory(error);
}

/* The i-th commit of what is scanned. */
static const tide_commit *scanned(const tenant *t, const aggregate *a, size_t i) {
  return &t->commits[a != NULL ? a->commits[i] : i]->commit;
}

/* How many of the commits begin at or before `from`. */
static size_t scanned_until(const tenant *t, const aggregate *a, size_t count, int64_t from) {
  size_t low = 0, high = count;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    const tide_commit *c = scanned(t, a, middle);
    if ((a != NULL ? c->version : c->position) <= from) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/* Finds the scan's next commit. NULL: there is none (yet). */
static const tide_commit *scan_find(const memory *m, memory_scan *s) {
  const tenant *t = find_tenant(m, s->tenant);
  const aggregate *a = t != NULL && s->type != NULL ? find_aggregate(t, s->type, s->id) : NULL;
  const size_t count = t == NULL ? 0 : s->type == NULL ? t->count : a != NULL ? a->count : 0;
  if (!s->started && count > 0) {
    /* The commit that holds `from` is the last one that begins at or before it; from
    ** behind the end, the forward scan waits for the commit that will hold it. */
    const size_t until = scanned_until(t, a, count, s->from);
    const int64_t end = a != NULL ? a->next : t->head.position;
    if (s->backwards) {
      s->index = until; /* one more than the next one's index */
    } else {
      if (s->from >= end) return NULL;
      s->index = until > 0 ? until - 1 : 0;
    }
    s->started = true;
  }
  if (s->backwards) {
    if (!s->started || s->index == 0) {
      s->ended = true;
      return NULL;
    }
    return scanned(t, a, s->index - 1);
  }
  return s->started && s->index < count ? scanned(t, a, s->index) : NULL;
}

static int memory_scan_next(tide_scan *base, const tide_commit **commit, tide_error *error) {
  memory_scan *s = (memory_scan *)base;
  memory *m = (memory *)base->store;
  *commit = NULL;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  const tide_commit *found = s->ended || s->limit == 0 ? NULL : scan_find(m, s);
  if (found != NULL) {
    const size_t size = commit_bytes(found);
    int ok;
    RESERVE(s->bytes, s->capacity, 0, size, ok);
    if (!ok) {
      code = tide__fail_memory(error);
    } else {
      copy_commit(&s->commit, s->bytes, found);
      *commit = &s->commit;
      if (s->backwards) {
        s->index--;
      } else {
        s->index++;
      }
      if (s->limit > 0) s->limit--;
    }
  }
  unlock(m);
  return code;
}

static int memory_head(tide_store *store, const char *tenant_name, tide_head *head,
                       tide_error *error) {
  memory *m = (memory *)store;
  const int code = lock(m, error);
  if (code != TIDE_OK) return code;
  const tenant *t = find_tenant(m, tenant_name);
  if (t != NULL) {
    *head = t->head;
  } else {
    memset(head, 0, sizeof *head);
  }
  unlock(m);
  return TIDE_OK;
}

static int memory_find_command(tide_store *store, const char *tenant_name, const char *type,
                               const char *id, const char *command_id, int64_t *position,
                               int64_t *version, tide_error *error) {
  memory *m = (memory *)store;
  const int code = lock(m, error);
  if (code != TIDE_OK) return code;
  const tenant *t = find_tenant(m, tenant_name);
  const entry *e = t != NULL ? (entry *)tide__map_find(&t->commands, type, id, command_id) : NULL;
  *position = e != NULL ? e->commit.position : -1;
  *version = e != NULL ? e->commit.version : -1;
  unlock(m);
  return TIDE_OK;
}

/* ---- Snapshots ------------------------------------------------------------ */

static int memory_get_snapshot(tide_store *store, const char *tenant_name, const char *type,
                               const char *id, tide_snapshot *snapshot, tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  const tenant *t = find_tenant(m, tenant_name);
  const aggregate *a = t != NULL ? find_aggregate(t, type, id) : NULL;
  tide_snapshot found = {0};
  if (a != NULL && a->snapshot.data != NULL) {
    found.version = a->snapshot_version;
    memcpy(found.code, a->snapshot_code, TIDE_CODE_SIZE);
    if (!copy_bytes(&found.state, a->snapshot.data, a->snapshot.size)) {
      code = tide__fail_memory(error);
    }
  }
  if (code == TIDE_OK) *snapshot = found;
  unlock(m);
  return code;
}

static int memory_put_snapshot(tide_store *store, const char *tenant_name, const char *type,
                               const char *id, const tide_snapshot *snapshot, tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  const tenant *t = find_tenant(m, tenant_name);
  aggregate *a = t != NULL ? find_aggregate(t, type, id) : NULL;
  const int64_t next = a != NULL ? a->next : 0;
  if (snapshot->version < 0 || snapshot->version >= next) {
    code = tide__fail(error, TIDE_INVALID_ARGUMENT, "version",
                      "a snapshot of version %lld, but the aggregate has %lld events",
                      (long long)snapshot->version, (long long)next);
  } else if (a->snapshot.data == NULL || a->snapshot_version < snapshot->version ||
             memcmp(a->snapshot_code, snapshot->code, TIDE_CODE_SIZE) != 0) {
    tide_bytes state;
    if (copy_bytes(&state, snapshot->state.data, snapshot->state.size)) {
      tide__bytes_free(&a->snapshot);
      a->snapshot = state;
      a->snapshot_version = snapshot->version;
      memcpy(a->snapshot_code, snapshot->code, TIDE_CODE_SIZE);
    } else {
      code = tide__fail_memory(error);
    }
  }
  unlock(m);
  return code;
}

/* ---- Documents ------------------------------------------------------------ */

/* The index of the first document whose path is not before `path`. */
static size_t document_index(const tenant *t, const char *path) {
  size_t low = 0, high = t->documents_count;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (strcmp(t->documents[middle]->path, path) < 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

static void free_documents(document **copies, size_t count) {
  if (copies == NULL) return;
  for (size_t i = 0; i < count; i++) {
    free(copies[i]);
  }
  free(copies);
}

/* Copies the documents and makes room for them. NULL: no memory (or none to copy). */
static document **prepare_documents(tenant *t, const tide_document *documents, size_t count) {
  int ok;
  RESERVE(t->documents, t->documents_capacity, t->documents_count, count, ok);
  if (!ok) return NULL;
  document **copies = calloc(count, sizeof *copies);
  if (copies == NULL) return NULL;
  for (size_t i = 0; i < count; i++) {
    const size_t path_size = strlen(documents[i].path) + 1;
    const size_t body_size = documents[i].body != NULL ? documents[i].size : 0;
    document *d = malloc(sizeof *d + path_size + body_size);
    if (d == NULL) {
      free_documents(copies, i);
      return NULL;
    }
    memcpy(d->path, documents[i].path, path_size);
    d->size = body_size;
    d->body = NULL;
    if (documents[i].body != NULL) {
      d->body = memcpy(d->path + path_size, documents[i].body, body_size);
    }
    copies[i] = d;
  }
  return copies;
}

/* Puts the prepared documents in place and frees the array. Cannot fail. */
static void apply_documents(tenant *t, document **copies, size_t count) {
  for (size_t i = 0; i < count; i++) {
    document *d = copies[i];
    const size_t at = document_index(t, d->path);
    document **place = &t->documents[at];
    const size_t behind = t->documents_count - at;
    const bool there = behind > 0 && strcmp((*place)->path, d->path) == 0;
    if (there) free(*place);
    if (d->body != NULL) {
      if (!there) {
        memmove(place + 1, place, behind * sizeof *place);
        t->documents_count++;
      }
      *place = d;
    } else {
      if (there) {
        memmove(place, place + 1, (behind - 1) * sizeof *place);
        t->documents_count--;
      }
      free(d);
    }
  }
  free(copies);
}

static int memory_put_documents(tide_store *store, const char *tenant_name,
                                const tide_document *documents, size_t count, tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  bool any = false; /* deleting makes no tenant */
  for (size_t i = 0; i < count; i++) {
    any = any || documents[i].body != NULL;
  }
  if (any || find_tenant(m, tenant_name) != NULL) {
    tenant *t = begin_write(m, tenant_name);
    document **copies = t != NULL ? prepare_documents(t, documents, count) : NULL;
    if (copies != NULL) {
      apply_documents(t, copies, count);
    } else {
      code = tide__fail_memory(error);
    }
    if (t != NULL) end_write(m, t, code == TIDE_OK);
  }
  unlock(m);
  return code;
}

static int memory_get_document(tide_store *store, const char *tenant_name, const char *path,
                               const char *writer, tide_bytes *body, int64_t *reflects,
                               tide_error *error) {
  (void)writer; /* documents are committed with the cursors */
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  const tenant *t = find_tenant(m, tenant_name);
  const size_t i = t != NULL ? document_index(t, path) : 0;
  tide_bytes found = {0};
  if (t != NULL && i < t->documents_count && strcmp(t->documents[i]->path, path) == 0 &&
      !copy_bytes(&found, t->documents[i]->body, t->documents[i]->size)) {
    code = tide__fail_memory(error);
  }
  if (code == TIDE_OK) {
    *body = found;
    *reflects = 0;
  }
  unlock(m);
  return code;
}

static int memory_list_documents(tide_store *store, const char *tenant_name, const char *prefix,
                                 const char *after, size_t limit, tide_bytes *paths, size_t *count,
                                 tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  const tenant *t = find_tenant(m, tenant_name);
  const size_t prefix_size = strlen(prefix);
  size_t first = 0, end = 0, size = 0;
  if (t != NULL) {
    first = document_index(t, prefix);
    if (after != NULL && strcmp(after, prefix) >= 0) {
      first = document_index(t, after);
      if (first < t->documents_count && strcmp(t->documents[first]->path, after) == 0) first++;
    }
    for (end = first; end < t->documents_count && end - first < limit &&
                      strncmp(t->documents[end]->path, prefix, prefix_size) == 0;
         end++) {
      size += strlen(t->documents[end]->path) + 1;
    }
  }
  tide_bytes list = {0};
  if (size > 0) {
    list.data = malloc(size);
    if (list.data == NULL) code = tide__fail_memory(error);
  }
  if (code == TIDE_OK) {
    for (size_t i = first; i < end && list.data != NULL; i++) {
      const size_t path_size = strlen(t->documents[i]->path) + 1;
      memcpy(list.data + list.size, t->documents[i]->path, path_size);
      list.size += path_size;
    }
    *paths = list;
    *count = end - first;
  }
  unlock(m);
  return code;
}

/* ---- Leases and cursors --------------------------------------------------- */

/* Finds the thread or makes one that is nobody's. NULL: no memory. */
static thread *make_thread(tenant *t, const char *name) {
  thread *th = (thread *)tide__map_find(&t->threads, name, "", "");
  if (th != NULL) return th;
  const size_t size = strlen(name) + 1;
  th = calloc(1, sizeof *th + size);
  if (th == NULL) return NULL;
  th->link.key[0] = memcpy(th + 1, name, size);
  th->link.key[1] = th->link.key[2] = "";
  if (!tide__map_add(&t->threads, &th->link)) {
    free(th);
    return NULL;
  }
  return th;
}

static int memory_lease(tide_store *store, const char *tenant_name, const char *thread_name,
                        const char *owner, int64_t duration, tide_lease *lease, tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  tenant *t = begin_write(m, tenant_name);
  thread *th = t != NULL ? make_thread(t, thread_name) : NULL;
  tide_lease taken = {0};
  const int64_t now = tide__now();
  if (th == NULL) {
    code = tide__fail_memory(error);
  } else if (tide__lease_of_another(th->owner, th->until, owner, now)) {
    taken.token = th->token;
    taken.until = th->until;
    *lease = taken;
  } else {
    char *copy = strdup(owner);
    if (copy == NULL ||
        !(th->cursors.data != NULL ? copy_bytes(&taken.cursors, th->cursors.data, th->cursors.size)
                                   : copy_bytes(&taken.cursors, empty_bson, sizeof empty_bson))) {
      free(copy);
      code = tide__fail_memory(error);
    } else {
      free(th->owner);
      th->owner = copy;
      th->until = now + duration;
      taken.token = ++th->token;
      taken.until = th->until;
      taken.held = true;
      *lease = taken;
    }
  }
  if (t != NULL) end_write(m, t, code == TIDE_OK);
  unlock(m);
  return code;
}

static int memory_commit_cursors(tide_store *store, const char *tenant_name,
                                 const char *thread_name, const char *owner, int64_t token,
                                 const tide_bytes *cursors, const tide_document *documents,
                                 size_t count, bool release, tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  tenant *t = find_tenant(m, tenant_name);
  thread *th = t != NULL ? (thread *)tide__map_find(&t->threads, thread_name, "", "") : NULL;
  tide_bytes copied = {0};
  document **copies = NULL;
  if (th == NULL || th->owner == NULL || th->token != token || strcmp(th->owner, owner) != 0 ||
      th->until <= tide__now()) {
    code = tide__fail_lease(thread_name, token, th != NULL ? th->token : 0, error);
  } else if ((cursors != NULL && !copy_bytes(&copied, cursors->data, cursors->size)) ||
             (count > 0 && (copies = prepare_documents(t, documents, count)) == NULL)) {
    tide__bytes_free(&copied);
    code = tide__fail_memory(error);
  } else {
    if (cursors != NULL) {
      tide__bytes_free(&th->cursors);
      th->cursors = copied;
    }
    if (count > 0) apply_documents(t, copies, count);
    if (release) {
      free(th->owner);
      th->owner = NULL;
      th->until = 0;
    }
  }
  unlock(m);
  return code;
}

static int compare_texts(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Copies the texts, each ended by a NUL, one after the other. */
static int join_texts(const char *const *texts, size_t count, tide_bytes *joined,
                      tide_error *error) {
  tide_bytes list = {0};
  size_t size = 0;
  for (size_t i = 0; i < count; i++) {
    size += strlen(texts[i]) + 1;
  }
  if (size > 0) {
    list.data = malloc(size);
    if (list.data == NULL) return tide__fail_memory(error);
  }
  for (size_t i = 0; i < count && list.data != NULL; i++) {
    const size_t text_size = strlen(texts[i]) + 1;
    memcpy(list.data + list.size, texts[i], text_size);
    list.size += text_size;
  }
  *joined = list;
  return TIDE_OK;
}

/* The names of the threads behind `after`, sorted. NULL: no memory (or there are none). */
static const char **sorted_threads(const tenant *t, const char *after, size_t *count) {
  *count = 0;
  const char **names = calloc(t->threads.count, sizeof *names);
  if (names == NULL) return NULL;
  for (size_t i = 0; i < t->threads.size; i++) {
    for (const tide__link *l = t->threads.buckets[i]; l != NULL; l = l->next) {
      const thread *th = (const thread *)l;
      const bool any = th->token > 0 || th->cursors.data != NULL; /* else it is as none */
      if (any && strcmp(l->key[0], after) > 0) names[(*count)++] = l->key[0];
    }
  }
  qsort(names, *count, sizeof *names, compare_texts);
  return names;
}

static int memory_list_threads(tide_store *store, const char *tenant_name, const char *after,
                               size_t limit, tide_bytes *names, size_t *count, tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  const tenant *t = find_tenant(m, tenant_name);
  const char **sorted = NULL;
  size_t found = 0;
  if (t != NULL && t->threads.count > 0) {
    sorted = sorted_threads(t, after, &found);
    if (sorted == NULL) code = tide__fail_memory(error);
  }
  if (found > limit) found = limit;
  if (code == TIDE_OK) code = join_texts(sorted, found, names, error);
  if (code == TIDE_OK) *count = found;
  free(sorted);
  unlock(m);
  return code;
}

static int memory_get_thread(tide_store *store, const char *tenant_name, const char *name,
                             tide_thread *found, tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  const tenant *t = find_tenant(m, tenant_name);
  const thread *th = t != NULL ? (thread *)tide__map_find(&t->threads, name, "", "") : NULL;
  const bool any = th != NULL && th->cursors.data != NULL;
  memset(found, 0, sizeof *found);
  if (!copy_bytes(&found->cursors, any ? th->cursors.data : empty_bson,
                  any ? th->cursors.size : sizeof empty_bson)) {
    code = tide__fail_memory(error);
  } else if (th != NULL) {
    found->token = th->token;
    if (tide__lease_of_another(th->owner, th->until, "", tide__now())) {
      found->until = th->until;
      memcpy(found->owner, th->owner, strlen(th->owner) + 1); /* at most TIDE_NAME_MAX */
    }
  }
  unlock(m);
  return code;
}

static int memory_put_thread(tide_store *store, const char *tenant_name, const char *name,
                             int64_t token, const tide_bytes *cursors, tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  tenant *t = begin_write(m, tenant_name);
  thread *th = t != NULL ? make_thread(t, name) : NULL;
  tide_bytes copied = {0};
  if (th == NULL || !copy_bytes(&copied, cursors->data, cursors->size)) {
    code = tide__fail_memory(error);
  } else if (tide__lease_of_another(th->owner, th->until, "", tide__now())) {
    code = tide__fail_held(name, th->owner, th->until, error);
    tide__bytes_free(&copied);
  } else {
    tide__bytes_free(&th->cursors);
    th->cursors = copied;
    if (th->token < token) th->token = token;
    free(th->owner);
    th->owner = NULL;
    th->until = 0;
  }
  if (t != NULL) end_write(m, t, code == TIDE_OK);
  unlock(m);
  return code;
}

/* ---- The store ------------------------------------------------------------ */

static int memory_tenants(tide_store *store, tide_bytes *names, size_t *count, tide_error *error) {
  memory *m = (memory *)store;
  int code = lock(m, error);
  if (code != TIDE_OK) return code;
  tide_bytes list = {0};
  size_t size = 0;
  for (size_t i = 0; i < m->count; i++) {
    size += strlen(m->tenants[i]->name) + 1;
  }
  if (size > 0) {
    list.data = malloc(size);
    if (list.data == NULL) code = tide__fail_memory(error);
  }
  if (code == TIDE_OK) {
    for (size_t i = 0; i < m->count && list.data != NULL; i++) {
      const size_t name_size = strlen(m->tenants[i]->name) + 1;
      memcpy(list.data + list.size, m->tenants[i]->name, name_size);
      list.size += name_size;
    }
    *names = list;
    *count = m->count;
  }
  unlock(m);
  return code;
}

static int memory_describe(tide_store *store, const char *tenant_name, tide_bytes *bson,
                           tide_error *error) {
  (void)tenant_name;
  static const char *const pairs[][2] = {
      {"store", "memory"},           {"place", "this process"}, {"server", "Tidelog " TIDE_VERSION},
      {"documents", "with cursors"}, {"news", "polling"},
  };
  memory *m = (memory *)store;
  const int code = lock(m, error);
  if (code != TIDE_OK) return code;
  unlock(m);
  return tide__describe(pairs, sizeof pairs / sizeof pairs[0], bson, error);
}

static int memory_check(tide_store *store, const char *tenant_name, tide_error *error) {
  (void)tenant_name; /* there is no database that could be broken */
  memory *m = (memory *)store;
  const int code = lock(m, error);
  if (code == TIDE_OK) unlock(m);
  return code;
}

static void memory_close(tide_store *store) {
  memory *m = (memory *)store;
  if (getpid() == m->pid) {
    for (size_t i = 0; i < m->count; i++) {
      free_tenant(m->tenants[i]);
    }
    free(m->tenants);
    pthread_mutex_destroy(&m->mutex);
  } /* else: another thread of the parent may have been at work here when it forked */
  free(m);
}

static const tide_store_ops memory_ops = {
    .scheme = "memory",
    .close = memory_close,
    .append = memory_append,
    .scan = memory_scan_open,
    .scan_next = memory_scan_next,
    .scan_close = memory_scan_close,
    .head = memory_head,
    .wait = tide__wait_by_polling,
    .import = memory_import,
    .find_command = memory_find_command,
    .get_snapshot = memory_get_snapshot,
    .put_snapshot = memory_put_snapshot,
    .lease = memory_lease,
    .commit_cursors = memory_commit_cursors,
    .list_threads = memory_list_threads,
    .get_thread = memory_get_thread,
    .put_thread = memory_put_thread,
    .put_documents = memory_put_documents,
    .get_document = memory_get_document,
    .list_documents = memory_list_documents,
    .tenants = memory_tenants,
    .check = memory_check,
    .describe = memory_describe,
};

int tide__memory_open(const tide_store_options *options, tide_store **store, tide_error *error) {
  (void)options; /* nothing to wait for, nothing to keep open */
  *store = NULL;
  memory *m = calloc(1, sizeof *m);
  if (m == NULL) return tide__fail_memory(error);
  m->base.ops = &memory_ops;
  m->pid = getpid();
  if (pthread_mutex_init(&m->mutex, NULL) != 0) {
    free(m);
    return tide__fail_memory(error);
  }
  *store = &m->base;
  return TIDE_OK;
}
