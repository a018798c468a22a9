-- Copies of a good store are damaged at random: bits, bytes, pages, lengths, in the database,
-- its log and the log's index. Every call then gives a result or one of our errors; nothing
-- crashes or hangs; and where the check finds nothing wrong, nothing is wrong.
--
--   fault_launcher damage.lua                  the test
--   lua5.4 damage.lua use FOLDER               every call, on a damaged store

local tidelog = require "tidelog"
local Err = tidelog.Err

local TENANT = "tenant1"
local actor = tidelog.Actor { id = "user1", tenant = TENANT, roles = {} }

-- The domain takes whatever it gets: what fails is to be the store.
local Note = { name = "Note", path = "/notes", snapshot = { every = 6 } }
function Note:init() self.count, self.text = 0, "" end
Note.commands = {
  Write = function(_, context)
    for i = 1, context.payload.count do context:push("Written", { text = context.payload.text .. i, index = i }) end
  end,
}
Note.events = {
  Written = function(self, event)
    self.count = (tonumber(self.count) or 0) + 1
    self.text = (tostring(self.text) .. tostring(event.payload.text)):sub(-200)
  end,
}

local Counter = { name = "Counter" }
Counter.events = {
  Written = function(self, _, event)
    local document = self.db:doc("/notes/" .. event.aggregateId)
    document:set { count = (tonumber((document:get() or {}).count) or 0) + 1 }
  end,
}

local AGGREGATES = { "n1", "n2", "n3", "n4" }

local function inOneLine(value)
  if type(value) ~= "table" then return tostring(value) end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for i, key in ipairs(keys) do keys[i] = tostring(key) .. "=" .. inOneLine(value[key]) end
  return "{" .. table.concat(keys, ",") .. "}"
end

local function history(store, filter)
  local lines = {}
  for event in store:events(TENANT, filter) do
    lines[#lines + 1] = ("%d %s %s %d %s %s %s %s"):format(event.position, event.name, event.aggregateId,
      event.aggregateVersion, event.time, tostring(event.commandId), inOneLine(event.payload), inOneLine(event.actor))
  end
  return lines
end

local function states(ch, at)
  local lines = {}
  for i, id in ipairs(AGGREGATES) do
    local ok, state = pcall(ch.load, ch, TENANT, Note, id, at)
    if not ok and not Err.is(state, "StoreError") then error(state) end
    lines[i] = ok and ("%s %s %s %s"):format(id, state.aggregateVersion, tostring(state.count), tostring(state.text))
      or id .. " refused"
  end
  return lines
end

-- ---- the child: says what became of each call ------------------------------------------------

local function quote(text) return (text:gsub("[%c\\]", function(c) return ("\\%03d"):format(c:byte()) end)) end

local function use(folder)
  io.stdout:setvbuf "full"
  local function try(name, fn)
    local ok, result = pcall(fn)
    if ok then
      print(name, "ok", type(result) == "table" and quote(table.concat(result, "\n")) or quote(tostring(result)))
      return result
    end
    print(name, Err.is(result) and result.name or "NOT OURS", quote(tostring(result)))
    io.stdout:flush() -- what was reached, should it crash
  end
  local store = try("open", function() return tidelog.open("sqlite:" .. folder, { busyTimeout = 2000 }) end)
  if not store then return end
  local ch = tidelog.CommandHandler(store, { Note })
  try("check", function() return store:check(TENANT).events end)
  try("tenants", function() return store:tenants() end)
  try("head", function() return store:head(TENANT) end)
  try("events", function() return history(store) end)
  try("backwards", function() return history(store, { backwards = true, limit = 10 }) end)
  try("by aggregate", function() return history(store, { aggregateType = "Note", aggregateId = "n1" }) end)
  try("states", function() return states(ch) end)
  for _, at in ipairs { { version = 3 }, { position = 20 }, { time = "2026-01-01T00:00:00Z" } } do
    try("load at " .. next(at), function()
      return ch:load(TENANT, Note, "n2", at).count
    end)
  end
  try("documents", function()
    local lines = {}
    for i, document in ipairs(store:documents(TENANT):list()) do
      lines[i] = document.path .. " " .. inOneLine(document:get())
    end
    return lines
  end)
  local reader = tidelog.StreamReader(store)
  try("poll", function() return (reader:poll(TENANT, "thread1", { Counter }, { limit = 100 })) end)
  try("poll anew", function() return (reader:poll(TENANT, "thread2", { Counter }, { limit = 100 })) end)
  for _, id in ipairs { "n1", "n2", "new" } do
    try("command on " .. id, function()
      return ch:command(actor, "Write", { aggregateId = id, count = 2, text = "later" }).aggregate.count
    end)
  end
  try("known command", function()
    return ch:command(actor, "Write", { aggregateId = "n1", commandId = "c4", count = 2, text = "text" }).duplicate
  end)
  try("check after", function() return store:check(TENANT).events end)
  store:close()
  try("reopened", function()
    local again <close> = tidelog.open("sqlite:" .. folder, { busyTimeout = 2000 })
    return again:head(TENANT)
  end)
  print "end"
