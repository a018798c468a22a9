/* sqlite.c - the SQLite store: a folder with one file per tenant, and the connections
** that are open to them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/names.h"
#include "stores/sqlite_tenant.h"

#define BUCKETS 256
#define ENDING  ".db"

/* A tenant that is open or in use. Those that are neither are forgotten. */
struct tide__tenant {
  tide__tenant *next_in_bucket;
  tide__tenant *newer, *older; /* by last use */
  size_t users;                /* threads that hold it or wait for it */
  bool counted;                /* in the store's `open` */
  pthread_mutex_t lock;        /* for db */
  tide__db *db;
  char name[TIDE_TENANT_MAX + 1];
};

/* The first member of a store's entry in SQLite's list of VFSs; see forget_parents. */
#define MARK "tidelog-store-"

typedef struct sqlite_store sqlite_store;

typedef struct store_mark {
  sqlite3_vfs vfs;
  sqlite_store *store;
  char name[sizeof MARK + 2 * sizeof(void *) + 2];
} store_mark;

struct sqlite_store {
  tide_store base;
  pid_t owner;
  const tide__schema *schema;
  int busy_timeout;
  size_t max_open;
  pthread_mutex_t lock; /* for what follows; never taken by who waits for a tenant's */
  size_t open;
  tide__tenant *newest, *oldest;
  tide__tenant *buckets[BUCKETS];
  store_mark mark;
  char folder[]; /* absolute, so that chdir() does not move the store */
};

int tide__sqlite_own(const tide_store *base, tide_error *error) {
  const sqlite_store *store = (const sqlite_store *)base;
  if (store->owner == getpid()) return TIDE_OK;
  return tide__fail_store(error, 0,
                          "the store was opened by another process: open it again after fork");
}

/* ---- The table of tenants: under the store's lock --------------------------- */

static tide__tenant **bucket_of(sqlite_store *store, const char *name) {
  uint32_t hash = 2166136261u; /* FNV-1a */
  for (; *name != '\0'; name++)
    hash = (hash ^ (uint8_t)*name) * 16777619u;
  return &store->buckets[hash % BUCKETS];
}

static tide__tenant *find(sqlite_store *store, const char *name) {
  tide__tenant *tenant = *bucket_of(store, name);
  while (tenant != NULL && strcmp(tenant->name, name) != 0)
    tenant = tenant->next_in_bucket;
  return tenant;
}

static void unlink_use(sqlite_store *store, tide__tenant *tenant) {
  *(tenant->newer != NULL ? &tenant->newer->older : &store->newest) = tenant->older;
  *(tenant->older != NULL ? &tenant->older->newer : &store->oldest) = tenant->newer;
}

static void link_newest(sqlite_store *store, tide__tenant *tenant) {
  tenant->newer = NULL;
  tenant->older = store->newest;
  *(store->newest != NULL ? &store->newest->newer : &store->oldest) = tenant;
  store->newest = tenant;
}

static tide__tenant *add(sqlite_store *store, const char *name) {
  tide__tenant *tenant = calloc(1, sizeof *tenant);
  if (tenant == NULL) return NULL;
  if (pthread_mutex_init(&tenant->lock, NULL) != 0) {
    free(tenant);
    return NULL;
  }
  (void)snprintf(tenant->name, sizeof tenant->name, "%s", name);
  tide__tenant **bucket = bucket_of(store, name);
  tenant->next_in_bucket = *bucket;
  *bucket = tenant;
  link_newest(store, tenant);
  return tenant;
}

/* Takes it out of the table; who calls this closes it when the lock is given up. */
static void take_out(sqlite_store *store, tide__tenant *tenant) {
  tide__tenant **link = bucket_of(store, tenant->name);
  while (*link != tenant)
    link = &(*link)->next_in_bucket;
  *link = tenant->next_in_bucket;
  unlink_use(store, tenant);
  if (tenant->counted) store->open--;
}

static void close_tenant(tide__tenant *tenant) {
  if (tenant == NULL) return;
  tide__db_close(tenant->db);
  (void)pthread_mutex_destroy(&tenant->lock); /* nobody holds it */
  free(tenant);
}

/* The one that was not used for longest, if there are too many; out of the table. */
static tide__tenant *superfluous(sqlite_store *store) {
  if (store->open <= store->max_open) return NULL;
  tide__tenant *tenant = store->oldest;
  while (tenant != NULL && (tenant->users > 0 || !tenant->counted))
    tenant = tenant->newer;
  if (tenant != NULL) take_out(store, tenant);
  return tenant;
}

