-- Four engine processes write at once, to one tenant and to sixteen: aggregates that are
-- everybody's and some that are one's own. Each comes to the end of its share; the log has
-- each commit once, in one order without a gap.

local fault = require "tests.fault.fault"
local workers = require "tests.mongodb.workers"

local PROCESSES = 4
local COMMITS = fault.count("TIDELOG_FAULT_COMMANDS", 250, 80) -- of each
local PATIENCE = 90000 -- ms

local function round(tenants)
  local uri, running, times, slowest, fastest = workers.place("p" .. tenants), {}, {}, 0, math.maxinteger
  workers.forget()
  for i = 1, PROCESSES do running[i] = workers.start(uri, tenants, COMMITS) end
  workers.finish(running, PATIENCE)
  for i, worker in ipairs(running) do
    times[i] = ("%.2f s"):format((worker.elapsed or 0) / 1000)
    slowest, fastest = math.max(slowest, worker.elapsed or 0), math.min(fastest, worker.elapsed or 0)
  end
  local found = workers.check(uri, tenants)
  local all = PROCESSES * COMMITS
  fault.expect(found.commits == all and found.said == all, "%d commits are there and %d were said, not %d",
    found.commits, found.said, all)
  fault.expect(found.sum == workers.sum, "their sum is %d, not %d", found.sum, workers.sum)
  fault.expect(workers.errors == 0, "%d errors", workers.errors)
  print(("%d processes, %d tenants: %d commits, %d events; %.0f commits/s; %d proposals, %d of them behind "
    .. "another's (%.2f per commit); %d conflicts of versions, at most %d attempts of one commit; %s (slowest to "
    .. "fastest %.2f)"):format(PROCESSES, tenants, found.commits, found.events, all * 1000 / slowest,
    workers.proposals, workers.reproposals, workers.reproposals / found.commits, workers.conflicts, workers.most,
    table.concat(times, ", "), slowest / math.max(1, fastest)))
  return found.commits
end

local commits = round(1) + round(16)
fault.finish("processes: %d commits, each there once", commits)
