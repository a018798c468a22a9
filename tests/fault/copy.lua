-- Kills copies of a tenant at random moments, while another process goes on writing and
-- reading in the source, and runs them again until one comes to its end. The target is then
-- what the source is: the same head, documents and cursors. Beneath tests/mongodb/with_server
-- one of the two is on its server, which is killed now and then, too.
--
--   fault_launcher copy.lua                          the test
--   lua5.4 copy.lua fill URI EVENTS SEED             writes, and polls a thread now and then
--   lua5.4 copy.lua copy FROM TO                     one copy

local tidelog = require "tidelog"
local engine = require "tidelog.engine"

local TENANT = "tenant1"

local Meter = { name = "Meter", path = "/meters" }
function Meter:init() self.sum = 0 end
Meter.commands = { Read = function(_, context)
  for i = 1, context.payload.count do context:push("MeterRead", { value = i, text = context.payload.text }) end
end }
Meter.events = { MeterRead = function(self, event) self.sum = self.sum + event.payload.value end }

-- Counts each meter's events, and keeps a list that comes and goes.
local Counter = { name = "Counter" }
Counter.events = { MeterRead = function(self, _, event)
  local document = self.db:doc("/meters/" .. event.aggregateId)
  local counts = document:get() or { count = 0, positions = 0 }
  document:set { count = counts.count + 1, positions = counts.positions + event.position }
  self.db:doc("/recent/" .. event.position):set { value = event.payload.value }
  self.db:doc("/recent/" .. event.position - 100):delete()
end }

local function fill(uri, events, seed)
  math.randomseed(seed)
  io.stdout:setvbuf "line"
  local store = tidelog.open(uri, { busyTimeout = 30000 }) -- longer than two kills of the server
  local ch, reader = tidelog.CommandHandler(store, { Meter }), tidelog.StreamReader(store)
  print "begun"
  local actor = tidelog.Actor { id = "filler", tenant = TENANT, roles = {} }
  local count = 0
  while count < events do
    local many = math.min(math.random(4), events - count)
    ch:command(actor, "Read", { aggregateId = "meter" .. math.random(7), count = many,
                                text = ("x"):rep(math.random(400)) })
    count = count + many
    if math.random(20) == 1 then reader:poll(TENANT, "thread" .. math.random(3), { Counter }, { limit = 60 }) end
  end
  store:close()
  print("filled", count)
end

local function copy(from, to)
  io.stdout:setvbuf "line"
  local source <close> = tidelog.open(from)
  local target <close> = tidelog.open(to)
  print "begun"
  -- small groups, so that there are many moments to be killed at
  local import = engine.import
  engine.import = function(store, tenant, scan) return import(store, tenant, scan, 8, 1 << 20) end
  local ok, result = pcall(tidelog.copy, source, target, TENANT, { wait = 10000 })
  if ok then
    print("copied", result.copiedEvents)
  elseif result.transient then -- on MongoDB: a transaction that a killed copy left open
    print("again", (tostring(result):gsub("%s+", " ")))
  else
    error(result)
  end
end

if arg[1] == "fill" then return fill(arg[2], tonumber(arg[3]), tonumber(arg[4])) end
if arg[1] == "copy" then return copy(arg[2], arg[3]) end

-- ---- the test ----------------------------------------------------------------------------

local fault = require "tests.fault.fault"

local ON_MONGODB = os.getenv "TIDELOG_MONGODB_URI" ~= nil
local ROUNDS = ON_MONGODB and 2 or fault.quick and 1 or 4
local KILLS = fault.count("TIDELOG_CRASH_KILLS", ON_MONGODB and 24 or 40, 8) // ROUNDS
local EVENTS = ON_MONGODB and 400 or fault.quick and 600 or 2000
local PATIENCE = 60000 -- ms

local function child(...)
  return fault.start(fault.lua("copy.lua", { ... }))
end

