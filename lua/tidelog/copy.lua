-- Copying a tenant from one store to another: its log commit by commit, with positions,
-- times and hashes as they are, then documents and threads. What the target has already is
-- passed over, so a copy that was killed goes on when it is run again. Snapshots are a cache,
-- and are not copied.

local Err = require "tidelog.err"
local Options = require "tidelog.options"
local Store = require "tidelog.store"
local engine = require "tidelog.engine"

local COMMITS, BYTES = 1000, 8 << 20 -- of a group that is written at once
local PAGE = 1000                    -- names read at once
local LEASE = 60000                  -- ms; renewed when a third of it is over
local WAIT = 2000                    -- ms that a reader may take to end its poll

local checkOptions = Options { "progress", "wait" }

---@class tidelog.CopyResult
---@field tenant string
---@field events integer           in the target: its head, which is the source's
---@field hash string              of the last commit, in hexadecimal
---@field copiedEvents integer
---@field copiedCommits integer
---@field documents integer        in the target
---@field copiedDocuments integer  those that differed
---@field removedDocuments integer those that the source does not have
---@field threads integer

--- What a copy has done so far.
---@class tidelog.CopyState
---@field tenant string
---@field position integer  events in the target
---@field head integer      events in the source
---@field events integer    copied
---@field commits integer   copied
---@field documents integer

local function hexadecimal(bytes)
  return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