end

if arg[1] == "use" then return use(arg[2]) end

-- ---- the good stores ---------------------------------------------------------------------------

local fault = require "tests.fault.fault"

local DAMAGES = fault.count("TIDELOG_FAULT_DAMAGES", 300, 40)
local AT_ONCE = 2
local HANGS = 20000 -- ms

local parent = fault.folder()
local folders = { closed = parent .. "/closed", open = parent .. "/open" }

-- `closed` is one file; `open` has most of its events in the log.
do
  local function write(ch, from, to)
    for n = from, to do
      ch:command(actor, "Write", { aggregateId = AGGREGATES[n % 4 + 1], commandId = n % 4 == 0 and "c" .. n or nil,
                                   count = 1 + n % 3, text = ("text %d "):format(n):rep(1 + n * 7 % 60) })
    end
  end
  local store = tidelog.open("sqlite:" .. folders.closed)
  write(tidelog.CommandHandler(store, { Note }), 1, 30)
  local reader = tidelog.StreamReader(store)
  while reader:poll(TENANT, "thread1", { Counter }, { limit = 25 }) do end
  store:close()
  store = tidelog.open("sqlite:" .. folders.closed)
  fault.shell("mkdir '%s/building' && cp '%s'/* '%s/building/'", parent, folders.closed, parent)
  local more = tidelog.open("sqlite:" .. parent .. "/building")
  write(tidelog.CommandHandler(more, { Note }), 31, 70)
  fault.shell("cp -r '%s/building' '%s'", parent, folders.open)
  more:close()
  write(tidelog.CommandHandler(store, { Note }), 31, 70)
  store:close()
end

local good = {}
for name, folder in pairs(folders) do
  local copy = parent .. "/" .. name .. "-good"
  fault.shell("cp -r '%s' '%s'", folder, copy)
  local store = tidelog.open("sqlite:" .. copy)
  store:check(TENANT)
  local ch = tidelog.CommandHandler(store, { Note })
  good[name] = { history = history(store), states = states(ch), files = {} }
  store:close()
  for _, file in ipairs { "tenant1.db", "tenant1.db-wal", "tenant1.db-shm" } do
    good[name].files[file] = fault.readFile(folder .. "/" .. file)
  end
end
fault.expect(#good.open.history > 100 and #(good.open.files["tenant1.db-wal"] or "") > 50000,
  "there is no log to damage")
fault.expect(good.closed.files["tenant1.db"]:find "\16count\0....\2text\0", "there is no snapshot to damage")

-- ---- damaging ------------------------------------------------------------------------------------

local PAGE = 4096

