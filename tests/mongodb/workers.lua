-- What the scripts of this folder share: the processes of worker.c, all that they say, the
-- check of what they left, and the server that is killed and started.

local fault = require "tests.fault.fault"

local workers = {
  uri = os.getenv "TIDELOG_MONGODB_URI" or fault.skip "this runs beneath tests/mongodb/with_server",
  patience = 10000, -- ms that an engine goes on trying: the store's default
  conflicts = 0, proposals = 0, reproposals = 0, errors = 0, most = 0, sum = 0,
  said = {}, -- all lines
}

local program = fault.programs .. "mongodb_worker"
local here = (os.getenv "TIDELOG_SOURCE" or ".") .. "/tests/mongodb/"
local count = 0

--- The URI of databases of one's own.
function workers.place(name) return workers.uri .. "&tidelogPrefix=" .. name .. "-" end

--- Starts one; it has a number that none had before.
function workers.start(uri, tenants, commits, patience)
  count = count + 1
  local worker = fault.start { program, "write", uri, tostring(count), tostring(math.random(1 << 40)),
                               tostring(tenants), tostring(commits), tostring(patience or workers.patience) }
  worker.number, worker.commits = count, 0 -- said by it
  return worker
end

--- Takes what workers have said until now, and waits up to `ms` for more.
function workers.listen(ms, running)
  fault.wait(ms, running)
  for _, worker in ipairs(running) do
    for _, line in ipairs(worker.lines) do
      workers.said[#workers.said + 1] = line
      if line:match "^A" then worker.commits = worker.commits + 1 end
      local sum, conflicts, most, proposals, reproposals, errors, ms2 =
        line:match "^D %d+ %d+ (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$"
      if sum then
        workers.sum = workers.sum + sum
        workers.conflicts = workers.conflicts + conflicts
        workers.most = math.max(workers.most, math.tointeger(most))
        workers.proposals = workers.proposals + proposals
        workers.reproposals = workers.reproposals + reproposals
        workers.errors = workers.errors + errors
        worker.elapsed = math.tointeger(ms2)
      end
    end
    worker.lines = {}
  end
end

--- Waits until each of them has written `more` commits; fails where one does not.
function workers.progress(running, more, ms)
  local deadline, before = fault.process.clock() + ms, {}
  for i, worker in ipairs(running) do before[i] = worker.commits end
  while true do
    workers.listen(5, running)
    local behind
    for i, worker in ipairs(running) do
      if worker.commits < before[i] + more then behind = worker end
    end
    if not behind then return end
    if behind.ended or fault.process.clock() > deadline then
      fault.fail("worker %d %s", behind.number, behind.ended and "ended by itself" or "does not go on")
      return
    end
  end
end

--- Waits until each has come to its end by itself.
function workers.finish(running, ms)
  local deadline = fault.process.clock() + ms
  repeat
    workers.listen(20, running)
    local ended = true
    for _, worker in ipairs(running) do ended = ended and worker.ended end
  until ended or fault.process.clock() > deadline
  for _, worker in ipairs(running) do
    worker:finish(1000, "worker " .. worker.number)
    fault.expect(worker.elapsed, "worker %d did not say that it is done", worker.number)
    worker.child:close()
  end
end

--- Kills one, and takes its last words.
function workers.kill(worker)
  worker:kill()
  for _, line in ipairs(worker:drain(1000)) do workers.said[#workers.said + 1] = line end
end

--- Proves, by a process of its own, that what they said is there, and nothing else.
function workers.check(uri, tenants)
  local folder = fault.folder()
  fault.writeFile(folder .. "/said", table.concat(workers.said, "\n") .. "\n")
  local checker = fault.start { program, "check", uri, tostring(tenants), folder .. "/said" }
  local lines = checker:drain(60000)
  checker:finish(1000, "the checker")
  local last = table.remove(lines) or ""
  for _, line in ipairs(lines) do fault.fail("%s", line) end
  local found = {}
  found.commits, found.events, found.said, found.lost, found.unsaid, found.givenUp, found.givenUpFound, found.sum,
    found.wrong = last:match "^checked (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$"
  if not fault.expect(found.wrong, "the checker said: %s", last) then fault.finish "no check" end
  for key, value in pairs(found) do found[key] = math.tointeger(value) end
  fault.expect(found.lost == 0 and found.wrong == 0, "%d acknowledged commits are lost, %d things are wrong",
    found.lost, found.wrong)
  fault.expect(found.said > 0, "nothing was acknowledged")
  return found
end

--- Says a line to the server's runner: "kill", "start", "pause 1", ...
function workers.control(line)
  local ok = fault.shell("'%scontrol' '%s' >&2", here, line)
  return fault.expect(ok, "control %s failed", line)
end

--- Nothing that was counted before counts.
function workers.forget()
  workers.conflicts, workers.proposals, workers.reproposals = 0, 0, 0
  workers.errors, workers.most, workers.sum, workers.said = 0, 0, 0, {}
end

return workers
