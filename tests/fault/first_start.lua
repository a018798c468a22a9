-- Many processes create the same new tenant at once, and are killed at random. The file
-- must always be usable afterwards, with every commit that was acknowledged.
--
--   fault_launcher first_start.lua                the test
--   lua5.4 first_start.lua write FOLDER NUMBER

local tidelog = require "tidelog"

local TENANT = "tenant1"
local Adder = require "aggregates.adder"

local function write(folder, me)
  io.stdout:setvbuf "line"
  local actor = tidelog.Actor { id = "writer" .. me, tenant = TENANT, roles = {} }
  local ch = tidelog.CommandHandler(tidelog.open("sqlite:" .. folder), { Adder })
  print "ready"
  io.read "l" -- all begin at once
  for n = 1, 5 do
    local context = ch:command(actor, "AddNumbers", { aggregateId = "a" .. me, number1 = me, number2 = n })
    print(context.events[1].position, "a" .. me, n - 1)
  end
end

if arg[1] == "write" then return write(arg[2], tonumber(arg[3])) end

local fault = require "tests.fault.fault"

local ROUNDS = fault.quick and 5 or 30
local WRITERS = 4
local LONGEST = 40 -- ms until the last one is killed

local kills, ended, acknowledged, lost, events, unborn = 0, 0, 0, 0, 0, 0
local actor = tidelog.Actor { id = "after", tenant = TENANT, roles = {} }

for round = 1, ROUNDS do
  if fault.failures > 0 then break end
  local parent = fault.folder()
  local folder = parent .. "/data" -- that, too, is made by whoever is first
  local running, order = {}, {}
  for i = 1, WRITERS do
    running[i] = fault.start(fault.lua("first_start.lua", { "write", folder, i }))
    order[i] = running[i]
  end
  for _, writer in ipairs(running) do
    fault.expect(writer:line(10000) == "ready", "a writer could not open the store")
  end
  for _, writer in ipairs(running) do writer:send "go\n" end
  for i = WRITERS, 2, -1 do
    local j = math.random(i)
    order[i], order[j] = order[j], order[i]
  end
  for _, writer in ipairs(order) do
    -- Mostly in the first milliseconds.
    fault.process.sleep(math.floor(math.random() ^ 3 * LONGEST / 2))
    local how, status = writer.child:wait(0)
    if how then
      ended = ended + 1
      fault.expect(how == "exit" and status == 0, "a writer ended with %s %d in round %d", how, status, round)
    else
      writer:kill()
      kills = kills + 1
    end
  end
  local acks = {}
  for _, writer in ipairs(running) do
    for _, line in ipairs(writer:drain(1000)) do acks[#acks + 1] = line end
    writer.child:close()
  end
  acknowledged = acknowledged + #acks
  local ok, problem = pcall(function()
    local store = tidelog.open("sqlite:" .. folder)
    if store:head(TENANT) == 0 then unborn = unborn + 1 end
    local found = {}
    for event in store:events(TENANT) do
      found[("%d\t%s\t%d"):format(event.position, event.aggregateId, event.aggregateVersion)] = true
    end
    for _, line in ipairs(acks) do
      if not found[line] then
        lost = lost + 1
        fault.fail("lost: %s", line)
      end
    end
    local ch = tidelog.CommandHandler(store, { Adder })
    local context = ch:command(actor, "AddNumbers", { aggregateId = "new", number1 = 1, number2 = 2 })
    fault.expect(context.aggregate.sum == 3, "a wrong sum after the kills")
    ch:command(actor, "AddNumbers", { aggregateId = "a1", number1 = 1, number2 = 2 })
    events = events + store:check(TENANT).events
    fault.expect(#store:tenants() == 1, "%d tenants", #store:tenants())
    store:close()
  end)
  fault.expect(ok, "after the kills in round %d: %s", round, problem)
  if fault.failures == 0 then fault.remove(parent) end
end
fault.finish("first start: %d rounds of %d processes, %d kills (%d were done before), %d commits acknowledged, "
  .. "%d events found, commits lost = %d; %d times nothing had been written yet",
  ROUNDS, WRITERS, kills, ended, acknowledged, events, lost, unborn)