/* ---- Taking and giving a tenant --------------------------------------------- */

/* "FOLDER/TENANT.db", to be freed. */
static char *path_of(const sqlite_store *store, const char *name) {
  size_t size = strlen(store->folder) + 1 + strlen(name) + sizeof ENDING;
  char *path = malloc(size);
  if (path != NULL) (void)snprintf(path, size, "%s/%s" ENDING, store->folder, name);
  return path;
}

/* Where a file is not found: is there still a folder? */
static int check_folder(const sqlite_store *store, tide_error *error) {
  struct stat status;
  if (stat(store->folder, &status) == 0) return TIDE_OK;
  return tide__fail_store(error, 0, "the folder %s cannot be used any more: %s", store->folder,
                          strerror(errno));
}

static int open_db(sqlite_store *store, const char *name, bool create, tide__db **db,
                   tide_error *error) {
  char *path = path_of(store, name);
  if (path == NULL) return tide__fail_memory(error);
  int code = tide__db_open(path, store->schema, store->busy_timeout, create, db, error);
  if (code == TIDE_OK && *db == NULL) code = check_folder(store, error);
  free(path);
  return code;
}

/* Opens the tenant's connection where there is none; the tenant is locked. */
static int open_tenant(sqlite_store *store, tide__tenant *tenant, bool create, tide_error *error) {
  /* Room first, so that never more than max_open are open but those in use. */
  (void)pthread_mutex_lock(&store->lock);
  if (!tenant->counted) store->open++;
  tenant->counted = true;
  tide__tenant *out = superfluous(store);
  (void)pthread_mutex_unlock(&store->lock);
  close_tenant(out);
  return open_db(store, tenant->name, create, &tenant->db, error);
}

int tide__tenant_take(tide_store *base, const char *name, bool create, tide__tenant **tenant,
                      tide__db **db, tide_error *error) {
  sqlite_store *store = (sqlite_store *)base;
  *tenant = NULL;
  *db = NULL;
  int code = tide__sqlite_own(base, error);
  if (code != TIDE_OK) return code;
  (void)pthread_mutex_lock(&store->lock);
  tide__tenant *taken = find(store, name);
  if (taken == NULL) {
    taken = add(store, name);
  } else if (taken != store->newest) {
    unlink_use(store, taken);
    link_newest(store, taken);
  }
  if (taken != NULL) taken->users++;
  (void)pthread_mutex_unlock(&store->lock);
  if (taken == NULL) return tide__fail_memory(error);
  (void)pthread_mutex_lock(&taken->lock);
  code = taken->db == NULL ? open_tenant(store, taken, create, error)
                           : tide__db_in_place(taken->db, false, error);
  if (code != TIDE_OK || taken->db == NULL) {
    tide__tenant_give(base, taken);
    return code;
  }
  taken->db->busy_for = 0;
  *tenant = taken;
  *db = taken->db;
  return TIDE_OK;
}

void tide__tenant_give(tide_store *base, tide__tenant *tenant) {
  sqlite_store *store = (sqlite_store *)base;
  tide__tenant *out = NULL;
  if (tenant == NULL) return;
  if (tenant->db != NULL && tenant->db->broken) {
    tide__db_close(tenant->db);
    tenant->db = NULL;
  }
  (void)pthread_mutex_unlock(&tenant->lock);
  (void)pthread_mutex_lock(&store->lock);
  tenant->users--;
  if (tenant->users == 0 && tenant->db == NULL) { /* without users it needs no lock */
    out = tenant;
    take_out(store, tenant);
  } else {
    out = superfluous(store);
  }
  (void)pthread_mutex_unlock(&store->lock);
  close_tenant(out);
}

/* ---- The folder ------------------------------------------------------------- */

