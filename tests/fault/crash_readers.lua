-- Kills processes that poll handlers, at random moments, while another one writes events.
-- What handlers write through self.db is committed with their cursors: in the end every
-- count is exactly the number of events.
--
--   fault_launcher crash_readers.lua                          the test
--   lua5.4 crash_readers.lua feed URI EVENTS SEED
--   lua5.4 crash_readers.lua poll URI SEED TIMEOUT [EVENTS]   until it has seen so many

local tidelog = require "tidelog"

local TENANT, THREAD = "tenant1", "thread1"
local SECONDS = 60 -- the longest life of a child

local Meter = { name = "Meter", path = "/meters" }
function Meter:init() self.sum = 0 end
Meter.commands = {
  Read = function(_, context)
    for i = 1, context.payload.count do context:push("MeterRead", { value = context.payload.value + i }) end
  end,
  Reset = function(_, context) context:push "MeterReset" end,
}
Meter.events = {
  MeterRead = function(self, event) self.sum = self.sum + event.payload.value end,
  MeterReset = function(self) self.sum = 0 end,
}

local function open(uri)
  io.stdout:setvbuf "line"
  return tidelog.open(uri)
end

local function feed(uri, events, seed)
  math.randomseed(seed)
  local ch = tidelog.CommandHandler(open(uri), { Meter })
  local actor = tidelog.Actor { id = "feeder", tenant = TENANT, roles = {} }
  local count = 0
  while count < events do
    local id = "meter" .. math.random(7)
    local context
    if math.random(5) == 1 then
      context = ch:command(actor, "Reset", { aggregateId = id })
    else
      local more = math.min(math.random(4), events - count)
      context = ch:command(actor, "Read", { aggregateId = id, count = more, value = count })
    end
    count = count + #context.events
  end
  print("fed", count)
end

-- ---- the handlers ----------------------------------------------------------------------

local function add(self, path, event)
  local document = self.db:doc(path)
  local counts = document:get() or { count = 0, positions = 0, last = -1 }
  counts.count, counts.positions, counts.last = counts.count + 1, counts.positions + event.position, event.position
  document:set(counts)
end

local All = { name = "All" } -- sees every event
function All.see(self, _, event)
  local document = self.db:doc "/all"
  local last = (document:get() or { last = -1 }).last
  if event.position > last + 1 then -- what comes again would be counted twice
    self.db:doc("/gaps/" .. event.position):set { after = last }
  end
  add(self, "/all", event)
  add(self, "/meters/" .. event.aggregateId, event)
end
All.events = { MeterRead = All.see, MeterReset = All.see }

-- Fails half of the time, after it has written.
local Unsteady = { name = "Unsteady" }
function Unsteady.see(self, _, event)
  add(self, "/unsteady", event)
  self.db:doc("/temporary"):set { position = event.position }
  if math.random(2) == 1 then error "unsteady" end
  self.db:doc("/temporary"):delete()
end
Unsteady.events = { MeterRead = Unsteady.see, MeterReset = Unsteady.see }

local Resets = { name = "Resets" } -- skips most events
Resets.events = { MeterReset = function(self, _, event) add(self, "/resets", event) end }

local function poll(uri, seed, timeout, events)
  math.randomseed(seed)
  local store = open(uri)
  local reader = tidelog.StreamReader(store)
  local ends = os.time() + SECONDS
  while os.time() < ends do
    local ok, problem = pcall(reader.poll, reader, TENANT, THREAD, { All, Unsteady, Resets },
      { limit = math.random(20), timeout = timeout })
    if ok then
      print "polled"
    elseif tidelog.Err.is(problem, "ConcurrencyError") then
      print "lost the lease" -- it was slower than its timeout
    else
      error(problem)
    end
    local documents = store:documents(TENANT)
    local all, unsteady = documents:doc("/all"):get(), documents:doc("/unsteady"):get()
    if events and all and unsteady and all.count >= events and unsteady.count >= events then break end
  end
  store:close()
end

if arg[1] == "feed" then return feed(arg[2], tonumber(arg[3]), tonumber(arg[4])) end
if arg[1] == "poll" then return poll(arg[2], tonumber(arg[3]), tonumber(arg[4]), tonumber(arg[5])) end

-- ---- the test ----------------------------------------------------------------------------

local fault = require "tests.fault.fault"

local KILLS = fault.count("TIDELOG_CRASH_KILLS", 40, 8)
local ON_MONGODB = os.getenv "TIDELOG_MONGODB_URI" ~= nil
local EVENTS = (fault.quick or ON_MONGODB) and 300 or 1500
local LEASE = ON_MONGODB and 250 or 80 -- ms; those who come after a killed reader wait for it

local uri = fault.place()
local kills, polls, losses = 0, 0, 0

local function child(...)
  return fault.start(fault.lua("crash_readers.lua", { ... }))
end

local function count(reader)
  for _, line in ipairs(reader:drain(100)) do
    if line == "polled" then polls = polls + 1
    elseif line == "lost the lease" then losses = losses + 1
    else fault.fail("a reader said: %s", line) end
  end
end

local feeder = child("feed", uri, EVENTS, math.random(1 << 40))
while kills < KILLS and fault.failures == 0 do
  local running = {}
  for i = 1, 2 do running[i] = child("poll", uri, math.random(1 << 40), LEASE) end
  for _, reader in ipairs(running) do
    fault.wait(math.random(180), running)
    fault.expect(not reader.child:wait(0), "a reader ended by itself")
    reader:kill()
    kills = kills + 1
    count(reader)
    reader.child:close()
  end
end
feeder:finish(60000, "the writer")
-- The last ones are left to finish; two of them, who take turns.
local rest = { child("poll", uri, 1, 5000, EVENTS), child("poll", uri, 2, 5000, EVENTS) }
local deadline = fault.process.clock() + 60000
repeat
  fault.wait(20, rest)
until rest[1].ended and rest[2].ended or fault.process.clock() > deadline
for _, reader in ipairs(rest) do
  count(reader)
  reader:finish(1000, "the last reader")
end

local store = tidelog.open(uri)
store:check(TENANT)
local expected, events = {}, 0
local function expect(path, position)
  local e = expected[path] or { count = 0, positions = 0, last = -1 }
  expected[path] = e
  e.count, e.positions, e.last = e.count + 1, e.positions + position, position
end
for event in store:events(TENANT) do
  events = events + 1
  expect("/all", event.position)
  expect("/unsteady", event.position)
  expect("/meters/" .. event.aggregateId, event.position)
  if event.name == "MeterReset" then expect("/resets", event.position) end
end
fault.expect(events >= EVENTS, "%d events were written, not %d", events, EVENTS)
local found = 0
for _, document in ipairs(store:documents(TENANT):list()) do
  local has, e = document:get(), expected[document.path]
  found = found + 1
  if fault.expect(e, "%s should not be there", document.path) then
    fault.expect(has.count == e.count and has.positions == e.positions and has.last == e.last,
      "%s counts %d, not %d (positions %d, not %d; last %d, not %d)", document.path, has.count, e.count,
      has.positions, e.positions, has.last, e.last)
    expected[document.path] = nil
  end
end
for path in pairs(expected) do fault.fail("%s is missing", path) end
local mode = store:describe(TENANT).documents
fault.expect(mode == (os.getenv "TIDELOG_FAULT_DOCUMENTS" or "with cursors"), "documents are written %s", mode)
store:close()
fault.expect(polls > 0, "nothing was polled")
fault.finish("readers: %d kills, %d polls, %d of them lost their lease; %d events, each counted exactly once "
  .. "in %d documents, written %s", kills, polls, losses, events, found, mode)
