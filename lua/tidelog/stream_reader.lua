-- The stream reader: shows handlers every event in order, each at its own cursor, and
-- commits what they wrote together with the cursors, in one transaction.
--
-- Where the database has none, documents are written before the cursors, and a reader that
-- dies in between shows the same events again. So each document carries how far it reflects
-- its writers, and is written only forward: it has each event's effect exactly once.

local Documents = require "tidelog.documents"
local Err = require "tidelog.err"
local Store = require "tidelog.store"
local Trace = require "tidelog.trace"
local Options = require "tidelog.options"
local checkReceiver = require "tidelog.receiver"
local engine = require "tidelog.engine"

---@class tidelog.StreamReader
local StreamReader = {}
StreamReader.__index = StreamReader
StreamReader.__name = "tidelog.StreamReader"

local LIMIT = 10      -- events a poll
local TIMEOUT = 10000 -- ms that a lease lasts

--- Makes a reader.
---@param store tidelog.Store
---@param tracer? table
---@return tidelog.StreamReader
function StreamReader.new(store, tracer)
  Store.check(store)
  return setmetatable({ store = store, tracer = Trace.check(tracer), owner = engine.id() }, StreamReader)
end

local checkOptions = Options { "limit", "timeout" }

local function readOptions(options)
  options = checkOptions(options)
  return options.limit == nil and LIMIT or engine.checkInteger(options.limit, "limit", 1),
    options.timeout == nil and TIMEOUT or engine.checkInteger(options.timeout, "timeout", 1, engine.leaseMax)
end

-- ---- what handlers write -------------------------------------------------------------

-- Which documents may be written for an event, and how far they reflect their writers then,
-- where documents and cursors are not committed together.
local function newForward(store, tenant, thread)
  local forward = { marks = {} } -- marks[path][writer]: behind the last event in the document
  local writer, position
  local reflects = {}            -- by writer and path, as it was before this poll

  -- A writer is a handler in its thread.
  function forward.begin(handler, at)
    writer, position = thread .. "/" .. handler, at
    reflects[writer] = reflects[writer] or {}
  end

  function forward.wanted(path)
    local known = reflects[writer]
    if not known[path] then
      local _, behind = engine.getDocument(store, tenant, path, writer)
      known[path] = behind
    end
    return known[path] <= position
  end

  function forward.keep(path)
    local marks = forward.marks[path] or {}
    forward.marks[path] = marks
    marks[writer] = position + 1
  end

  return forward
end