local function replace(bytes, at, new) -- at: from 0
  return bytes:sub(1, at) .. new .. bytes:sub(at + #new + 1)
end

local function garbage(count)
  local list = {}
  for i = 1, count do list[i] = string.char(math.random(0, 255)) end
  return table.concat(list)
end

local function flip(bytes, at)
  return replace(bytes, at, string.char(bytes:byte(at + 1) ~ 1 << math.random(0, 7)))
end

local function anyPage(bytes) return math.random(0, math.max(0, #bytes // PAGE - 1)) * PAGE end

-- Each gives the damaged bytes.
local kinds = {
  { "a bit", function(bytes) return flip(bytes, math.random(0, #bytes - 1)) end },
  { "16 bits", function(bytes)
    for _ = 1, 16 do bytes = flip(bytes, math.random(0, #bytes - 1)) end
    return bytes
  end },
  { "a bit of the header", function(bytes) return flip(bytes, math.random(0, math.min(100, #bytes) - 1)) end },
  { "bits in the head of a page", function(bytes)
    local page = anyPage(bytes)
    for _ = 1, math.random(3) do
      local at = page + math.random(0, 60)
      if at < #bytes then bytes = flip(bytes, at) end
    end
    return bytes
  end },
  { "a run of garbage", function(bytes)
    local at = math.random(0, #bytes - 1)
    return replace(bytes, at, garbage(math.min(math.random(300), #bytes - at)))
  end },
  { "a page of zeros", function(bytes) return replace(bytes, anyPage(bytes), ("\0"):rep(math.min(PAGE, #bytes))) end },
  { "a page twice", function(bytes)
    local from = anyPage(bytes)
    return replace(bytes, anyPage(bytes), bytes:sub(from + 1, math.min(from + PAGE, #bytes)))
  end },
  { "cut off", function(bytes) return bytes:sub(1, math.random(0, #bytes - 1)) end },
  { "cut off at a page", function(bytes) return bytes:sub(1, anyPage(bytes)) end },
  { "longer", function(bytes) return bytes .. garbage(math.random(2 * PAGE)) end },
}

-- A wrong snapshot would be a wrong state, on which commands are decided. It has its own
-- kind: chance seldom meets the few bytes that matter.
local SNAPSHOT = { "a bit of a snapshot", function(bytes, number)
  local found = {}
  for at in bytes:gmatch "\16count\0()....\2text\0" do found[#found + 1] = at - 1 end
  return #found > 0 and flip(bytes, found[number % #found + 1]) or bytes
end }
local SNAPSHOTS = 10

-- Targets with how often: the closed database, and each file of the open one.
local targets = {
  { "closed", "tenant1.db", 5 }, { "open", "tenant1.db", 2 }, { "open", "tenant1.db-wal", 3 },
  { "open", "tenant1.db-shm", 1 },
}
local choices = {}
for _, target in ipairs(targets) do
  for _ = 1, target[3] do choices[#choices + 1] = target end
end

-- ---- the runs --------------------------------------------------------------------------------------

local counts = { damages = 0, calls = 0, results = 0, errors = 0, crashes = 0, hangs = 0, clean = 0, cut = 0, seen = 0,
                 refused = 0 }
local errorNames, wrongStates = {}, 0

local function unquote(text) return (text:gsub("\\(%d%d%d)", function(d) return string.char(tonumber(d)) end)) end

local function split(text)
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  return lines
end

-- How many of the first lines are the same, and whether that is all of `lines`.
local function isStartOf(lines, whole)
  for i, line in ipairs(lines) do
    if line ~= whole[i] then return false end
  end
  return true
end

local function judge(run)
  local lines = run.reader:drain(0)
  local failures = fault.failures
  local results = {}
  for _, line in ipairs(lines) do
    local call, outcome, result = line:match "^([^\t]+)\t([^\t]+)\t(.*)$"
    if call then
      counts.calls = counts.calls + 1
      results[call] = outcome == "ok" and unquote(result) or nil
      if outcome == "ok" then
        counts.results = counts.results + 1
      else
        counts.errors = counts.errors + 1
        errorNames[outcome] = (errorNames[outcome] or 0) + 1
        fault.expect(outcome ~= "NOT OURS", "%s: %s: %s", run.what, call, result)
      end
    end
  end
  if run.how == "exit" and run.status == 0 then
    fault.expect(lines[#lines] == "end" or not results.open, "%s: the child did not come to its end", run.what)
  else
    counts.crashes = counts.crashes + 1
    fault.fail("%s: ended with %s %s after: %s", run.what, run.how, run.status, tostring(lines[#lines]))
  end
  local whole = good[run.store]
  if results.check and not results.events then
    fault.fail("%s: the check is clean, but the events cannot be read", run.what)
  elseif results.check then
    -- A log that is cut off is what a crash leaves, too: SQLite goes back to its last commit.
    local events = split(results.events)
    if #events == #whole.history then
      counts.clean = counts.clean + 1
    elseif run.store == "open" or #events == 0 then
      counts.cut = counts.cut + 1
    else
      fault.fail("%s: the check is clean, but there are %d of %d events", run.what, #events, #whole.history)
    end
    fault.expect(isStartOf(events, whole.history), "%s: the check is clean, but an event is another", run.what)
    fault.expect(tonumber(results.check) == #events, "%s: the check counted %s of %d events", run.what, results.check,
      #events)
    if #events == #whole.history and results.states and not isStartOf(split(results.states), whole.states) then
      wrongStates = wrongStates + 1
      fault.fail("%s: the check is clean, but a state is another: %s", run.what, quote(results.states))
    end
  else
    counts.seen = counts.seen + 1
  end
  if fault.failures == failures then fault.remove(run.folder) else print("  kept: " .. run.folder) end
end

local function start(number)
  local target, kind = choices[math.random(#choices)], kinds[math.random(#kinds)]
  if number <= SNAPSHOTS then target, kind = targets[1], SNAPSHOT end
  local store, file = target[1], target[2]
  local folder = ("%s/%d"):format(parent, number)
  fault.shell("cp -r '%s' '%s'", folders[store], folder)
  -- Without its index the log is read from its start; with it, as the index says.
  if store == "open" and file ~= "tenant1.db-shm" and math.random(2) == 1 then
    os.remove(folder .. "/tenant1.db-shm")
  end
  fault.writeFile(folder .. "/" .. file, kind[2](good[store].files[file], number))
  counts.damages = counts.damages + 1
  return { folder = folder, store = store, began = fault.process.clock(),
           what = ("damage %d, %s in %s of %s"):format(number, kind[1], file, store),
           reader = fault.start(fault.lua("damage.lua", { "use", folder })) }
end

local running, number = {}, 0
while (number < DAMAGES and fault.failures < 10) or #running > 0 do
  while #running < AT_ONCE and number < DAMAGES and fault.failures < 10 do
    number = number + 1
    running[#running + 1] = start(number)
  end
  for i = #running, 1, -1 do
    local run = running[i]
    run.reader:fill(5)
    run.how, run.status = run.reader.child:wait(0)
    if not run.how and fault.process.clock() - run.began > HANGS then
      counts.hangs = counts.hangs + 1
      fault.fail("%s: hangs after: %s", run.what, tostring(run.reader.lines[#run.reader.lines]))
      run.reader:kill()
      run.reader.child:close()
      table.remove(running, i)
    elseif run.how then
      while run.reader:fill(100) do end
      run.reader.ended = true
      judge(run)
      run.reader.child:close()
      table.remove(running, i)
    end
  end
end

local names = {}
for name, count in pairs(errorNames) do names[#names + 1] = ("%d %s"):format(count, name) end
fault.finish("damage: %d damages, %d calls: %d results, %d errors (%s); %d crashes, %d hangs; the check told of %d, "
  .. "%d times nothing was lost, %d times the end of the log; %d wrong states", counts.damages, counts.calls,
  counts.results, counts.errors, table.concat(names, ", "), counts.crashes, counts.hangs, counts.seen, counts.clean,
  counts.cut, wrongStates)
