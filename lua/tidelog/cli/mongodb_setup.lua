-- What a team runs by hand to set up MongoDB for Tidelog, as a script for mongosh.

local TEMPLATE = [==[
// Tidelog on MongoDB: the tenant "%{tenant}", database "%{database}". A script for mongosh:
//
//   mongosh "mongodb+srv://CLUSTER/" setup.js
//
// Run as it is it makes the collections and indexes of section 1; the other sections are
// comments, each to be read, adapted and run once.

// ---- 1. Collections and indexes ------------------------------------------------------------
// Tidelog makes these itself at a tenant's first write. Run them by hand where its role may not
// create collections and indexes; any number of times, they change nothing that is there.

const tenant = db.getSiblingDB("%{database}");
for (const name of ["events", "threads", "documents", "snapshots", "tidelog"])
  if (!tenant.getCollectionNames().includes(name)) tenant.createCollection(name);

// One commit at each version of an aggregate: the optimistic lock.
tenant.events.createIndex({ type: 1, id: 1, version: 1 }, { name: "aggregate", unique: true });
// A command id once in its aggregate.
tenant.events.createIndex({ type: 1, id: 1, commandId: 1 },
  { name: "command", unique: true, partialFilterExpression: { commandId: { $exists: true } } });
// The mark that the database is Tidelog's: last, so that what has it has its indexes.
tenant.tidelog.updateOne({ _id: "store" },
  { $setOnInsert: { application: "tidelog", format: NumberInt(1) } },
  { upsert: true, writeConcern: { w: "majority", j: true } });
// No other index is needed, and none may be unique. No TTL index, no capped collection and no
// validator that refuses what Tidelog writes: the log is only ever appended to.

// ---- 2. A role and a user with least privileges -----------------------------------------------
// The log cannot be changed or shortened by the engine: it may find and insert, not update or
// remove. { db: "" } means these collections in each database, for tenants that come later; name
// the database ("%{database}") instead to confine an engine to one tenant.
//
// const admin = db.getSiblingDB("admin");
// const inEach = (collection, actions) => ({ resource: { db: "", collection }, actions });
// admin.createRole({
//   role: "tidelogEngine",
//   privileges: [
//     inEach("events",    ["find", "insert", "changeStream", "listIndexes", "createIndex", "createCollection"]),
//     inEach("threads",   ["find", "insert", "update", "createCollection"]),
//     inEach("documents", ["find", "insert", "update", "remove", "createCollection"]),
//     inEach("snapshots", ["find", "insert", "update", "createCollection"]),
//     inEach("tidelog",   ["find", "insert", "createCollection"]),
//   ],
//   roles: [],
// });
// admin.createUser({ user: "tidelog", pwd: passwordPrompt(), mechanisms: ["SCRAM-SHA-256"],
//                    roles: ["tidelogEngine"] });
//
// Without createIndex and createCollection the engine uses what section 1 has made.
// With certificates instead of a password:
// db.getSiblingDB("$external").runCommand({ createUser: "CN=tidelog,OU=…,O=…",
//                                           roles: [{ role: "tidelogEngine", db: "admin" }] });
//
// Who only looks on (reports, dashboards) reads the history and the read models, and no more:
// admin.createRole({ role: "tidelogReader", roles: [], privileges: [
//   { resource: { db: "%{database}", collection: "events" }, actions: ["find", "changeStream"] },
//   { resource: { db: "%{database}", collection: "documents" }, actions: ["find", "changeStream"] } ] });
//
// These take the place of security rules in databases that clients write to directly: here
// clients write nothing. A command goes to the engine, which checks its roles, and people
// read by tidelogReader, tenant by tenant.

// ---- 3. Atlas ----------------------------------------------------------------------------------
// Network: a private endpoint or peering; else an IP access list with the addresses of the engines
//   alone, never 0.0.0.0/0:    atlas accessLists create 203.0.113.7 --type ipAddress
// Connection: mongodb+srv://USER:PASSWORD@CLUSTER/?authSource=admin   (TLS is on; leave w and
//   readConcernLevel out: Tidelog writes and reads with majority, whatever is there)
// Role and user: Database Access, Custom Roles, with the actions of section 2; or
//   atlas customDbRoles create tidelogEngine --privilege …
// Backup: Continuous Cloud Backup, so that any moment can be gone back to:
//   atlas clusters update CLUSTER --backup --pit
//   A restore puts back a database as a whole: events, threads, documents and tidelog belong
//   together. Stop the engines of the tenant first, and run tidelog check afterwards.
// Size: Atlas recommends at most 5,000 collections and indexes together on M10, 10,000 on M20 and
//   M30, 100,000 on M40 and above. A tenant has 5 collections and 7 indexes.
// Names: the free and shared tiers take names of databases of up to 38 bytes, as long as a
//   tenant's may be: leave tidelogPrefix out there.

// ---- 4. A sharded cluster ------------------------------------------------------------------------
// All of a tenant's events lie on one shard, in one order: never shard the collection events (nor
// the others). Tenants are spread over the shards by the primary shard of their databases, which
// the cluster chooses, or a team does before the tenant's first write:
//
// db.adminCommand({ enableSharding: "%{database}", primaryShard: "SHARD" });
//
// To move a tenant later, stop its engines, and then:
//
// db.adminCommand({ movePrimary: "%{database}", to: "SHARD" });]==]

local RESERVED = { admin = true, ["local"] = true, config = true }

--- The script for a tenant; `prefix` is what the URI puts in front of names of databases.
---@param tenant string
---@param prefix string
---@return string
return function(tenant, prefix)
  local database = prefix .. (prefix == "" and RESERVED[tenant] and "~" or "") .. tenant
  return (TEMPLATE:gsub("%%{(%w+)}", { tenant = tenant, database = database }))
end