-- Documents of one poll: written together at its end. What a handler writes for an event
-- is kept apart until the handler is done with that event, and dropped if it fails.
local function newBatch(store, tenant)
  local batch = { written = {}, staged = nil, forward = nil }
  local source = {}

  function source.read(path)
    local bytes = batch.staged and batch.staged[path]
    if bytes == nil then bytes = batch.written[path] end
    if bytes == nil then return (engine.getDocument(store, tenant, path)) end
    return bytes or nil
  end

  function source.write(path, bytes)
    if not batch.staged then
      error(Err.precondition("self.db was used outside of the handling of an event"))
    end
    if not batch.forward or batch.forward.wanted(path) then batch.staged[path] = bytes end
  end

  function source.list(prefix)
    local set = {}
    for _, document in ipairs(Documents.ofStore(store, tenant):list(prefix)) do set[document.path] = true end
    for _, layer in ipairs { batch.written, batch.staged or {} } do
      for path, bytes in pairs(layer) do
        if path:sub(1, #prefix) == prefix then set[path] = bytes and true or nil end
      end
    end
    local paths = {}
    for path in pairs(set) do paths[#paths + 1] = path end
    table.sort(paths)
    return paths
  end

  -- For this handler's event at this position.
  function batch.begin(handler, position)
    batch.staged = {}
    if batch.forward then batch.forward.begin(handler, position) end
  end

  function batch.keep()
    for path, bytes in pairs(batch.staged) do
      batch.written[path] = bytes
      if batch.forward then batch.forward.keep(path) end
    end
    batch.staged = nil
  end

  function batch.drop() batch.staged = nil end

  function batch.documents()
    local list = {}
    local function add(path, bytes, writer, position)
      local n = #list
      list[n + 1], list[n + 2], list[n + 3], list[n + 4] = path, bytes, writer, position
    end
    for path, bytes in pairs(batch.written) do
      if batch.forward then
        for writer, position in pairs(batch.forward.marks[path]) do add(path, bytes, writer, position) end
      else
        add(path, bytes, false, 0)
      end
    end
    return list
  end

  return batch, Documents.new(source)
end

-- ---- handlers -----------------------------------------------------------------------

-- What a handler's functions get as self: the handler, with this poll's documents as db.
local function viewOf(handler, name, db)
  return setmetatable({ db = db }, { __index = handler, __newindex = handler, __name = name })
end

-- A handler without a name or events is ignored.
local function readHandlers(handlers, db)
  if handlers == nil then error(Err.missingArgument "handlers") end
  if type(handlers) ~= "table" then
    error(Err.invalidArgument("handlers", "handlers is a " .. type(handlers) .. ", not a list of tables"))
  end
  if #handlers == 0 and next(handlers) ~= nil then
    error(Err.invalidArgument("handlers", "handlers is a table with names, not a list: { handler }"))
  end
  local list, byName = {}, {}
  for _, handler in ipairs(handlers) do
    local name, events
    if type(handler) == "table" then name, events = handler.name, handler.events end
    if type(name) == "string" and name ~= "" and type(events) == "table" then
      engine.checkName(name, "handler")
      if byName[name] then
        error(Err.invalidArgument("handlers", ("two handlers have the name %s"):format(name)))
      end
      byName[name] = true
      list[#list + 1] = { name = name, events = events, self = viewOf(handler, name, db) }
    end
  end
  return list
end

-- ---- poll ----------------------------------------------------------------------------

local function lookUp(events, name) return events[name] end

-- One event for one handler; returns the error that it failed with. The function was looked
-- up, which may have failed, too: then `apply` is the error.
local function handle(self, context, entry, batch, event, found, apply)
  local started = engine.clock()
  batch.begin(entry.name, event.position)
  local ok, problem = found, apply
  if found then ok, problem = pcall(apply, entry.self, context.tenant, event) end
  if ok then batch.keep() else batch.drop() end
  if self.tracer then
    Trace.offer(self.tracer, function()
      return { method = "handle", handler = entry.name, event = event, lease = context.lease, context = context,
               error = Trace.failure(ok, problem), elapsed = engine.clock() - started }
    end)
  end
  if ok then return nil end
  return problem == nil and "nil" or problem
end

-- The lowest cursor of the handlers that have not failed in this poll, or nil.
local function lowest(entries)
  local cursor
  for _, entry in ipairs(entries) do
    if not entry.failed and (not cursor or entry.cursor < cursor) then cursor = entry.cursor end
  end
  return cursor
end

-- Shows the scan's current event to the handlers that have not seen it; returns whether
-- that moved a cursor.
local function show(self, context, entries, batch, scan, position, name, failures)
  local moved = false
  for _, entry in ipairs(entries) do
    if not entry.failed and entry.cursor <= position then
      local found, apply = pcall(lookUp, entry.events, name) -- through metatables, which may raise
      if not found or apply then
        local event = engine.event(scan) -- a new table: what one handler does to it no other sees
        local problem = handle(self, context, entry, batch, event, found, apply)
        if problem ~= nil then
          entry.failed = true
          failures[#failures + 1] = { handler = entry.name, event = event, error = problem }
        end
      end
      if not entry.failed then entry.cursor, moved = position + 1, true end
    end
  end
  return moved
end

-- Shows up to `limit` events to the handlers, from the lowest cursor on.
local function read(self, context, entries, batch, limit)
  local failures, from, left = {}, lowest(entries), limit
  while from and left > 0 do
    local scan <close> = engine.scan(self.store, context.tenant, nil, nil, from)
    while left > 0 do
      local position, name = engine.step(scan)
      if not position then return failures end
      if position >= from then -- a scan begins with the whole commit that holds `from`
        -- an event that moves no cursor has failed a handler: that comes to an end, too
        if show(self, context, entries, batch, scan, position, name, failures) then left = left - 1 end
        local next = lowest(entries)
        if next ~= position + 1 then -- all others are further on, or have failed
          from = next
          break
        end
      end
    end
  end
  return failures
end

-- Whether a handler that did not fail has events before it.
local function isMore(self, tenant, entries)
  local head = engine.head(self.store, tenant)
  for _, entry in ipairs(entries) do
    if not entry.failed and entry.cursor < head then return true end
  end
  return false
end

local function commitCursors(self, context, entries, cursors, batch)
  local started = engine.clock()
  local changed = false
  for _, entry in ipairs(entries) do
    if entry.cursor ~= entry.began then
      cursors[entry.name], changed = { position = entry.cursor }, true
    end
  end
  local lease = context.lease
  local ok, problem = pcall(engine.commitCursors, self.store, context.tenant, context.thread, self.owner, lease.token,
    changed and engine.encode(cursors, "cursors") or nil, batch.documents(), true)
  if self.tracer then
    Trace.offer(self.tracer, function()
      return { method = "commitCursors", context = context, lease = lease, error = Trace.failure(ok, problem),
               elapsed = engine.clock() - started }
    end)
  end
  if not ok then error(problem, 0) end
end

local function acquire(self, context, timeout)
  local started = engine.clock()
  local token, expires, bytes, apart = engine.lease(self.store, context.tenant, context.thread, self.owner, timeout)
  context.lease = { thread = context.thread, token = token or nil, expires = engine.formatTime(expires),
                    held = token and true or false }
  if self.tracer then
    Trace.offer(self.tracer, function()
      return { method = "pollStream", context = context, lease = context.lease,
               documents = apart and "forward only" or "with cursors", elapsed = engine.clock() - started }
    end)
  end
  if not token then return nil end
  if apart and not self.warned then
    self.warned = true
    warn("tidelog: the database has no transactions: what handlers write is not committed together with their "
      .. "cursors, and each document is written only forward")
  end
  return engine.decode(bytes), apart
end

--- Shows the thread's handlers the next events. A handler that fails keeps its cursor
--- before the event, which it gets again in the next poll; the others go on.
---@param tenant string
---@param thread string    the name that the cursors are kept under
---@param handlers table[] each with name and events; one without is ignored
---@param options? { limit?: integer, timeout?: integer } events at most (10); ms of the lease (10000)
---@return boolean more    whether another poll would find something to do
---@return { handler: string, event: table, error: any }[] failures
function StreamReader:poll(tenant, thread, handlers, options)
  checkReceiver(self, StreamReader, "sr:poll(tenant, thread, handlers, options)")
  engine.checkTenant(tenant)
  engine.checkName(thread, "thread")
  local limit, timeout = readOptions(options)
  local batch, db = newBatch(self.store, tenant)
  local entries = readHandlers(handlers, db)
  if engine.head(self.store, tenant) == 0 or #entries == 0 then return false, {} end
  local context = { tenant = tenant, thread = thread }
  local cursors, apart = acquire(self, context, timeout)
  if not cursors then return false, {} end -- another reader is at it
  if apart then batch.forward = newForward(self.store, tenant, thread) end
  for _, entry in ipairs(entries) do
    local cursor = cursors[entry.name]
    entry.cursor = cursor and cursor.position or 0
    entry.began = entry.cursor
  end
  local ok, failures = pcall(read, self, context, entries, batch, limit)
  if not ok then
    -- the store failed: give the lease up if it still can be, and say what was the matter
    pcall(engine.commitCursors, self.store, tenant, thread, self.owner, context.lease.token, nil, {}, true)
    error(failures, 0)
  end
  commitCursors(self, context, entries, cursors, batch)
  return isMore(self, tenant, entries), failures
end

return StreamReader
