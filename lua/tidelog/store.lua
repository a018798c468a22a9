-- The methods of a store, for users.

local Documents = require "tidelog.documents"
local Err = require "tidelog.err"
local History = require "tidelog.history"
local Options = require "tidelog.options"
local engine = require "tidelog.engine"

---@class tidelog.Store
local Store = engine.storeMethods

local checkOptions = Options { "busyTimeout", "maxOpen" }

--- Opens a store: "sqlite:FOLDER" or "memory:".
---@param uri string
---@param options? { busyTimeout?: integer, maxOpen?: integer } ms to wait for another writer (10000); tenants kept open
---@return tidelog.Store
local function open(uri, options)
  options = checkOptions(options)
  return engine.open(uri, options.busyTimeout, options.maxOpen)
end

--- Raises unless a value is a store, open or closed.
local function check(store)
  if engine.isStore(store) then return end
  error(Err.invalidArgument("store", "store is a " .. type(store) .. ", not what tidelog.open returned"))
end

--- Closes the store; twice is harmless.
function Store:close() engine.close(self) end

--- An iterator over a tenant's events: `for event in store:events("tenant1") do`.
---@param tenant string
---@param filter? tidelog.EventFilter
function Store:events(tenant, filter) return History.events(self, tenant, filter) end

--- A tenant's documents.
---@param tenant string
---@return tidelog.Documents
function Store:documents(tenant) return Documents.ofStore(self, tenant) end

--- The names of the tenants, sorted.
---@return string[]
function Store:tenants() return engine.tenants(self) end

--- Where a tenant's log ends: the position that its next event will have.
---@param tenant string
---@return integer
function Store:head(tenant)
  local position = engine.head(self, tenant)
  return position
end

--- Checks a tenant's whole log: the database's own integrity, positions and versions
--- without a gap, and the chain of hashes. Raises StoreError with the first problem.
---@param tenant string
---@return { commits: integer, events: integer }
function Store:check(tenant)
  local commits, events = engine.check(self, tenant)
  return { commits = commits, events = events }
end

return { open = open, check = check }
