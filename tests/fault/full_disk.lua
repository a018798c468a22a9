-- A full disk under a CommandHandler that runs: by the size that this process's files may
-- have (RLIMIT_FSIZE, "File too large"), and, where a small file system may be mounted (as
-- root), for real. Commands fail with a StoreError that says so, everything acknowledged
-- stays, and with room again the same handles go on, with the right versions.
--
--   fault_launcher full_disk.lua                  the test
--   fault_launcher full_disk.lua inside FOLDER    on a small file system, mounted there

local fault = require "tests.fault.fault"
local tidelog = require "tidelog"
local Err = tidelog.Err
local process = fault.process

local TENANT = "tenant1"
local actor = tidelog.Actor { id = "user1", tenant = TENANT, roles = {} }

local Note = { name = "Note", path = "/notes", snapshot = { every = 5 } }
function Note:init() self.count, self.sum = 0, 0 end
Note.commands = {
  Write = function(_, context)
    for i = 1, context.payload.count do
      context:push("Written", { amount = context.payload.amount * i, text = context.payload.text })
    end
  end,
}
Note.events = {
  Written = function(self, event)
    self.count, self.sum = self.count + 1, self.sum + event.payload.amount
  end,
}

-- A handler whose name is also its thread's.
local function counter(name)
  local handler = { name = name }
  function handler.see(self)
    local document = self.db:doc("/counts/" .. name)
    document:set { count = (document:get() or { count = 0 }).count + 1 }
  end
  handler.events = { Written = handler.see }
  return handler
end

