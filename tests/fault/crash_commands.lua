-- Kills processes that run commands of several events through a CommandHandler, at random
-- moments. Every command that had returned must be there, whole; what was under way is sent
-- again by the next process, with its commandId, and must be there once.
--
--   fault_launcher crash_commands.lua                        the test
--   lua5.4 crash_commands.lua writer URI NUMBER SEED [WRITER:NUMBER:COUNT:ID ...]

local tidelog = require "tidelog"

local TENANT = "tenant1"
local SECONDS = 60 -- a writer's longest life

-- ---- the domain: what an event holds follows from who sent its command, and which one ----

local function value(writer, number, index)
  return (writer * 1000003 + number * 7919 + index * 31) % 2147483647
end

local function filling(writer, number, index)
  return ("%d/%d/%d "):format(writer, number, index):rep(1 + (writer + number * 7 + index * 13) % 40)
end

local Batch = { name = "Batch", path = "/batches", snapshot = { every = 20 } }

function Batch:init() self.sum, self.count = 0, 0 end

Batch.commands = {
  Fill = function(_, context)
    local p = context.payload
    for i = 1, p.count do
      context:push("Filled", { writer = p.writer, number = p.number, index = i, count = p.count,
                               value = value(p.writer, p.number, i), text = filling(p.writer, p.number, i) })
    end
  end,
}

Batch.events = {
  Filled = function(self, event)
    self.sum, self.count = self.sum + event.payload.value, self.count + 1
  end,
}

local function commandIdOf(writer, number)
  return number % 2 == 0 and ("%d-%d"):format(writer, number) or nil
end

-- ---- the process that is killed ------------------------------------------------------