static int compare_names(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The tenant's name if the entry is one's file, else NULL. */
static char *tenant_name(int folder, const char *entry) {
  size_t size = strlen(entry), ending = sizeof ENDING - 1;
  struct stat status;
  if (size <= ending || strcmp(entry + size - ending, ENDING) != 0) return NULL;
  if (tide__check_tenant(entry, size - ending, NULL) != TIDE_OK) return NULL;
  if (fstatat(folder, entry, &status, 0) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0)
    return NULL; /* an empty file is a tenant that is yet to be made */
  return strndup(entry, size - ending);
}

static int sqlite_tenants(tide_store *base, tide_bytes *names, size_t *count, tide_error *error) {
  const sqlite_store *store = (const sqlite_store *)base;
  char **found = NULL;
  size_t used = 0, room = 0, size = 0;
  DIR *folder = NULL;
  int code = tide__sqlite_own(base, error);
  if (code != TIDE_OK) return code;
  folder = opendir(store->folder);
  if (folder == NULL)
    return tide__fail_store(error, 0, "the folder %s cannot be read: %s", store->folder,
                            strerror(errno));
  for (;;) {
    errno = 0;
    const struct dirent *entry = readdir(folder);
    if (entry == NULL && errno != 0) {
      code = tide__fail_store(error, 0, "the folder %s cannot be read: %s", store->folder,
                              strerror(errno));
      goto end;
    }
    if (entry == NULL) break;
    if (used == room) {
      room = room == 0 ? 64 : room * 2;
      char **grown = realloc(found, room * sizeof *found);
      if (grown == NULL) {
        code = tide__fail_memory(error);
        goto end;
      }
      found = grown;
    }
    errno = 0;
    found[used] = tenant_name(dirfd(folder), entry->d_name);
    if (found[used] == NULL && errno == ENOMEM) {
      code = tide__fail_memory(error);
      goto end;
    }
    if (found[used] != NULL) size += strlen(found[used++]) + 1;
  }
  if (used > 0) {
    qsort(found, used, sizeof *found, compare_names);
    names->data = malloc(size);
    if (names->data == NULL) {
      code = tide__fail_memory(error);
      goto end;
    }
  }
  for (size_t i = 0; i < used; i++) {
    size_t length = strlen(found[i]) + 1;
    memcpy(names->data + names->size, found[i], length);
    names->size += length;
  }
  *count = used;
end:
  for (size_t i = 0; i < used; i++)
    free(found[i]);
  free(found);
  (void)closedir(folder); /* it was only read */
  return code;
}

static int check_database(tide__db *db, tide_error *error) {
  sqlite3_stmt *statement = NULL;
  int code = TIDE_OK;
  int result = sqlite3_prepare_v2(db->sqlite, "PRAGMA integrity_check(1)", -1, &statement, NULL);
  if (result == SQLITE_OK) result = sqlite3_step(statement);
  if (result == SQLITE_ROW) {
    const char *first = (const char *)sqlite3_column_text(statement, 0);
    if (first == NULL || strcmp(first, "ok") != 0)
      code = tide__db_damaged(db, error, "%s", first == NULL ? "no result" : first);
  } else {
    code = tide__db_fail(db, result, "read", error);
  }
  (void)sqlite3_finalize(statement); /* repeats the error of the step */
  return code;
}

/* The checksums of all rows of a table that the check of the log does not read. */
static int check_rows(tide__db *db, const char *sql, int columns, const char *what,
                      tide_error *error) {
  sqlite3_stmt *statement = NULL;
  int code = TIDE_OK;
  int result = sqlite3_prepare_v2(db->sqlite, sql, -1, &statement, NULL);
  if (result != SQLITE_OK) return tide__db_fail(db, result, "read", error);
  while (code == TIDE_OK && (result = sqlite3_step(statement)) == SQLITE_ROW)
    code = tide__row_check(db, statement, columns, what, error);
  if (code == TIDE_OK && result != SQLITE_DONE) code = tide__db_fail(db, result, "read", error);
  (void)sqlite3_finalize(statement); /* repeats the error of the step */
  return code;
}

/* On a connection of its own: it may take minutes. */
static int sqlite_check(tide_store *base, const char *tenant, tide_error *error) {
  sqlite_store *store = (sqlite_store *)base;
  tide__db *db = NULL;
  int code = tide__sqlite_own(base, error);
  if (code == TIDE_OK) code = open_db(store, tenant, false, &db, error);
  if (code != TIDE_OK || db == NULL) return code;
  code = check_database(db, error);
  if (code == TIDE_OK)
    code = check_rows(db,
                      "SELECT n.version, n.code, n.state, s.type, s.name, n.sum FROM snapshots n "
                      "LEFT JOIN streams s ON s.id = n.stream",
                      5, "a snapshot", error);
  if (code == TIDE_OK)
    code = check_rows(db, "SELECT name, owner, token, until, cursors, sum FROM threads", 5,
                      "a thread", error);
  if (code == TIDE_OK)
    code = check_rows(db, "SELECT path, body, sum FROM documents", 2, "a document", error);
  tide__db_close(db);
  return code;
}

static int sqlite_describe(tide_store *base, const char *tenant, tide_bytes *bson,
                           tide_error *error) {
  const sqlite_store *store = (const sqlite_store *)base;
  char server[64];
  char *path = NULL;
  int code = tide__sqlite_own(base, error);
  if (code != TIDE_OK) return code;
  if (tenant != NULL && (path = path_of(store, tenant)) == NULL) return tide__fail_memory(error);
  (void)snprintf(server, sizeof server, "SQLite %s", sqlite3_libversion());
  const char *const pairs[][2] = {
      {"store", "sqlite"},           {"place", store->folder}, {"server", server},
      {"documents", "with cursors"}, {"news", "polling"},      {"file", path},
  };
  code = tide__describe(pairs, tenant != NULL ? 6 : 5, bson, error);
  free(path);
  return code;
}

/* ---- Forks ------------------------------------------------------------------ */

/* In a child, SQLite still believes that it holds the locks of the connections that the
** parent had at the fork, and reuses them: a store that the child opens on the same folder
** would hold none, and the parent, when it closes, would delete the log under the child.
** So a child closes what it inherited before it opens anything. To find it without a
** global of ours, each store stands in SQLite's list of VFSs, which no one opens by. */

static void mark_store(sqlite_store *store) {
  const sqlite3_vfs *standard = sqlite3_vfs_find(NULL);
  store_mark *mark = &store->mark;
  if (standard == NULL) return; /* then no file can be opened either */
  mark->vfs = *standard;
  mark->vfs.pNext = NULL;
  (void)snprintf(mark->name, sizeof mark->name, MARK "%p", (void *)store);
  mark->vfs.zName = mark->name;
  mark->store = store;
  (void)sqlite3_vfs_register(&mark->vfs, 0); /* fails only where SQLite could not start */
}

/* false where another thread was at work in one at the fork: it is in no state to be
** closed, and the store must stay in the list. */
static bool forget_connections(sqlite_store *store) {
  bool all = true;
  for (tide__tenant *tenant = store->newest; tenant != NULL; tenant = tenant->older) {
    if (tenant->users > 0) {
      all = false;
    } else {
      tide__db_abandon(tenant->db);
      tenant->db = NULL;
    }
  }
  /* This cannot fail in a library that runs. */
  if (all) (void)sqlite3_vfs_unregister(&store->mark.vfs);
  return all;
}

/* A store in SQLite's list that another process has opened, or NULL. */
static sqlite_store *find_parents(void) {
  sqlite3_vfs *first = sqlite3_vfs_find(NULL);                         /* stays where it is */
  sqlite3_mutex *lock = sqlite3_mutex_alloc(SQLITE_MUTEX_STATIC_MAIN); /* the list's own */
  sqlite_store *found = NULL;
  pid_t self = getpid();
  sqlite3_mutex_enter(lock);
  for (sqlite3_vfs *vfs = first; vfs != NULL && found == NULL; vfs = vfs->pNext) {
    if (strncmp(vfs->zName, MARK, sizeof MARK - 1) != 0) continue;
    sqlite_store *store = ((store_mark *)vfs)->store;
    if (store->owner != self) found = store;
  }
  sqlite3_mutex_leave(lock);
  return found;
}

static int forget_parents(tide_error *error) {
  for (sqlite_store *store; (store = find_parents()) != NULL;)
    if (!forget_connections(store))
      return tide__fail_store(error, 0,
                              "this process was forked while another thread used a store: it "
                              "cannot open one before exec");
  return TIDE_OK;
}

/* ---- Opening and closing the store ------------------------------------------ */

static void sqlite_close(tide_store *base) {
  sqlite_store *store = (sqlite_store *)base;
  bool own = store->owner == getpid();
  if (own) {
    (void)sqlite3_vfs_unregister(&store->mark.vfs); /* cannot fail in a library that runs */
    (void)pthread_mutex_destroy(&store->lock);      /* nobody holds it */
  } else if (!forget_connections(store)) {
    return;
  }
  for (tide__tenant *tenant = store->newest, *older; tenant != NULL; tenant = older) {
    older = tenant->older;
    tide__db_close(tenant->db);
    if (own) (void)pthread_mutex_destroy(&tenant->lock); /* nobody holds it */
    free(tenant);
  }
  free(store);
}

static const tide_store_ops sqlite_ops = {
    .scheme = "sqlite",
    .close = sqlite_close,
    .append = tide__sqlite_append,
    .scan = tide__sqlite_scan,
    .scan_next = tide__sqlite_scan_next,
    .scan_close = tide__sqlite_scan_close,
    .head = tide__sqlite_head,
    .wait = tide__wait_by_polling,
    .import = tide__sqlite_import,
    .find_command = tide__sqlite_find_command,
    .get_snapshot = tide__sqlite_get_snapshot,
    .put_snapshot = tide__sqlite_put_snapshot,
    .lease = tide__sqlite_lease,
    .commit_cursors = tide__sqlite_commit_cursors,
    .list_threads = tide__sqlite_list_threads,
    .get_thread = tide__sqlite_get_thread,
    .put_thread = tide__sqlite_put_thread,
    .put_documents = tide__sqlite_put_documents,
    .get_document = tide__sqlite_get_document,
    .list_documents = tide__sqlite_list_documents,
    .tenants = sqlite_tenants,
    .check = sqlite_check,
    .describe = sqlite_describe,
};

/* Makes a new folder's name survive a power cut, as its files' names will. */
static int flush_parent(const char *folder, tide_error *error) {
  char *parent = NULL;
  int code = TIDE_OK, file = -1;
  size_t size = strlen(folder);
  while (size > 0 && folder[size - 1] == '/')
    size--;
  while (size > 0 && folder[size - 1] != '/')
    size--;
  parent = size == 0 ? strdup(".") : strndup(folder, size);
  if (parent == NULL) return tide__fail_memory(error);
  file = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  /* Not every parent may be opened and not every file system can do this. */
  if (file >= 0 && fsync(file) != 0 && errno == EIO)
    code =
        tide__fail_store(error, 0, "the folder %s cannot be created: %s", folder, strerror(errno));
  if (file >= 0) (void)close(file); /* it was only read */
  free(parent);
  return code;
}

/* Makes the folder where it is missing; *absolute is to be freed. */
static int open_folder(const char *folder, char **absolute, tide_error *error) {
  struct stat status;
  *absolute = NULL;
  if (mkdir(folder, 0777) == 0) {
    int code = flush_parent(folder, error);
    if (code != TIDE_OK) return code;
  } else {
    int reason = errno; /* not always EEXIST for a folder that is there: read-only disks */
    if (reason != EEXIST && stat(folder, &status) != 0)
      return tide__fail_store(error, 0, "the folder %s cannot be created: %s", folder,
                              strerror(reason));
  }
  *absolute = realpath(folder, NULL);
  if (*absolute == NULL || stat(*absolute, &status) != 0)
    return tide__fail_store(error, 0, "the folder %s cannot be used: %s", folder, strerror(errno));
  if (!S_ISDIR(status.st_mode))
    return tide__fail_store(error, 0, "%s cannot be used: it is not a folder", folder);
  return TIDE_OK;
}

int tide__sqlite_open_schema(const char *folder, const tide_store_options *options,
                             const tide__schema *schema, tide_store **store, tide_error *error) {
  char *absolute = NULL;
  sqlite_store *opened = NULL;
  *store = NULL;
  if (folder == NULL || folder[0] == '\0')
    return tide__fail(error, TIDE_INVALID_ARGUMENT, "uri",
                      "the uri names no folder: sqlite:FOLDER");
  if (sqlite3_threadsafe() == 0)
    return tide__fail_store(error, 0, "this SQLite was built without threads");
  if (sqlite3_initialize() != SQLITE_OK)
    return tide__fail_store(error, 0, "SQLite could not start");
  int code = open_folder(folder, &absolute, error);
  if (code == TIDE_OK) code = forget_parents(error);
  if (code != TIDE_OK || absolute == NULL) goto end;
  size_t size = strlen(absolute) + 1;
  opened = calloc(1, sizeof *opened + size);
  if (opened == NULL || pthread_mutex_init(&opened->lock, NULL) != 0) {
    code = tide__fail_memory(error);
    goto end;
  }
  memcpy(opened->folder, absolute, size);
  opened->base.ops = &sqlite_ops;
  opened->owner = getpid();
  opened->schema = schema;
  opened->busy_timeout =
      options != NULL && options->busy_timeout > 0 ? options->busy_timeout : 10000;
  opened->max_open = options != NULL && options->max_open > 0 ? (size_t)options->max_open : 64;
  mark_store(opened);
  *store = &opened->base;
  opened = NULL;
end:
  free(absolute);
  free(opened);
  return code;
}

int tide__sqlite_open(const char *folder, const tide_store_options *options, tide_store **store,
                      tide_error *error) {
  return tide__sqlite_open_schema(folder, options, &tide__sqlite_schema, store, error);
}
