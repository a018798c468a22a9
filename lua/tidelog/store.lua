-- The methods of a store, for users.

local Documents = require "tidelog.documents"
local Err = require "tidelog.err"
local History = require "tidelog.history"
local Options = require "tidelog.options"
local engine = require "tidelog.engine"

---@class tidelog.Store
local Store = engine.storeMethods

local TIMEOUT = 10000 -- ms of a wait
local PAGE = 1000     -- names read at once

local checkOptions = Options { "busyTimeout", "maxOpen" }

--- Opens a store: "sqlite:FOLDER", "mongodb://…", "mongodb+srv://…" or "memory:".
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

--- Waits until a tenant's log has more than `position` events, and says how many it has:
--- no more than `position` where the time was over first.
---@param tenant string
---@param position integer what is known: the head that was seen last
---@param timeout? integer ms at most (10000); 0 only looks
---@return integer head
function Store:wait(tenant, position, timeout)
  return engine.wait(self, tenant, position, timeout == nil and TIMEOUT or timeout)
end

--- What there is to know of the store: `store` (its scheme), `place` (the folder or hosts),
--- `server` (the database with its version), `documents` ("with cursors": what handlers write
--- is committed with their cursors; "forward only": document by document), `news` ("polling",
--- "change stream": how a wait learns of them), and more, as the store has it.
---@param tenant? string adds what there is to know of the tenant
---@return table<string, any>
function Store:describe(tenant)
  return engine.decode(engine.describe(self, tenant))
end

---@class tidelog.Thread
---@field name string
---@field token integer     of its last lease; it only grows
---@field owner? string     who holds the lease, where anybody does
---@field expires? string   when that ends
---@field cursors table<string, { position: integer }> by handler: the next event that it gets

--- A tenant's threads, sorted by their names: who reads, and how far.
---@param tenant string
---@return tidelog.Thread[]
function Store:threads(tenant)
  local threads, after = {}, nil
  repeat
    local names = engine.listThreads(self, tenant, after, PAGE)
    for _, name in ipairs(names) do
      local token, cursors, owner, expires = engine.getThread(self, tenant, name)
      threads[#threads + 1] = { name = name, token = token, owner = owner,
                                expires = expires and engine.formatTime(expires), cursors = engine.decode(cursors) }
    end
    after = names[#names]
  until #names < PAGE
  return threads
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
