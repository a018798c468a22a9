-- Kills processes that write groups of commits at the store's level (store_log.c), at
-- random moments, and lets every commit be checked after each kill.
--
-- A kill shows what a crash of the process leaves. What a power cut leaves depends on what
-- was flushed before: crash_steps.lua looks at that.

local fault = require "tests.fault.fault"
local process = fault.process

local KILLS = fault.count("TIDELOG_CRASH_KILLS", 60, 12)
local PER_FOLDER = 10 -- then a new one, so that the first start is hit, too

local program = fault.programs .. "fault_store_log"
local kills, writers, checks = 0, 0, 0
local total = { commits = 0, events = 0, acknowledged = 0, lost = 0, unacknowledged = 0 }

local function writer(folder)
  writers = writers + 1
  return assert(fault.start { program, "write", folder, tostring(writers), tostring(math.random(1 << 40)) })
end

local function check(folder, acks)
  checks = checks + 1
  local reader = fault.start { program, "check", folder, acks }
  local lines = reader:drain(60000)
  reader:finish(1000, "the check")
  local c, e, said, found, lost, unsaid, wrong = (lines[#lines] or ""):match
    "^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$"
  for _, line in ipairs(lines) do
    if line:match "^wrong" then fault.fail("%s (%s)", line, folder) end
  end
  if not fault.expect(c, "the check printed no counts (%s)", folder) then return nil end
  fault.expect(lost == "0" and wrong == "0" and said == found,
    "%s commits acknowledged, %s found, %s lost, %s wrong (%s)", said, found, lost, wrong, folder)
  return { commits = tonumber(c), events = tonumber(e), acknowledged = tonumber(said), lost = tonumber(lost),
           unacknowledged = tonumber(unsaid) }
end

while kills < KILLS and fault.failures == 0 do
  local folder = fault.folder()
  local acks = folder .. "/acks"
  local file = assert(io.open(acks, "w"))
  local counts
  for _ = 1, PER_FOLDER // 2 do
    -- Two at once: one is killed in the middle of the other's work, too.
    local running = { writer(folder), writer(folder) }
    if math.random(4) > 1 then running[1]:fill(2000) end -- else perhaps before its first commit
    for i = 1, 2 do
      fault.wait(math.random(i == 1 and 200 or 60), running)
      fault.expect(not running[i].child:wait(0), "a writer ended by itself")
      running[i]:kill()
      kills = kills + 1
    end
    for _, reader in ipairs(running) do
      for _, line in ipairs(reader:drain(2000)) do file:write(line, "\n") end
      reader.child:close()
    end
    file:flush()
    counts = check(folder, acks) or counts
    if fault.failures > 0 or kills >= KILLS then break end
  end
  file:close()
  for key in pairs(total) do total[key] = total[key] + (counts and counts[key] or 0) end
  if fault.failures == 0 then fault.remove(folder) end
end
fault.expect(total.acknowledged > 0 and process.clock() > 0, "no commit was acknowledged")
fault.finish("store: %d kills, %d commits acknowledged, %d commits (%d events) found, commits lost = %d; "
  .. "%d were stored but not yet acknowledged; %d checks",
  kills, total.acknowledged, total.commits, total.events, total.lost, total.unacknowledged, checks)
