/* databases.h - databases of a test's own on the server that tests/mongodb/with_server gives.
**
** The store's URI option tidelogPrefix goes in front of every database's name, so each case
** works in databases that no other one has, on one server, and drops them by that prefix. */
#ifndef TIDE_TESTS_MONGODB_DATABASES_H
#define TIDE_TESTS_MONGODB_DATABASES_H

#include <stdbool.h>
#include <stddef.h>

#include <mongoc/mongoc.h>

/* Is there a server? */
bool databases_have_server(void);

/* `uri`, to which `mark` (such as "c1-") is added as the end of the prefix. */
void databases_uri(const char *uri, const char *mark, char *marked, size_t size);

/* A client past the proxy, for looking at what is stored and for failpoints. Destroy it. */
mongoc_client_t *databases_client(void);

/* The name of the database that a tenant has in a store with this (marked) URI. */
void databases_name(const char *uri, const char *tenant, char *name, size_t size);

/* Drops every database that begins with the prefix of this URI. */
void databases_drop(const char *uri);

#endif
