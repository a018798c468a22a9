-- Failover and rollback of a replica set of three nodes, for a real `mongod` on the PATH (with_server
-- --nodes 3), while three engine processes write: the primary steps down in the middle of groups;
-- it is cut off, killed or stopped, with commits that no other node has, which are rolled back when
-- it returns; and each node is restarted, one after the other. What was acknowledged is there, once,
-- whichever node is the primary.

local fault = require "tests.fault.fault"
local workers = require "tests.mongodb.workers"

local ROUNDS = fault.count("TIDELOG_FAILOVER_ROUNDS", 2, 1)
local TENANTS = 2
local PATIENCE = 60000 -- ms; an election takes some seconds
local PRIMARY, SECONDARY = 1, 2

local hosts = {}
for host in workers.uri:match("//([^/]+)/"):gsub("^.*@", ""):gmatch "[^,]+" do hosts[#hosts + 1] = host end
if #hosts ~= 3 then fault.skip "this needs a replica set of three nodes: with_server --nodes 3" end

-- Who waits for a stopped node is to notice it soon.
local uri = workers.place "failover" .. "&connectTimeoutMS=2000&socketTimeoutMS=3000"
local running, rollbacks, stepDowns, restarts = {}, 0, 0, 0

-- One command to a node, not to whoever is the primary; what it replies, "" where it does not.
local function command(node, json)
  local line = "'%smongodb_worker' command 'mongodb://%s/?directConnection=true&connectTimeoutMS=2000"
    .. "&socketTimeoutMS=20000&serverSelectionTimeoutMS=3000' admin '%s' 2>/dev/null"
  local pipe = assert(io.popen(line:format(fault.programs, hosts[node + 1], json)))
  local reply = pipe:read "a"
  pipe:close()
  return reply
end

-- A whole number of it; nil where it is not there.
local function number(reply, field)
  return math.tointeger(tonumber((reply:match('"' .. field .. '"%s*:%s*(%d+)'))))
end

local function stateOf(node) return number(command(node, '{"replSetGetStatus": 1}'), "myState") end

-- Calls `try` until it gives something, while the workers go on.
local function patiently(what, try)
  local deadline = fault.process.clock() + PATIENCE
  while true do
    local found = try()
    if found or fault.process.clock() > deadline then
      fault.expect(found, "%s", what)
      return found
    end
    workers.listen(100, running)
  end
end

-- The primary and the two others, once all are well.
local function roles()
  local primary, others
  patiently("the set is not well again", function()
    primary, others = nil, {}
    for node = 0, 2 do
      local state = stateOf(node)
      if state == PRIMARY then primary = node end
      if state == SECONDARY then others[#others + 1] = node end
    end
    return primary and #others == 2
  end)
  if fault.failures > 0 then fault.finish "the set: it failed" end
  return primary, others
end

local function rollbackId(node) return number(command(node, '{"replSetGetRBID": 1}'), "rbid") end

local function progress() workers.progress(running, 10, PATIENCE) end

-- Between two groups, or in the middle of one.
local function stepDown()
  local primary = roles()
  workers.listen(math.random(0, 300), running)
  command(primary, '{"replSetStepDown": 10, "secondaryCatchUpPeriodSecs": 5, "force": true}')
  if roles() ~= primary then stepDowns = stepDowns + 1 end
end

-- Lets the nodes fetch nothing from the primary. (Stopped processes would find what the primary
-- has sent meanwhile in their sockets.)
local function fetching(nodes, on)
  for _, node in ipairs(nodes) do
    local reply = command(node, ('{"configureFailPoint": "stopReplProducer", "mode": "%s"}'):format(
      on and "off" or "alwaysOn"))
    fault.expect(number(reply, "ok") == 1, "stopReplProducer: %s", reply)
  end
end

-- The primary goes on alone, so that it has what nobody else has; then it is away, another one is
-- elected, and it comes back and rolls back.
local function cutOff(away, back)
  local primary, others = roles()
  local before = rollbackId(primary)
  fetching(others, false)
  workers.listen(500 + math.random(0, 500), running)
  workers.control(away .. " " .. primary)
  fetching(others, true)
  progress()
  workers.control(back .. " " .. primary)
  patiently("the node that was away rolls nothing back", function()
    local now = rollbackId(primary)
    return now and now > before
  end)
  rollbacks = rollbacks + 1
  progress()
end

local function restartAll()
  for node = 0, 2 do
    roles()
    workers.control("stop " .. node)
    workers.listen(math.random(0, 500), running)
    workers.control("start " .. node)
    restarts = restarts + 1
    progress()
  end
end

for i, patience in ipairs { 60000, 60000, 300 } do running[i] = workers.start(uri, TENANTS, 0, patience) end
progress()
for _ = 1, ROUNDS do
  stepDown()
  progress()
  cutOff("kill", "start")
  cutOff("pause", "resume")
end
restartAll()
for _, worker in ipairs(running) do worker:send() end -- its input ends
workers.finish(running, PATIENCE)

-- The same whichever node is asked for it: in the end all three have one log.
local found = workers.check(uri, TENANTS)
stepDown()
local again = workers.check(uri, TENANTS)
fault.expect(again.events == found.events, "%d events on one primary, %d on another", found.events, again.events)
fault.expect(found.unsaid == 0, "%d commits that their writers do not know of", found.unsaid)
fault.expect(found.commits == found.said + found.givenUpFound, "%d commits, %d of them said, %d given up",
  found.commits, found.said, found.givenUpFound)
fault.expect(stepDowns > 0, "no primary stepped down")
fault.finish("the set: %d step-downs, %d rollbacks, %d restarts; %d commits acknowledged, commits lost = %d, "
  .. "doubled = 0; %d errors, of %d commits that they left open %d are there, once; %d events without a gap",
  stepDowns, rollbacks, restarts, found.said, found.lost, workers.errors, found.givenUp, found.givenUpFound,
  found.events)
