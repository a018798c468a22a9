-- Kills the server at random moments, and starts it again, while three engine processes
-- write. They go on by themselves: what they were told is there, once; what ended in an error
-- that leaves it open is there once or not at all. One of them is hasty, and sees such errors.

local fault = require "tests.fault.fault"
local workers = require "tests.mongodb.workers"

local KILLS = fault.count("TIDELOG_CRASH_KILLS", 10, 3)
local TENANTS = 2
local PATIENCE = 60000 -- ms

local uri, running, kills = workers.place "crash", {}, 0
for i, patience in ipairs { 30000, 30000, 300 } do running[i] = workers.start(uri, TENANTS, 0, patience) end
workers.progress(running, 10, PATIENCE)
while kills < KILLS and fault.failures == 0 do
  workers.listen(math.random(0, 500), running)
  if not workers.control "kill" then break end
  kills = kills + 1
  workers.listen(math.random(0, 800), running)
  if not workers.control "start" then break end
  workers.progress(running, 10, PATIENCE)
end
for _, worker in ipairs(running) do worker:send() end -- its input ends
workers.finish(running, PATIENCE)

local found = workers.check(uri, TENANTS)
fault.expect(found.unsaid == 0, "%d commits that their writers do not know of", found.unsaid)
fault.expect(found.commits == found.said + found.givenUpFound, "%d commits, %d of them said, %d given up",
  found.commits, found.said, found.givenUpFound)
fault.finish("the server: %d kills; %d commits acknowledged, commits lost = %d, doubled = 0; %d errors, of %d commits "
  .. "that they left open %d are there, once; %d events without a gap; %d proposals, %d behind another's",
  kills, found.said, found.lost, workers.errors, found.givenUp, found.givenUpFound, found.events,
  workers.proposals, workers.reproposals)
