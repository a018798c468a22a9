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

local ROUNDS = fault.quick and 3 or 10
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
local slow, fast = child(LEASE, "slow"), child(LONG, "fast")

local function counts()
  local document = store:documents(TENANT):doc("/counter"):get() or { count = 0, positions = 0 }
  return document.count, document.positions
end

for round = 1, ROUNDS do
  if fault.failures > 0 then break end
  for _ = 1, 3 do
    ch:command(actor, "AddNumbers", { aggregateId = "a" .. round, number1 = 1, number2 = round })
    events = events + 1
  end
  slow:send "poll\n"
  say(slow, "^handling$", "the slow reader")
  -- Before its lease has expired, nobody else gets it.
  local began = fault.process.clock()
  fast:send "poll\n"
  say(fast, "^polled\tfalse", "the fast reader")
  if fault.process.clock() - began < LEASE / 2 and counts() == events - 3 then inTime = inTime + 1 end
  slow.child:signal "STOP"
  fault.process.sleep(LEASE + 30)
  fast:send "poll\n"
  say(fast, "^polled\tfalse", "the fast reader")
  local count = counts()
  if fault.expect(count == events, "after the takeover %d of %d events are counted", count, events) then
    taken = taken + 1
  end
  if round % 2 == 0 then -- the second owner has the lease again, or has given it back
    ch:command(actor, "SubtractNumbers", { aggregateId = "a" .. round, number1 = 1, number2 = round })
    events = events + 1
  end
  slow.child:signal "CONT"
  for _ = 1, 3 do slow:send "go on\n" end -- the three events of its poll
  for _ = 1, 2 do say(slow, "^handling$", "the slow reader") end
  local line = slow:line(10000)
  if fault.expect(line and line:match "^refused\tConcurrencyError\t", "the slow reader's commit: %s", tostring(line)) then
    refused = refused + 1
  end
  if round % 2 == 0 then
    fast:send "poll\n"
    say(fast, "^polled", "the fast reader")
  end
  local n, positions = counts()
  fault.expect(n == events and positions == events * (events - 1) // 2, "%d of %d events are counted, positions %d",
    n, events, positions)
end
fault.expect(inTime > 0, "a lease was never seen to be respected: the machine is too slow")
slow:send()
fast:send()
slow:finish(5000, "the slow reader")
fast:finish(5000, "the fast reader")
store:check(TENANT)
store:close()
fault.finish("leases: %d readers stopped for longer than their lease, %d taken over, %d late commits refused; "
  .. "%d events counted exactly once", ROUNDS, taken, refused, events)
