-- EventCounter on a database without transactions, where a reader dies between the documents
-- and its cursors: the next one counts each event exactly once, all the same. Also for a handler
-- of two documents, between which its reader dies.

local fault = require "tests.fault.fault"
local tidelog = require "tidelog"
local Adder = require "aggregates.adder"
local EventCounter = require "handlers.event_counter"

local TENANT, THREAD = "tenant1", "thread1"
local LEASE, PATIENCE = 1500, 300 -- ms

local function proxy(json, ...)
  local line = json:format(...)
  local pipe = assert(io.popen(("'%s/../mongodb/control' proxy '%s'"):format(fault.scripts, line)))
  local answer = pipe:read "a"
  if not pipe:close() or not answer:find('"ok": 1', 1, true) then error(line .. ": " .. answer) end
  return answer
end

-- Connections are cut at what this rule is for.
local function cut(rule)
  proxy([[{"do": "reset"}]])
  proxy([[{"do": "pretend", "as": "no_transactions"}]])
  if rule then proxy([[{"do": "add", %s, "times": 0, "action": "cut_before"}]], rule) end
end

-- Cursors have the names of handlers; what goes before them, the lease and the look at it, has not.
local CURSORS = [["command": "findAndModify", "contains": "EventCounter"]]
local DOCUMENTS = [["command": "update", "collection": "documents", "skip": %d]]

local Pair = { name = "Pair" } -- counts in two documents
function Pair:count()
  for _, path in ipairs { "/pair/a", "/pair/b" } do
    local document = self.db:doc(path)
    document:set { count = (document:get() or { count = 0 }).count + 1 }
  end
end
Pair.events = {
  NumbersAdded = function(self) self:count() end,
  NumbersSubtracted = function(self) self:count() end,
}

cut()
local uri = fault.place()
local store = tidelog.open(uri, { busyTimeout = PATIENCE })
local actor = tidelog.Actor { id = "actor1", tenant = TENANT, roles = {} }
local ch = tidelog.CommandHandler(store, { Adder })
local events, deaths = 0, 0
fault.expect(store:describe(TENANT).documents == "forward only", "the database has transactions")

local function fill(count)
  for i = 1, count do
    ch:command(actor, i % 3 == 0 and "SubtractNumbers" or "AddNumbers",
      { aggregateId = "a" .. i % 2, number1 = i, number2 = 1 })
  end
  events = events + count
end

local function count_of(path, field)
  local found = store:documents(TENANT):doc(path):get()
  return found and found[field] or 0
end

-- The reader of another process: its lease is its own, and the one before must have expired.
local function poll(handlers, limit)
  local reader, ends = tidelog.StreamReader(store), fault.process.clock() + 30000
  local seen = false
  local watched = { name = "Watched", events = setmetatable({}, { __index = function() seen = true end }) }
  repeat
    local more, failures = reader:poll(TENANT, THREAD, { watched, table.unpack(handlers) },
      { limit = limit, timeout = LEASE })
    fault.expect(#failures == 0, "a handler failed")
    if seen then return more end
    fault.process.sleep(20)
  until fault.process.clock() > ends
  fault.fail "the lease of a dead reader does not expire"
end

local function die(handlers, limit, rule)
  cut(rule)
  local ok, problem = pcall(poll, handlers, limit)
  fault.expect(not ok and tidelog.Err.is(problem, "StoreError") and problem.transient, "the reader lives: %s", problem)
  deaths = deaths + 1
  cut()
end

local function drain(handlers)
  for _ = 1, 100 do
    if not poll(handlers, 3) then return end
  end
  fault.fail "there is always more"
end

local both = { EventCounter, Pair }
local counter = "/counters/counter1"

-- The documents are ahead.
fill(10)
die(both, 4, CURSORS)
fault.expect(count_of(counter, "eventCount") == 4, "not written before the cursors")
fault.expect(count_of("/pair/b", "count") == 4, "not written before the cursors")
die(both, 2, CURSORS) -- less than before: nothing is new
fault.expect(count_of(counter, "eventCount") == 4, "counted again")
die(both, 7, CURSORS) -- some of it
fault.expect(count_of(counter, "eventCount") == 7, "not gone on")
-- None, one and two of the three documents are written: which of them is not said.
for written = 0, 2 do
  local limit, reached = 8 + written, 0
  die(both, limit, DOCUMENTS:format(written))
  for _, has in ipairs { count_of("/pair/a", "count"), count_of("/pair/b", "count"),
                         count_of(counter, "eventCount") } do
    fault.expect(has == 7 or has == 9 or has == 10, "%d is neither before nor behind", has)
    if has == limit then reached = reached + 1 end
  end
  fault.expect(reached == written, "%d documents reached %d, not %d", reached, limit, written)
end
fill(5)
drain(both)
fault.expect(count_of(counter, "eventCount") == events, "%d counted, not %d", count_of(counter, "eventCount"), events)
for _, path in ipairs { "/pair/a", "/pair/b" } do
  fault.expect(count_of(path, "count") == events, "%s counts %d, not %d", path, count_of(path, "count"), events)
end
store:close()
fault.finish("forward: %d events, each counted once in each document by readers of which %d died", events, deaths)
