-- Runs a process system call by system call (ptrace, so Linux only):
--   1. it is killed before each call that changes a file, from its very first start to the
--      close that folds the log in: afterwards the store is whole, and usable;
--   2. before it says that a commit is done, what it wrote to the log was flushed: no write
--      comes between the last fdatasync and the acknowledgement. So a power cut loses none.
--
--   fault_launcher crash_steps.lua                 the test
--   lua5.4 crash_steps.lua write FOLDER COMMITS

local tidelog = require "tidelog"

local TENANT = "tenant1"
local Adder = require "aggregates.adder"
local actor = tidelog.Actor { id = "user1", tenant = TENANT, roles = {} }

local function write(folder, commits)
  io.stdout:setvbuf "line"
  print "begin"
  local store = tidelog.open("sqlite:" .. folder)
  local ch = tidelog.CommandHandler(store, { Adder })
  for n = 1, commits do
    ch:command(actor, "AddNumbers", { aggregateId = "a" .. n % 2, number1 = n, number2 = 0 })
    print("done", n - 1)
  end
  print "closing"
  store:close()
  print "end"
end

if arg[1] == "write" then return write(arg[2], tonumber(arg[3])) end

local fault = require "tests.fault.fault"

local SYSTEM_CALLS = { write = true, pwrite = true, ftruncate = true, fsync = true, unlink = true, mkdir = true,
                       fallocate = true, open = true, fcntl = true }
-- Locks and opening: between two of them nothing in a file changes.
local CHANGES = { write = true, pwrite = true, ftruncate = true, fsync = true, unlink = true, mkdir = true,
                  fallocate = true }
local COMMITS = 3

local function start(folder, commits)
  local writer, why = fault.start(fault.lua("crash_steps.lua", { "write", folder, commits }, { traced = true }))
  if not writer then fault.skip("system calls cannot be traced: " .. why) end
  return writer
end

do -- not every kernel tells what is called
  local parent <const> = fault.folder()
  local writer = start(parent .. "/data", 1)
  local ok, problem = pcall(writer.child.step, writer.child)
  if not ok then fault.skip("system calls cannot be traced: " .. tostring(problem)) end
  writer:kill()
  fault.remove(parent)
end

-- ---- 2 first: it shows that tracing works --------------------------------------------------

-- The shared memory's file is made anew after a power cut.
local function isSharedMemory(writer, file)
  local pipe = io.popen(("readlink /proc/%d/fd/%d"):format(writer.child:pid(), file))
  local path = pipe and pipe:read "l" or ""
  if pipe then pipe:close() end
  return path:sub(-4) == "-shm"
end

-- Every pwrite before an acknowledgement must have been followed by an fsync of its file.
local function checkFlushes(commits)
  local parent = fault.folder()
  local writer = start(parent .. "/data", commits)
  local dirty, acknowledged, flushes, began = {}, 0, 0, false
  local previous -- calls between two acknowledgements
  while true do
    local name, file, status = writer.child:step()
    if not name then
      fault.expect(file == "exit" and status == 0, "the traced writer ended with %s %s", file, status)
      break
    end
    assert(SYSTEM_CALLS[name])
    if name == "write" and file == 1 then
      if began then
        local files = {}
        for f in pairs(dirty) do
          if not isSharedMemory(writer, f) then files[#files + 1] = f end
        end
        if acknowledged < commits and #files > 0 then
          fault.fail("acknowledgement %d came with unflushed writes to the files %s (calls: %s)", acknowledged,
            table.concat(files, ", "), table.concat(previous, " "))
        end
        acknowledged = acknowledged + 1
      end
      began, dirty, previous = true, {}, {}
    elseif began then
      previous[#previous + 1] = ("%s(%d)"):format(name, file)
      if name == "pwrite" then dirty[file] = true end
      if name == "fsync" then
        dirty[file] = nil
        flushes = flushes + 1
      end
    end
  end
  local lines = writer:drain(1000)
  fault.expect(lines[#lines] == "end", "the traced writer did not come to its end: %s", tostring(lines[#lines]))
  return math.min(acknowledged, commits), flushes
end

local acknowledged, flushes = checkFlushes(10)
fault.expect(acknowledged == 10, "%d of 10 acknowledgements were seen", acknowledged)
fault.expect(flushes >= 10, "%d flushes for 10 commits", flushes)

-- ---- 1: killed before each call --------------------------------------------------------------

local kills, checked, unborn, lost = 0, 0, 0, 0
local where = {}
local step = 0
while fault.failures == 0 do
  step = step + 1
  local parent = fault.folder()
  local folder = parent .. "/data"
  local writer = start(folder, COMMITS)
  local name, began, left = nil, false, step
  repeat
    local file
    name, file = writer.child:step()
    if name == "write" and file == 1 then began = true end
    -- Under a sanitizer what it writes elsewhere is its own.
    if name and began and CHANGES[name] then left = left - 1 end
  until not name or left == 0
  local finished = not name
  if not finished then
    writer:kill()
    kills = kills + 1
    where[name] = (where[name] or 0) + 1
  end
  local last = -1
  for _, line in ipairs(writer:drain(1000)) do
    last = math.tointeger(tonumber(line:match "^done\t(%d+)$")) or last
  end
  writer.child:close()
  local ok, problem = pcall(function()
    local store = tidelog.open("sqlite:" .. folder)
    local head = store:head(TENANT)
    if head == 0 then unborn = unborn + 1 end
    if head < last + 1 then
      lost = lost + last + 1 - head
      fault.fail("killed before the call %d (%s): %d commits acknowledged, %d found", step, name, last + 1, head)
    end
    fault.expect(head <= last + 2, "killed before the call %d: %d commits acknowledged, %d found", step, last + 1, head)
    if head > 0 then store:check(TENANT) end
    local ch = tidelog.CommandHandler(store, { Adder })
    local context = ch:command(actor, "AddNumbers", { aggregateId = "a0", number1 = 1, number2 = 0 })
    fault.expect(context.events[1].position == head, "the next commit has position %d", context.events[1].position)
    fault.expect(store:check(TENANT).events == head + 1, "the check counts other events")
    store:close()
    checked = checked + 1
  end)
  fault.expect(ok, "killed before the call %d (%s): %s", step, name, problem)
  if fault.failures == 0 then fault.remove(parent) end
  if finished then break end
  if fault.quick then step = step + 2 end
end

local calls = {}
for name, count in pairs(where) do calls[#calls + 1] = ("%d %s"):format(count, name) end
table.sort(calls)
fault.finish("steps: killed before each of %d calls (%s), %d stores whole and usable afterwards, commits lost = %d, "
  .. "%d times nothing had been written yet; %d acknowledgements, each after a flush (%d flushes)",
  kills, table.concat(calls, ", "), checked, lost, unborn, acknowledged, flushes)