local function writer(uri, me, seed, ...)
  io.stdout:setvbuf "line"
  math.randomseed(seed)
  local actor = tidelog.Actor { id = "writer" .. me, tenant = TENANT, roles = {} }
  local store = tidelog.open(uri)
  local ch = tidelog.CommandHandler(store, { Batch })

  local function send(w, number, count, id)
    local context = ch:command(actor, "Fill", { aggregateId = id, commandId = commandIdOf(w, number),
                                                writer = w, number = number, count = count })
    local first = context.events[1]
    print("A", w, number, count, id, first.position, first.aggregateVersion, context.duplicate and 1 or 0)
    assert(#context.events == count)
    assert(context.aggregate.aggregateVersion >= first.aggregateVersion + count - 1)
  end

  for _, again in ipairs { ... } do
    local w, number, count, id = again:match "^(%d+):(%d+):(%d+):(.+)$"
    send(tonumber(w), tonumber(number), tonumber(count), id)
  end
  local ends, number = os.time() + SECONDS, 0
  while os.time() < ends do
    number = number + 1
    local id = math.random(2) == 1 and "shared" .. math.random(3) or ("own%d-%d"):format(me, math.random(5))
    local count = math.random(6)
    print("T", me, number, count, id)
    send(me, number, count, id)
    if math.random(60) == 1 then
      store:close()
      store = tidelog.open(uri)
      ch = tidelog.CommandHandler(store, { Batch })
    end
  end
end

if arg[1] == "writer" then return writer(arg[2], tonumber(arg[3]), tonumber(arg[4]), table.unpack(arg, 5)) end

-- ---- the test --------------------------------------------------------------------------

local fault = require "tests.fault.fault"

local KILLS = fault.count("TIDELOG_CRASH_KILLS", 50, 10)
local PER_STORE = 10

local kills, writers, resent, duplicates = 0, 0, 0, 0
local total = { acknowledged = 0, found = 0, events = 0, lost = 0, unacknowledged = 0 }

-- What the log holds: commits by "writer-number", and each aggregate's sum and count.
local function read(store)
  local commits, states, position = {}, {}, 0
  local open -- the commit whose events are being read
  for event in store:events(TENANT) do
    local p = event.payload
    local key = ("%d-%d"):format(p.writer, p.number)
    fault.expect(event.position == position, "position %d after %d", event.position, position - 1)
    position = event.position + 1
    local state = states[event.aggregateId] or { sum = 0, count = 0 }
    states[event.aggregateId] = state
    fault.expect(event.aggregateVersion == state.count, "%s has version %d after %d events",
      event.aggregateId, event.aggregateVersion, state.count)
    state.sum, state.count = state.sum + p.value, state.count + 1
    if p.index == 1 then
      fault.expect(not open, "half a commit before position %d", event.position)
      fault.expect(not commits[key], "the command %s is there twice", key)
      open = { position = event.position, version = event.aggregateVersion, id = event.aggregateId, count = p.count,
               index = 0, key = key }
      commits[key] = open
    end
    if fault.expect(open and open.key == key and open.index == p.index - 1 and open.id == event.aggregateId,
      "half a commit at position %d", event.position) then
      open.index = p.index
      if p.index == p.count then open = nil end
    end
    fault.expect(p.value == value(p.writer, p.number, p.index) and p.text == filling(p.writer, p.number, p.index),
      "other values at position %d", event.position)
  end
  fault.expect(not open, "half a commit at the end")
  return commits, states, position
end

local function check(uri, acks)
  local store = tidelog.open(uri)
  local ok, counts = pcall(store.check, store, TENANT)
  if not fault.expect(ok, "check: %s", counts) then return {} end
  local commits, states, events = read(store)
  fault.expect(counts.events == events, "the check counted %d events of %d", counts.events, events)
  local ch = tidelog.CommandHandler(store, { Batch }) -- by snapshots, where there are some
  for id, state in pairs(states) do
    local loaded = ch:load(TENANT, Batch, id)
    fault.expect(loaded.sum == state.sum and loaded.count == state.count, "%s is not what its events say", id)
  end
  store:close()
  local lost, said, found = 0, 0, 0
  for key, ack in pairs(acks) do
    local commit = commits[key]
    said = said + 1
    if not (commit and commit.position == ack.position and commit.version == ack.version
      and commit.count == ack.count and commit.id == ack.id) then
      lost = lost + 1
      fault.fail("the command %s at position %d is lost", key, ack.position)
    end
  end
  for _ in pairs(commits) do found = found + 1 end
  return { acknowledged = said, found = found, events = events, lost = lost, unacknowledged = found - said }
end

-- Notes what a writer said; returns the command that it had under way, if it may be resent.
local function listen(lines, acks)
  local under
  for _, line in ipairs(lines) do
    local kind, w, number, count, id, position, version, duplicate = line:match
      "^(%u)\t(%d+)\t(%d+)\t(%d+)\t([^\t]+)\t?(%d*)\t?(%d*)\t?(%d*)$"
    if not fault.expect(kind == "T" or kind == "A", "a writer said: %s", line) then return nil end
    if kind == "T" then
      under = commandIdOf(tonumber(w), tonumber(number)) and ("%s:%s:%s:%s"):format(w, number, count, id)
    else
      acks[w .. "-" .. number] = { position = tonumber(position), version = tonumber(version),
                                   count = tonumber(count), id = id }
      duplicates = duplicates + tonumber(duplicate)
      under = nil
    end
  end
  return under
end

while kills < KILLS and fault.failures == 0 do
  local uri = fault.place()
  local acks, again, counts = {}, {}, {}
  for _ = 1, PER_STORE // 2 do
    local running = {}
    for i = 1, 2 do
      writers = writers + 1
      -- Both resend all: the same command comes from two processes at once, too.
      local arguments = { "writer", uri, writers, math.random(1 << 40), table.unpack(again) }
      resent = resent + #again
      running[i] = fault.start(fault.lua("crash_commands.lua", arguments))
    end
    if math.random(4) > 1 then running[1]:fill(5000) end -- else perhaps before its first command
    for i = 1, 2 do
      fault.wait(math.random(i == 1 and 250 or 60), running)
      fault.expect(not running[i].child:wait(0), "a writer ended by itself")
      running[i]:kill()
      kills = kills + 1
    end
    local pending = again
    again = {}
    for _, reader in ipairs(running) do
      local under = listen(reader:drain(2000), acks)
      if under then again[#again + 1] = under end
      reader.child:close()
    end
    for _, command in ipairs(pending) do -- killed before it was sent again
      local w, number = command:match "^(%d+):(%d+):"
      if not acks[w .. "-" .. number] then again[#again + 1] = command end
    end
    counts = check(uri, acks)
    if fault.failures > 0 or kills >= KILLS then break end
  end
  for key in pairs(total) do total[key] = total[key] + (counts[key] or 0) end
  if fault.failures == 0 then fault.remove(uri) end
end
fault.expect(total.acknowledged > 0, "no command was acknowledged")
fault.finish("commands: %d kills, %d commits acknowledged, %d commits (%d events) found, commits lost = %d; "
  .. "%d were stored but not yet acknowledged; commands resent %d times, %d of them were known",
  kills, total.acknowledged, total.found, total.events, total.lost, total.unacknowledged, resent, duplicates)
