-- Several processes run commands on one store, on hot and on cold aggregates, without an
-- expectedVersion: the engine decides again where another was first. Then all of them send
-- the same commands with the same commandIds.
--
--   fault_launcher processes.lua                    the test
--   lua5.4 processes.lua work URI NUMBER SEED COMMANDS SAME

local tidelog = require "tidelog"

local TENANT = "tenant1"
local HOT, COLD = 2, 40

local decisions = 0

local Account = { name = "Account", path = "/accounts", snapshot = { every = 50 } }
function Account:init() self.sum, self.count = 0, 0 end
Account.commands = {
  Deposit = function(self, context)
    decisions = decisions + 1 -- a second decision of the same command is a conflict
    context:push("Deposited", { amount = context.payload.amount, after = self.sum + context.payload.amount })
  end,
}
Account.events = {
  Deposited = function(self, event)
    self.sum, self.count = self.sum + event.payload.amount, self.count + 1
  end,
}

local function work(uri, me, seed, commands, same)
  math.randomseed(seed)
  io.stdout:setvbuf "line"
  local ch = tidelog.CommandHandler(tidelog.open(uri), { Account })
  local actor = tidelog.Actor { id = "worker" .. me, tenant = TENANT, roles = {} }
  local count = { ok = 0, gaveUp = 0, other = 0, amount = 0, duplicates = 0, written = 0 }
  print "ready"
  io.read "l"
  for _ = 1, commands do
    local id = math.random(10) <= 7 and "hot" .. math.random(HOT) or "cold" .. math.random(COLD)
    local amount = math.random(1000)
    local ok, result = pcall(ch.command, ch, actor, "Deposit", { aggregateId = id, amount = amount })
    if ok then
      count.ok, count.amount = count.ok + 1, count.amount + amount
      local a = result.aggregate -- one state for all who decide
      assert(result.events[1].payload.after == a.sum and a.count == a.aggregateVersion + 1)
    elseif tidelog.Err.is(result, "ConcurrencyError") then
      count.gaveUp = count.gaveUp + 1
    else
      count.other = count.other + 1
      print("problem", (tostring(result):gsub("%s+", " ")))
    end
  end
  print("worked", count.ok, count.gaveUp, count.other, count.amount, decisions - commands)
  io.read "l"
  for n = 1, same do
    local ok, context = pcall(ch.command, ch, actor, "Deposit",
      { aggregateId = "same" .. n % 3, amount = n, commandId = "deposit" .. n })
    if not ok then
      print("problem", (tostring(context):gsub("%s+", " ")))
    elseif context.duplicate then
      count.duplicates = count.duplicates + 1
    else
      count.written = count.written + 1
    end
    if ok and not (#context.events == 1 and context.events[1].payload.amount == n) then
      print("problem", "deposit" .. n .. " has other events")
    end
  end
  print("sent", count.written, count.duplicates)
end

if arg[1] == "work" then
  return work(arg[2], tonumber(arg[3]), tonumber(arg[4]), tonumber(arg[5]), tonumber(arg[6]))
end

-- ---- the test ----------------------------------------------------------------------------

local fault = require "tests.fault.fault"

local WORKERS = 4
local COMMANDS = fault.count("TIDELOG_FAULT_COMMANDS", 400, 80) -- of each
local SAME = fault.quick and 30 or 120
local PATIENCE = 90000 -- ms

local uri = fault.place()
local workers = {}

local function say(pattern, worker)
  local line = worker:line(PATIENCE)
  while line and line:match "^problem" do
    fault.fail("%s", line)
    line = worker:line(PATIENCE)
  end
  if not fault.expect(line and line:match(pattern), "a worker said: %s", tostring(line)) then
    fault.finish "processes: a worker failed"
  end
  return line
end

for i = 1, WORKERS do
  workers[i] = fault.start(fault.lua("processes.lua", { "work", uri, i, math.random(1 << 40), COMMANDS, SAME }))
end
for _, worker in ipairs(workers) do say("^ready$", worker) end
local began = fault.process.clock()
for _, worker in ipairs(workers) do worker:send "go\n" end
local done, gaveUp, other, amount, conflicts = 0, 0, 0, 0, 0
for _, worker in ipairs(workers) do
  local a, b, c, d, e = say("^worked", worker):match "^worked\t(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%d+)$"
  done, gaveUp, other, amount, conflicts = done + a, gaveUp + b, other + c, amount + d, conflicts + e
end
local took = math.max(1, fault.process.clock() - began)
fault.expect(done + gaveUp == WORKERS * COMMANDS and other == 0, "%d commands, %d gave up, %d failed", done, gaveUp,
  other)
fault.expect(gaveUp * 100 <= WORKERS * COMMANDS, "%d of %d commands met other writers in all attempts", gaveUp,
  WORKERS * COMMANDS)

for _, worker in ipairs(workers) do worker:send "go\n" end
local written, duplicates = 0, 0
for _, worker in ipairs(workers) do
  local a, b = say("^sent", worker):match "^sent\t(%d+)\t(%d+)$"
  written, duplicates = written + a, duplicates + b
end
for _, worker in ipairs(workers) do worker:finish(5000, "a worker") end
fault.expect(written == SAME and duplicates == SAME * (WORKERS - 1), "of %d commands sent %d times each, %d were "
  .. "written and %d known", SAME, WORKERS, written, duplicates)

local store = tidelog.open(uri)
local checked = store:check(TENANT)
local ch = tidelog.CommandHandler(store, { Account })
local states, position, sum, ids = {}, 0, 0, {}
for event in store:events(TENANT) do
  fault.expect(event.position == position, "position %d after %d", event.position, position - 1)
  position = event.position + 1
  local id, state = event.aggregateId, states[event.aggregateId] or { sum = 0, count = 0 }
  states[id] = state
  fault.expect(event.aggregateVersion == state.count, "%s: version %d after %d events", id, event.aggregateVersion,
    state.count)
  state.sum, state.count = state.sum + event.payload.amount, state.count + 1
  fault.expect(event.payload.after == state.sum, "%s: the event at %d was decided on another state", id,
    event.position)
  if id:match "^same" then
    fault.expect(not ids[event.commandId], "the command %s is there twice", event.commandId)
    ids[event.commandId] = true
  else
    sum = sum + event.payload.amount
  end
end
for id, state in pairs(states) do
  local loaded = ch:load(TENANT, Account, id)
  fault.expect(loaded.sum == state.sum and loaded.count == state.count, "%s is not what its events say", id)
end
fault.expect(sum == amount, "the deposits' sum is %d, not %d", sum, amount)
fault.expect(position == done + SAME and checked.events == position, "%d events, not %d", position, done + SAME)
store:close()
fault.finish("processes: %d processes, %d commands in %.2f s = %.0f/s, %d conflicts decided again, %d gave up, "
  .. "%d failed; %d commandIds sent by all at once: %d written, %d known; %d events without a gap",
  WORKERS, done, took / 1000, done * 1000 / took, conflicts, gaveUp, other, SAME, written, duplicates, position)
