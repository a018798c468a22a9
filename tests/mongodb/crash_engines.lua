-- Kills engine processes at random moments, while others write to the same tenants. What was
-- acknowledged is there; of a group that was under way its beginning, or nothing; no gap ever
-- stops the others.

local fault = require "tests.fault.fault"
local workers = require "tests.mongodb.workers"

local KILLS = fault.count("TIDELOG_CRASH_KILLS", 30, 6)
local TENANTS = 2
local PATIENCE = 60000 -- ms

local uri, kills = workers.place "engines", 0
local steady = { workers.start(uri, TENANTS, 0) }
workers.progress(steady, 1, PATIENCE)
while kills < KILLS and fault.failures == 0 do
  local running = { steady[1], workers.start(uri, TENANTS, 0), workers.start(uri, TENANTS, 0) }
  if math.random(4) > 1 then workers.progress(running, 1, PATIENCE) end -- else before its first, perhaps
  for i = 2, 3 do
    workers.listen(math.random(0, 150), running)
    fault.expect(not running[i].child:wait(0), "worker %d ended by itself", running[i].number)
    workers.kill(running[i])
    kills = kills + 1
  end
  workers.progress(steady, 10, PATIENCE)
end
steady[1]:send()
workers.finish(steady, PATIENCE)

local found = workers.check(uri, TENANTS)
fault.expect(workers.errors == 0, "%d errors", workers.errors)
fault.finish("engines: %d kills; %d commits acknowledged, commits lost = %d, doubled = 0; %d were there, but not yet "
  .. "acknowledged; %d events without a gap", kills, found.said, found.lost, found.unsaid, found.events)
