-- Failover and rollback of a replica set of three nodes, for a real `mongod` on the PATH (with_server
-- --nodes 3), while three engine processes write: the primary steps down in the middle of groups,
-- is killed, and is cut off with commits that no other node has, which are rolled back when it
-- returns. What was acknowledged is there, once, whichever node is the primary.

local fault = require "tests.fault.fault"
local workers = require "tests.mongodb.workers"

local ROUNDS = fault.count("TIDELOG_FAILOVER_ROUNDS", 3, 1)
local TENANTS = 2
local PATIENCE = 90000 -- ms; an election takes some ten seconds

local uri, running = workers.place "failover", {}
local hosts = {}
for host in uri:match("//([^/]+)/"):gsub("^.*@", ""):gmatch "[^,]+" do hosts[#hosts + 1] = host end
if #hosts ~= 3 then fault.skip "this needs a replica set of three nodes: with_server --nodes 3" end

-- One command to the set's primary; what it replies.
local function command(json)
  local pipe = assert(io.popen(("'%smongodb_worker' command '%s' admin '%s' 2>&1"):format(fault.programs, uri, json)))
  local reply = pipe:read "a"
  pipe:close()
  return reply
end

-- The number of the primary, once there is one.
local function primary()
  local deadline = fault.process.clock() + PATIENCE
  repeat
    local name = command('{"hello": 1}'):match '"primary"%s*:%s*"([^"]+)"'
    for number, host in ipairs(hosts) do
      if host == name then return number - 1 end
    end
    workers.listen(200, running)
  until fault.process.clock() > deadline
  fault.fail "the set has no primary"
  return 0
end

local function others(number)
  local list = {}
  for i = 0, 2 do
    if i ~= number then list[#list + 1] = i end
  end
  return list
end

for i, patience in ipairs { 60000, 60000, 300 } do running[i] = workers.start(uri, TENANTS, 0, patience) end
workers.progress(running, 10, PATIENCE)

for _ = 1, ROUNDS do
  -- it steps down between two commits of a group, or in the middle of one
  command '{"replSetStepDown": 10, "force": true}'
  workers.progress(running, 10, PATIENCE)

  -- it is killed
  local number = primary()
  workers.listen(math.random(0, 300), running)
  workers.control("kill " .. number)
  workers.progress(running, 10, PATIENCE)
  workers.control("start " .. number)

  -- it is cut off with what nobody else has, dies, and comes back to another primary
  number = primary()
  for _, other in ipairs(others(number)) do workers.control("pause " .. other) end
  workers.listen(500 + math.random(0, 500), running)
  workers.control("kill " .. number)
  for _, other in ipairs(others(number)) do workers.control("resume " .. other) end
  workers.progress(running, 10, PATIENCE)
  workers.control("start " .. number)
  workers.progress(running, 10, PATIENCE)
end
for _, worker in ipairs(running) do worker:send() end -- its input ends
workers.finish(running, PATIENCE)

local found = workers.check(uri, TENANTS)
fault.expect(found.unsaid == 0, "%d commits that their writers do not know of", found.unsaid)
fault.expect(found.commits == found.said + found.givenUpFound, "%d commits, %d of them said, %d given up",
  found.commits, found.said, found.givenUpFound)
fault.finish("the set: %d rounds; %d commits acknowledged, commits lost = %d, doubled = 0; %d errors, of %d commits "
  .. "that they left open %d are there, once; %d events without a gap", ROUNDS, found.said, found.lost, workers.errors,
  found.givenUp, found.givenUpFound, found.events)