-- Iterates over names that are listed in pages: `list` gives those after one.
local function each(list)
  local page, at, last = {}, 0, false
  return function()
    at = at + 1
    if at > #page and not last then
      page, at = list(page[#page]), 1
      last = #page < PAGE
    end
    return page[at]
  end
end

local function eachThread(store, tenant)
  return each(function(after) return engine.listThreads(store, tenant, after, PAGE) end)
end

local function eachDocument(store, tenant)
  return each(function(after) return engine.listDocuments(store, tenant, "/", after, PAGE) end)
end

local function isSame(from, to)
  if rawequal(from, to) then return true end
  local a, b = from:describe(), to:describe()
  return a.store == b.store and a.place == b.place and a.store ~= "memory"
end

-- ---- the threads' leases: no reader commits meanwhile ------------------------------------

-- The same for each run of this copy, so that one that was killed does not keep its
-- successor out.
local function ownerOf(to, tenant)
  local about = to:describe()
  return "tidelog copy " .. hexadecimal(engine.sha256(about.store .. ":" .. about.place .. "\0" .. tenant)):sub(1, 16)
end

local function failHeld(where, thread, owner, expires)
  error(Err.concurrency(("the thread %s of the %s is leased by %s until %s: stop its reader, or wait"):format(
    Err.show(thread), where, Err.show(owner or "another"), engine.formatTime(expires))), 0)
end

-- Calls `try` until it gives something; nil where that takes too long.
local function patiently(c, try)
  local ends = engine.clock() + c.wait
  while true do
    local found = try()
    if found or engine.clock() >= ends then return found end
    engine.sleep(10)
  end
end

-- Takes the leases of the source's threads that it does not have yet; returns whether there
-- were any.
local function leaseThreads(c)
  local more = false
  for name in eachThread(c.from, c.tenant) do
    if not c.leases[name] then
      local expires
      c.leases[name] = patiently(c, function()
        local token
        token, expires = engine.lease(c.from, c.tenant, name, c.owner, LEASE)
        return token or nil
      end)
      if not c.leases[name] then
        local _, _, owner = engine.getThread(c.from, c.tenant, name)
        failHeld("source", name, owner, expires)
      end
      more = true
    end
  end
  return more
end

-- Renews the leases where it is time, or at once (`now`), and finds out if one was lost.
local function renewLeases(c, now)
  if engine.clock() < c.renewal and not now then return end
  c.renewal = engine.clock() + LEASE / 3
  for name, token in pairs(c.leases) do
    local renewed = engine.lease(c.from, c.tenant, name, c.owner, LEASE)
    if renewed ~= token + 1 then
      error(Err.concurrency(("the lease on the thread %s was lost meanwhile: copy again"):format(Err.show(name))), 0)
    end
    c.leases[name] = renewed
  end
end

local function releaseLeases(c)
  for name, token in pairs(c.leases) do
    -- one that was lost is another's now
    pcall(engine.commitCursors, c.from, c.tenant, name, c.owner, token, nil, {}, true)
  end
end

-- Nobody may read the target while its documents and cursors are replaced.
local function checkTarget(c)
  for name in eachThread(c.to, c.tenant) do
    local owner, expires
    if not patiently(c, function()
      local _
      _, _, owner, expires = engine.getThread(c.to, c.tenant, name)
      return not owner
    end) then
      failHeld("target", name, owner, expires)
    end
  end
end

-- ---- the log ---------------------------------------------------------------------------------

-- Whether the target's log is the beginning of the source's: a hash stands for all before it.
local function checkPrefix(c)
  local position, _, hash = engine.head(c.to, c.tenant)
  local head = engine.head(c.from, c.tenant)
  if position > head then
    error(Err.precondition(("the target is ahead of the source: tenant %s has %d events there, and %d here"):format(
      c.tenant, position, head)), 0)
  end
  if position == 0 then return position, hash end
  local scan <close> = engine.scan(c.from, c.tenant, nil, nil, position - 1, true, 1)
  local first, count, expected = engine.nextCommit(scan)
  if not first or first + count ~= position or expected ~= hash then
    error(Err.precondition(("the target has another history: tenant %s differs in the %d events that both have")
      :format(c.tenant, position)), 0)
  end
  return position, hash
end

local function report(c)
  if not c.progress then return end
  c.progress { tenant = c.tenant, position = c.position, head = math.max(c.position, (engine.head(c.from, c.tenant))),
               events = c.result.copiedEvents, commits = c.result.copiedCommits, documents = c.result.documents }
end

-- Copies the commits that the target does not have; each is verified against the one before
-- it as it is imported.
local function copyLog(c)
  c.position = checkPrefix(c)
  local scan <close> = engine.scan(c.from, c.tenant, nil, nil, c.position)
  repeat
    report(c)
    renewLeases(c)
    local commits, events = engine.import(c.to, c.tenant, scan, COMMITS, BYTES)
    c.position = c.position + events
    c.result.copiedCommits = c.result.copiedCommits + commits
    c.result.copiedEvents = c.result.copiedEvents + events
  until commits == 0
end

-- ---- documents -------------------------------------------------------------------------------

-- The source's handlers in their threads, as documents are marked by them, with their cursors.
local function writersOf(c)
  local writers = {}
  for name in pairs(c.leases) do
    local _, bytes = engine.getThread(c.from, c.tenant, name)
    for handler, cursor in pairs(engine.decode(bytes)) do
      writers[#writers + 1] = { name = name .. "/" .. handler, position = cursor.position }
    end
  end
  return writers
end

-- How far a document of the source reflects a writer. Where it is more than the cursor says,
-- a reader has died in between; only a store that keeps both apart, too, can take that over.
local function reflected(c, path, writer)
  if not c.fromApart then return writer.position end
  local _, reflects = engine.getDocument(c.from, c.tenant, path, writer.name)
  if reflects <= writer.position then return writer.position end
  if c.toApart then return reflects end
  error(Err.precondition(("the document %s reflects the handler %s up to position %d, and its cursor says %d: "
    .. "a reader has died there; let it poll once, then copy again"):format(Err.show(path), Err.show(writer.name),
    reflects, writer.position)), 0)
end

-- Writes that are made in groups.
local function newGroup(c)
  local group = { list = {}, bytes = 0 }

  function group.flush()
    if #group.list > 0 then engine.putDocuments(c.to, c.tenant, group.list) end
    group.list, group.bytes = {}, 0
    renewLeases(c)
  end

  function group.add(path, body, writer, position)
    local size = body and #body or 0
    local n = #group.list
    if n >= 4 * COMMITS or n > 0 and group.bytes + size > BYTES then
      group.flush()
      n = 0
    end
    local list = group.list
    list[n + 1], list[n + 2], list[n + 3], list[n + 4] = path, body, writer, position
    group.bytes = group.bytes + size
  end

  return group
end

local function copyDocument(c, group, writers, path)
  local body = engine.getDocument(c.from, c.tenant, path)
  if not body then return end -- deleted by hand meanwhile
  c.result.documents = c.result.documents + 1
  local marks = {}
  for i, writer in ipairs(writers) do marks[i] = reflected(c, path, writer) end
  if engine.getDocument(c.to, c.tenant, path) ~= body then
    c.result.copiedDocuments = c.result.copiedDocuments + 1
  elseif not c.toApart then
    return
  end
  if not c.toApart or #writers == 0 then group.add(path, body, false, 0) end
  for i, writer in ipairs(c.toApart and writers or {}) do group.add(path, body, writer.name, marks[i]) end
end

-- Both list their paths in the same order.
local function copyDocuments(c)
  local writers = (c.fromApart or c.toApart) and writersOf(c) or {}
  local group = newGroup(c)
  local nextOfTarget = eachDocument(c.to, c.tenant)
  local other = nextOfTarget()
  c.result.documents = 0
  local function removeBefore(path)
    while other and (not path or other < path) do
      group.add(other, false, false, 0)
      c.result.removedDocuments = c.result.removedDocuments + 1
      other = nextOfTarget()
    end
  end
  for path in eachDocument(c.from, c.tenant) do
    removeBefore(path)
    if other == path then other = nextOfTarget() end
    copyDocument(c, group, writers, path)
    renewLeases(c) -- also where nothing is to be written for long
  end
  removeBefore(nil)
  group.flush()
  report(c)
end

-- ---- threads ---------------------------------------------------------------------------------

local function copyThreads(c)
  for name in pairs(c.leases) do
    local token, cursors = engine.getThread(c.from, c.tenant, name)
    engine.putThread(c.to, c.tenant, name, token, cursors)
    c.result.threads = c.result.threads + 1
  end
  -- What only the target has begins anew: its documents are gone.
  local none = engine.encode({}, "cursors")
  for name in eachThread(c.to, c.tenant) do
    local token, cursors = engine.getThread(c.to, c.tenant, name)
    if not c.leases[name] and cursors ~= none then engine.putThread(c.to, c.tenant, name, token, none) end
  end
end

-- ---- all of it -------------------------------------------------------------------------------

local function run(c)
  checkTarget(c)
  leaseThreads(c)
  if engine.head(c.from, c.tenant) == 0 and not next(c.leases) and not eachDocument(c.from, c.tenant)() then
    error(Err.precondition(("tenant %s has nothing in the source"):format(c.tenant)), 0)
  end
  checkPrefix(c) -- before anything is written
  engine.setup(c.to, c.tenant)
  copyLog(c)
  repeat copyDocuments(c) until not leaseThreads(c) -- a new thread may have written meanwhile
  copyLog(c) -- and other writers to the log
  copyThreads(c)
  renewLeases(c, true) -- one that was lost meanwhile spoils all this
  local events, hash = checkPrefix(c)
  c.result.events, c.result.hash = events, hexadecimal(hash)
  return c.result
end

--- Copies a tenant into another store: its log with positions, times and hashes, its
--- documents and its threads' cursors. What the target has already stays and is checked: it
--- must be the beginning of the same history. Meanwhile nobody reads either store through its
--- threads (their leases are taken), commands may go on in the source, and no one may write
--- into the target.
---
--- Raises PreconditionError where the target has another history or more events, or there is
--- nothing to copy, ConcurrencyError where a thread is leased by a reader or somebody writes
--- into the target, InvalidArgumentError "to" where both are one store.
---@param from tidelog.Store
---@param to tidelog.Store
---@param tenant string
---@param options? { progress?: fun(state: tidelog.CopyState), wait?: integer } told now and then; ms for polls to end
---@return tidelog.CopyResult
return function(from, to, tenant, options)
  Store.check(from)
  Store.check(to)
  engine.checkTenant(tenant)
  options = checkOptions(options)
  if options.progress ~= nil and type(options.progress) ~= "function" then
    error(Err.invalidArgument("progress", ("progress is a %s, not a function"):format(type(options.progress))))
  end
  if isSame(from, to) then
    error(Err.invalidArgument("to", "both are the same store: a copy needs another one"))
  end
  local c = {
    from = from, to = to, tenant = tenant, progress = options.progress,
    wait = options.wait == nil and WAIT or engine.checkInteger(options.wait, "wait", 0, LEASE),
    owner = ownerOf(to, tenant), leases = {}, renewal = engine.clock() + LEASE / 3, position = 0,
    fromApart = from:describe(tenant).documents == "forward only",
    toApart = to:describe(tenant).documents == "forward only",
    result = { tenant = tenant, events = 0, hash = "", copiedEvents = 0, copiedCommits = 0, documents = 0,
               copiedDocuments = 0, removedDocuments = 0, threads = 0 },
  }
  local ok, result = pcall(run, c)
  releaseLeases(c)
  if not ok then error(result, 0) end
  return result
end