-- Everything that a copy carries over, as text.
local function content(uri)
  local store <close> = tidelog.open(uri)
  local lines = {}
  local function add(...) lines[#lines + 1] = table.concat({ ... }, " ") end
  local position, time, hash = engine.head(store, TENANT)
  add("head", position, time, (hash:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)))
  for _, document in ipairs(store:documents(TENANT):list()) do
    add("document", document.path, engine.toJson(engine.encode(document:get(), "document"), 0))
  end
  for _, thread in ipairs(store:threads(TENANT)) do
    add("thread", thread.name, engine.toJson(engine.encode(thread.cursors, "cursors"), 0))
    fault.expect(not thread.owner, "the thread %s of %s is leased by %s", thread.name, uri, thread.owner)
  end
  store:check(TENANT)
  return lines, position
end

local kills, halves, ends, agains, servers = 0, 0, 0, 0, 0

-- A place for the source or the target of a round.
local function place(sqlite)
  return sqlite and "sqlite:" .. fault.folder() or fault.place()
end

-- Kills the server and starts it again: those who use it wait for it.
local function killServer(children)
  local control = fault.scripts .. "../mongodb/control"
  fault.expect(fault.shell("'%s' kill >&2", control), "the server cannot be killed")
  fault.wait(math.random(0, 300), children)
  fault.expect(fault.shell("'%s' start >&2", control), "the server does not start")
  servers = servers + 1
end

-- How far the target is, without disturbing it.
local function headOf(uri)
  local store <close> = tidelog.open(uri)
  return store:head(TENANT)
end

local function round(fromSqlite, toSqlite)
  local from, to = place(fromSqlite), place(toSqlite)
  fill(from, EVENTS // 2, math.random(1 << 40))
  local filler = child("fill", from, EVENTS // 2, math.random(1 << 40))
  filler:line(PATIENCE) -- begun
  local longest, killed = 60, 0 -- ms
  while killed < KILLS and fault.failures == 0 do
    local copier = child("copy", from, to)
    copier:line(PATIENCE) -- begun
    fault.wait(math.random(longest), { copier, filler })
    if ON_MONGODB and math.random(4) == 1 then
      killServer { copier, filler }
      fault.wait(math.random(longest), { copier, filler })
    end
    if copier.child:wait(0) then
      ends = ends + 1
      longest = math.max(1, longest * 9 // 10)
      for _, line in ipairs(copier:drain(100)) do
        fault.expect(line:find "^copied" or line:find "^again", "a copy said: %s", line)
      end
      if math.random(2) == 1 then -- from the beginning again
        fault.remove(to)
        to = place(toSqlite)
      end
    else
      local before = headOf(to)
      copier:kill()
      kills, killed = kills + 1, killed + 1
      local after = headOf(to)
      fault.expect(after >= before, "the target went back from %d to %d", before, after)
      if after > 0 and after < headOf(from) then halves = halves + 1 end
    end
    copier.child:close()
  end
  fault.wait(1, { filler })
  filler:finish(PATIENCE, "the writer")
  local deadline, done = fault.process.clock() + 2 * PATIENCE, false
  repeat -- a database takes a minute at most to end the transaction of a killed process
    local last = child("copy", from, to)
    last:finish(PATIENCE, "the last copy")
    for _, line in ipairs(last:drain(100)) do
      done = done or line:find "^copied" ~= nil
      if line:find "^again" then agains = agains + 1 end
    end
  until done or fault.failures > 0 or fault.process.clock() > deadline
  fault.expect(done, "no copy came to its end")
  local a, events = content(from)
  local b = content(to)
  for i = 1, math.max(#a, #b) do
    if not fault.expect(a[i] == b[i], "the source has %s, the target %s", a[i], b[i]) then break end
  end
  fault.expect(events == EVENTS, "%d events were written, not %d", events, EVENTS)
  fault.expect(#a > (ON_MONGODB and 50 or 100), "only %d lines to compare", #a)
end

for i = 1, ROUNDS do
  if fault.failures == 0 then round(not ON_MONGODB or i % 2 == 0, not ON_MONGODB or i % 2 == 1) end
end
fault.expect(kills > 0, "nothing was killed")
fault.expect(halves > 0, "no copy was killed in the middle of its log")
fault.finish("copies: %d killed, %d of them in the middle of the log, %d came to their end meanwhile; %d rounds of %d "
  .. "events, the same on both sides%s", kills, halves, ends, ROUNDS, EVENTS,
  ON_MONGODB and ("; the server was killed %d times; %d copies ended in an error that passes"):format(servers, agains)
  or "")