local function pollAll(reader, store, name, events)
  local more, failures
  repeat
    more, failures = reader:poll(TENANT, name, { counter(name) }, { limit = 1000 })
  until not more
  local count = store:documents(TENANT):doc("/counts/" .. name):get().count
  fault.expect(#failures == 0 and count == events, "the handler %s counted %d of %d events", name, count, events)
end

local total = { rounds = 0, acknowledged = 0, refused = 0, unknown = 0, stored = 0, lost = 0,
                closes = 0 }
local messages = {}

-- A refusal must be a StoreError that names the reason.
local function refusal(problem, what)
  if not fault.expect(Err.is(problem, "StoreError"), "%s: %s", what, tostring(problem)) then return false end
  local kind = problem.message:gsub("^.*%.db", "*.db"):gsub("^.*/data ", "* ")
  messages[kind] = (messages[kind] or 0) + 1
  local clear = kind:match "disk is full" or kind:match "File too large" or kind:match "No space left"
  fault.expect(clear, "%s: the message does not tell why: %s", what, problem.message)
  return true
end

-- One life of a folder: some commands, then without room, then with room again. `limit` and
-- `lift` take and give it.
local function exercise(folder, limit, lift, options)
  total.rounds = total.rounds + 1
  local store = tidelog.open("sqlite:" .. folder)
  local ch = tidelog.CommandHandler(store, { Note })
  local reader = tidelog.StreamReader(store)
  local states, number, pending = {}, 0, {}

  local function say(id, count, size)
    number = number + 1
    local payload = { aggregateId = id, count = count, amount = number, text = ("x"):rep(size),
                      commandId = "c" .. number }
    local ok, result = pcall(ch.command, ch, actor, "Write", payload)
    local state = states[id] or { count = 0, sum = 0 }
    states[id] = state
    if ok then
      total.acknowledged = total.acknowledged + 1
      local a = result.aggregate
      fault.expect(not result.duplicate, "a new command was known")
      fault.expect(a.count == state.count + count and a.aggregateVersion == a.count - 1,
        "%s is at version %d with %d events after %d and %d more", id, a.aggregateVersion, a.count, state.count,
        count)
      state.count, state.sum = state.count + count, state.sum + count * (count + 1) // 2 * number
      fault.expect(a.sum == state.sum, "%s has the sum %s, not %s", id, a.sum, state.sum)
      return true
    end
    if refusal(result, "a command") then
      -- Nothing of it is in the handler's cache.
      local loaded, known = pcall(ch.load, ch, TENANT, Note, id)
      fault.expect(loaded and known.count == state.count and known.sum == state.sum
        or loaded and result.message:match "not known" and known.count == state.count + count
        or not loaded and Err.is(known, "StoreError"),
        "after a failed commit %s is loaded as %s, and %d events were acknowledged", id,
        loaded and known.count or tostring(known), state.count)
      total.refused = total.refused + 1
      local unknown = result.message:match "not known" and true or false
      if unknown then total.unknown = total.unknown + 1 end
      pending[#pending + 1] = { id = id, count = count, number = number, unknown = unknown, payload = payload }
    end
    return false
  end

  local function anyId() return "n" .. math.random(3) end
  for _ = 1, options.before do say(anyId(), math.random(3), math.random(2000)) end

  limit()
  local refused = 0
  for _ = 1, 300 do
    local size = math.random(5) == 1 and math.random(60000) or math.random(3000)
    if not say(anyId(), math.random(3), size) then refused = refused + 1 end
    if refused >= 6 then break end
  end
  if refused > 0 then -- the rest of the surface
    local ok, problem = pcall(function()
      store:documents(TENANT):doc("/large"):set { text = ("y"):rep(100000) }
    end)
    if not ok then refusal(problem, "a document") end
    ok, problem = pcall(reader.poll, reader, TENANT, "during", { counter "during" })
    if not ok then refusal(problem, "a poll") end
    ok, problem = pcall(ch.command, ch, tidelog.Actor { id = "user1", tenant = "another", roles = {} }, "Write",
      { aggregateId = "n1", count = 1, amount = 1, text = ("z"):rep(200000) })
    if not ok then refusal(problem, "a new tenant") end
    -- Reading goes on, or says what is the matter.
    local events = 0
    ok, problem = pcall(function() for _ in store:events(TENANT) do events = events + 1 end end)
    if not ok then
      fault.expect(Err.is(problem, "StoreError"), "reading on a full disk: %s", tostring(problem))
    elseif total.unknown == 0 then
      local sum = 0
      for _, state in pairs(states) do sum = sum + state.count end
      fault.expect(events == sum, "on a full disk %d events of %d are read", events, sum)
    end
  end
  if options.close then -- what the log has cannot be folded in
    store:close()
    total.closes = total.closes + 1
  end
  lift()
  if options.close then
    store = tidelog.open("sqlite:" .. folder)
    ch = tidelog.CommandHandler(store, { Note })
    reader = tidelog.StreamReader(store)
  end
  fault.expect(not options.mustFail or refused > 0, "nothing was refused")

  -- What failed is not there, unless it was said that it might be; sent again, it is there once.
  for _, p in ipairs(pending) do
    local ok, context = pcall(ch.command, ch, actor, "Write", p.payload)
    if fault.expect(ok, "with room again: %s", context) then
      local state = states[p.id]
      fault.expect(p.unknown or not context.duplicate, "a command that failed was stored")
      if context.duplicate then total.stored = total.stored + 1 end
      state.count = state.count + p.count
      state.sum = state.sum + p.count * (p.count + 1) // 2 * p.number
      if not p.unknown then
        fault.expect(context.aggregate.aggregateVersion == state.count - 1 and context.aggregate.sum == state.sum,
          "%s is at version %d after a failed commit, not %d", p.id, context.aggregate.aggregateVersion,
          state.count - 1)
      end
    end
  end
  for id in pairs(states) do say(id, 1, 10) end
  local before = fault.failures
  local ok, problem = pcall(function()
    local checked = store:check(TENANT)
    local seen, sum = {}, 0
    for event in store:events(TENANT) do
      local s = seen[event.aggregateId] or { count = 0, sum = 0 }
      seen[event.aggregateId] = s
      s.count, s.sum, sum = s.count + 1, s.sum + event.payload.amount, sum + 1
    end
    for id, state in pairs(states) do
      local s = seen[id] or { count = 0, sum = 0 }
      fault.expect(s.count == state.count and s.sum == state.sum, "%s has %d events, not %d", id, s.count, state.count)
      total.lost = total.lost + math.max(0, state.count - s.count)
      local loaded = ch:load(TENANT, Note, id)
      fault.expect(loaded.count == state.count and loaded.sum == state.sum, "%s is loaded wrong", id)
      loaded = tidelog.CommandHandler(store, { Note }):load(TENANT, Note, id)
      fault.expect(loaded.count == state.count and loaded.sum == state.sum, "%s is loaded wrong by another", id)
    end
    fault.expect(checked.events == sum, "the check counts %d of %d events", checked.events, sum)
    pollAll(reader, store, "after", sum)
    -- The reader is the same: the lease of a poll that failed is its own.
    if not options.close then pollAll(reader, store, "during", sum) end
    local other = ch:command(tidelog.Actor { id = "user1", tenant = "another", roles = {} }, "Write",
      { aggregateId = "n2", count = 1, amount = 1, text = "" })
    fault.expect(other.aggregate.count == 1, "another tenant")
    store:check "another"
  end)
  fault.expect(ok, "with room again: %s", problem)
  store:close()
  return fault.failures == before
end

local function finish(label)
  for message, count in pairs(messages) do print(("  %d × %s"):format(count, message)) end
  fault.finish("%s: %d rounds, %d commits acknowledged, %d refused (%d of them perhaps stored: %d were), "
    .. "events lost = %d; closed without room %d times", label, total.rounds, total.acknowledged, total.refused,
    total.unknown, total.stored, total.lost, total.closes)
end

-- ---- on a small file system -----------------------------------------------------------------

if arg[1] == "inside" then
  local parent, ballast = arg[2], arg[2] .. "/ballast"
  for round = 1, fault.quick and 3 or 8 do
    if fault.failures > 0 then break end
    local folder = parent .. "/data"
    local function fill() -- leaves some room, in pages
      local file = assert(io.open(ballast, "wb"))
      file:setvbuf "no"
      local pages = 0
      while file:write(("b"):rep(4096)) do pages = pages + 1 end
      file:close()
      local left = math.random(0, round % 2 == 0 and 8 or 60)
      fault.shell("truncate -s %d '%s'", math.max(0, pages - left) * 4096, ballast)
    end
    exercise(folder, fill, function() os.remove(ballast) end, { before = 20, close = round % 3 == 0, mustFail = true })
    fault.shell("rm -rf '%s'", folder)
  end
  finish "small file system"
end

-- ---- by a limit ------------------------------------------------------------------------------

local function sizes(folder)
  local largest = 0
  for _, name in ipairs { "tenant1.db", "tenant1.db-wal", "tenant1.db-shm" } do
    local file = io.open(folder .. "/" .. name, "rb")
    if file then
      largest = math.max(largest, file:seek "end")
      file:close()
    end
  end
  return largest
end

for round = 1, fault.quick and 8 or 32 do
  if fault.failures > 0 then break end
  local folder = fault.folder()
  local data = folder .. "/data"
  local large = round % 4 == 3 -- a large database with a small log: folding it in fails
  if large then
    local store = tidelog.open("sqlite:" .. data)
    local ch = tidelog.CommandHandler(store, { Note })
    for n = 1, 12 do
      ch:command(actor, "Write", { aggregateId = "large", count = 1, amount = n, text = ("l"):rep(100000) })
    end
    store:close()
  end
  exercise(data, function()
    if large then
      process.fileSize(math.random(200000, 900000))
    elseif round % 4 == 0 then
      process.fileSize(math.random(0, 8192)) -- not even a page
    else
      process.fileSize(sizes(data) + math.random(0, 300000))
    end
  end, function() process.fileSize() end, { before = round % 5 == 0 and 0 or 20, close = round % 2 == 1,
                                            mustFail = true })
  if fault.failures == 0 then fault.remove(folder) end
end

-- ---- for real --------------------------------------------------------------------------------

local function onSmallFileSystem()
  if not process.isRoot() then
    print "NOT RUN AS ROOT: the part on a small file system is left out"
    return
  end
  local folder = fault.folder()
  local script = ("mount -t tmpfs -o size=2m none '%s' || exit 99; exec \"$0\" \"$1\" inside '%s'")
    :format(folder, folder)
  local inside = fault.start { "unshare", "-m", "sh", "-c", script, fault.programs .. "fault_launcher",
                               fault.scripts .. "full_disk.lua" }
  local lines = inside:drain(60000)
  local how, status = inside.child:wait(1000)
  if how == "exit" and (status == 99 or status == 127 or status == 1 and #lines == 0) then
    print "MOUNTING IS NOT PERMITTED: the part on a small file system is left out"
    return
  end
  for _, line in ipairs(lines) do print("  | " .. line) end
  fault.expect(how == "exit" and status == 0, "on the small file system: %s %s", tostring(how), tostring(status))
end

if fault.failures == 0 then onSmallFileSystem() end
finish "full disk"
