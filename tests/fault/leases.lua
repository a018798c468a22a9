-- A reader that is stopped (SIGSTOP) for longer than its lease is replaced by another. When
-- it goes on, its commit of cursors and documents must be refused, and counts stay exact.
--
--   fault_launcher leases.lua                       the test
--   lua5.4 leases.lua poll FOLDER TIMEOUT slow|fast   one poll for each line that it reads

local tidelog = require "tidelog"

local TENANT, THREAD = "tenant1", "thread1"
local Adder = require "aggregates.adder"

local function poll(folder, timeout, pace)
  io.stdout:setvbuf "line"
  local reader = tidelog.StreamReader(tidelog.open("sqlite:" .. folder))
  local Counter = { name = "Counter" }
  function Counter.see(self, _, event)
    local document = self.db:doc "/counter"
    local counts = document:get() or { count = 0, positions = 0 }
    counts.count, counts.positions = counts.count + 1, counts.positions + event.position
    document:set(counts)
    if pace == "slow" then -- stopped here, with the lease taken and the document not yet written
      print "handling"
      io.read "l"
    end
  end
  Counter.events = { NumbersAdded = Counter.see, NumbersSubtracted = Counter.see }
  print "ready"
  for _ in io.lines() do
    local ok, more = pcall(reader.poll, reader, TENANT, THREAD, { Counter }, { limit = 3, timeout = timeout })
    print(ok and "polled" or "refused", ok and tostring(more) or tostring(more.name), ok and "" or tostring(more))
  end
end

if arg[1] == "poll" then return poll(arg[2], tonumber(arg[3]), arg[4]) end

local fault = require "tests.fault.fault"

local ROUNDS = fault.quick and 3 or 12
local LEASE = 200 -- ms
local LONG = 30000

local folder = fault.folder()
local store = tidelog.open("sqlite:" .. folder)
local ch = tidelog.CommandHandler(store, { Adder })
local actor = tidelog.Actor { id = "user1", tenant = TENANT, roles = {} }

local function child(timeout, pace)
  local reader = fault.start(fault.lua("leases.lua", { "poll", folder, timeout, pace }))
  fault.expect(reader:line(10000) == "ready", "a reader did not start")
  return reader
end

local function say(reader, pattern, what)
  local line = reader:line(10000)
  fault.expect(line and line:match(pattern), "%s said: %s", what, tostring(line))
end

local events, refused, taken, inTime = 0, 0, 0, 0
local first, second = child(LEASE, "slow"), child(LONG, "slow")

local function counts()
  local document = store:documents(TENANT):doc("/counter"):get() or { count = 0, positions = 0 }
  return document.count, document.positions
end

local function write(count, id)
  for n = 1, count do
    ch:command(actor, n == 1 and "SubtractNumbers" or "AddNumbers", { aggregateId = id, number1 = 1, number2 = n })
    events = events + 1
  end
end

-- Lets a reader that is at its first event handle `count`.
local function handle(reader, count, what)
  for n = 1, count do
    reader:send "go on\n"
    if n < count then say(reader, "^handling$", what) end
  end
end

local function expectCounts(round, when)
  local count, positions = counts()
  fault.expect(count == events and positions == events * (events - 1) // 2,
    "round %d, %s: %d of %d events are counted, positions %d", round, when, count, events, positions)
end

-- While the first reader is stopped, the second one has
local MODES = {
  "done its work",    -- the lease is free again
  "its own lease",    -- and is in the middle of its work
  "not come",         -- the lease has only expired
}

for round = 1, ROUNDS do
  if fault.failures > 0 then break end
  local mode = MODES[round % #MODES + 1]
  write(3, "a" .. round)
  first:send "poll\n"
  say(first, "^handling$", "the first reader")
  -- Before its lease has expired, nobody else gets it.
  local began = fault.process.clock()
  second:send "poll\n"
  local line = second:line(10000)
  local early = fault.process.clock() - began < LEASE / 2
  fault.expect(not early or line == "polled\tfalse\t", "the second reader said: %s", tostring(line))
  if not early then break end -- the machine is too busy for this round to tell anything
  inTime = inTime + 1
  first.child:signal "STOP"
  fault.process.sleep(LEASE + 30)
  if mode ~= "not come" then
    second:send "poll\n"
    say(second, "^handling$", "the second reader")
    taken = taken + 1
  end
  if mode == "done its work" then
    handle(second, 3, "the second reader")
    say(second, "^polled\tfalse\t$", "the second reader")
    expectCounts(round, "after the takeover")
    if round % 2 == 0 then write(1, "b" .. round) end
  end
  first.child:signal "CONT"
  handle(first, 3, "the first reader")
  line = first:line(10000)
  local late = line and line:match "^refused\tConcurrencyError\t"
  if fault.expect(late, "round %d, the second has %s, the late commit: %s", round, mode, tostring(line)) then
    refused = refused + 1
  end
  if mode == "its own lease" then
    handle(second, 3, "the second reader")
    say(second, "^polled\tfalse\t$", "the second reader")
  elseif counts() < events then
    second:send "poll\n"
    say(second, "^handling$", "the second reader")
    handle(second, events - counts(), "the second reader")
    say(second, "^polled\tfalse\t$", "the second reader")
  end
  expectCounts(round, "in the end")
end
fault.expect(inTime > 0, "a lease was never seen to be respected: the machine is too slow")
first:send()
second:send()
first:finish(5000, "the first reader")
second:finish(5000, "the second reader")
store:check(TENANT)
store:close()
fault.finish("leases: %d readers stopped for longer than their lease, %d taken over, %d late commits refused; "
  .. "%d events counted exactly once", inTime, taken, refused, events)
