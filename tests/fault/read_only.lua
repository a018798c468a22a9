-- A store's folder and files that a user may not write, or not even read: reading works or
-- fails clearly, writing is a StoreError, nothing crashes or changes.
--
-- Root may do everything: started as root, the calls are made by a child that is not.
--
--   fault_launcher read_only.lua                     the test
--   fault_launcher read_only.lua use FOLDER          every call, as an unprivileged user

local tidelog = require "tidelog"
local Adder = require "aggregates.adder"
local EventCounter = require "handlers.event_counter"
local Err = tidelog.Err

local TENANT = "tenant1"
local COMMITS = 20
local actor = tidelog.Actor { id = "user1", tenant = TENANT, roles = {} }

-- ---- the child: says what became of each call ------------------------------------------------

-- Each line: the call, "read" or "write", "ok", "StoreError" or another name, and the result.
local function use(folder)
  io.stdout:setvbuf "line"
  local function try(name, kind, fn)
    local ok, result = pcall(fn)
    if ok then
      print(name, kind, "ok", tostring(result))
    elseif Err.is(result) then
      print(name, kind, result.name, result.message)
    else
      print(name, kind, "NOT OURS", (tostring(result):gsub("%s+", " ")))
    end
    return ok and result or nil
  end
  local store = try("open", "open", function() return tidelog.open("sqlite:" .. folder) end)
  if not store then return end
  local ch = tidelog.CommandHandler(store, { Adder })
  local reader = tidelog.StreamReader(store)
  for _ = 1, 2 do
    try("tenants", "list", function() return table.concat(store:tenants(), ",") end)
    try("head", "read", function() return store:head(TENANT) end)
    try("events", "read", function()
      local count = 0
      for event in store:events(TENANT) do
        assert(event.position == count and (count >= COMMITS or event.payload.number2 == count))
        count = count + 1
      end
      return count
    end)
    try("load", "read", function()
      local count = 0
      for i = 0, 2 do count = count + ch:load(TENANT, Adder, "a" .. i).aggregateVersion + 1 end
      return count
    end)
    try("check", "read", function() return store:check(TENANT).events end)
    try("document", "read", function()
      return (store:documents(TENANT):doc("/counters/counter1"):get() or { eventCount = 0 }).eventCount
    end)
    try("command", "write", function()
      return ch:command(actor, "AddNumbers", { aggregateId = "a0", number1 = 1, number2 = 1 }).aggregate.sum
    end)
    try("new tenant", "write", function()
      local other = tidelog.Actor { id = "user1", tenant = "another", roles = {} }
      return ch:command(other, "AddNumbers", { aggregateId = "a0", number1 = 1, number2 = 1 }).aggregate.sum
    end)
    try("set", "write", function() store:documents(TENANT):doc("/d"):set { a = 1 } end)
    try("delete", "write", function() store:documents(TENANT):doc("/counters/counter1"):delete() end)
    try("poll", "write", function() return (reader:poll(TENANT, "another", { EventCounter })) end)
  end
  store:close()
  print "end"
end

if arg[1] == "use" then return use(arg[2]) end

-- ---- the test ------------------------------------------------------------------------------

local fault = require "tests.fault.fault"

if fault.process.isRoot() then
  print "run as root: the calls are made by a child as the user 65534"
else
  print "NOT RUN AS ROOT: the calls are made as this user, on files that are the same user's"
end

local counts = { cases = 0, calls = 0, reads = 0, readsRefused = 0, refused = 0, crashes = 0 }
local messages = {}

local function write(store)
  local ch = tidelog.CommandHandler(store, { Adder })
  for n = 0, COMMITS - 1 do
    ch:command(actor, "AddNumbers", { aggregateId = "a" .. n % 3, number1 = 1, number2 = n })
  end
  local reader = tidelog.StreamReader(store)
  while reader:poll(TENANT, "thread1", { EventCounter }, { limit = 100 }) do end
end

-- A store, closed properly or (log = true) as a killed process leaves it, with its log; or
-- (log = "only") without the log's index.
local function make(log)
  local parent = fault.folder()
  fault.shell("chmod 755 '%s'", parent)
  local folder = parent .. "/data"
  local store = tidelog.open("sqlite:" .. folder)
  write(store)
  if log then
    fault.shell("cp -r '%s' '%s/copy'", folder, parent)
    store:close()
    fault.shell("rm -rf '%s' && mv '%s/copy' '%s'", folder, parent, folder)
    if log == "only" then os.remove(folder .. "/tenant1.db-shm") end
  else
    store:close()
  end
  return parent, folder
end

local NEW_TENANT = { ["new tenant"] = true }

-- Options: log; owned: the unprivileged user's; writes: the calls of "write" that need not be
-- refused, true: none may be; writable: events may come in; reads: must reading work, or
-- fail; empty: there is no tenant; then what is done to the folder.
local function case(name, options)
  if not options.owned and not fault.process.isRoot() then
    print("  LEFT OUT, NOT ROOT: " .. name)
    return
  end
  counts.cases = counts.cases + 1
  local failures = fault.failures
  local parent, folder = make(options.log)
  if options.owned and fault.process.isRoot() then fault.shell("chown -R 65534:65534 '%s'", parent) end
  for _, command in ipairs(options) do fault.shell("cd '%s' && " .. command, folder) end
  local before = fault.readFile(folder .. "/tenant1.db")
  local target = options.target and parent .. "/" .. options.target or folder
  local child = fault.start { fault.programs .. "fault_launcher", fault.scripts .. "read_only.lua", "use",
                              target, unprivileged = true,
                              env = { "ASAN_OPTIONS=" .. (os.getenv "ASAN_OPTIONS" or "") .. ":detect_leaks=0" } }
  local lines = child:drain(60000)
  local how, status = child:finish(5000, name)
  if how == "signal" or status ~= 0 then counts.crashes = counts.crashes + 1 end
  local wrote, reads, refusedReads, refused, opened = 0, 0, 0, 0, false
  for _, line in ipairs(lines) do
    local call, kind, outcome, result = line:match "^([^\t]+)\t(%l+)\t([^\t]+)\t(.*)$"
    if call then
      counts.calls = counts.calls + 1
      fault.expect(outcome == "ok" or outcome == "StoreError", "%s: %s: %s %s", name, call, outcome, result)
      if call == "open" then opened = outcome == "ok" end
      if outcome ~= "ok" then
        local message = result:gsub(parent:gsub("%p", "%%%0"), "")
        fault.expect(not message:match "No such file", "%s: %s is refused by what is not the reason: %s", name, call,
          message)
        messages[message] = messages[message] or name .. ": " .. call
      end
      if kind == "read" and outcome == "ok" then
        reads = reads + 1
        local expected = options.empty and "^0$" or options.writable and "^[12]?%d$" or "^20$"
        fault.expect(result:match(expected), "%s: %s gives %s", name, call, result)
      elseif kind == "read" then
        refusedReads = refusedReads + 1
        fault.expect(not result:match "be written", "%s: %s, which only reads: %s", name, call, result)
      elseif kind == "write" and outcome == "ok" then
        wrote = wrote + 1
        fault.expect(options.writes == true or options.writes and options.writes[call], "%s: %s was not refused (%s)",
          name, call, result)
      elseif kind == "write" then
        refused = refused + 1
        fault.expect(options.writes ~= true, "%s: %s was refused: %s", name, call, result)
      end
    elseif line ~= "end" then
      fault.fail("%s: the child said: %s", name, line)
    end
  end
  if options.reads == true then fault.expect(reads > 0 and refusedReads == 0, "%s: reading was refused", name) end
  if options.reads == false then fault.expect(reads == 0, "%s: reading was possible", name) end
  if opened then fault.expect(lines[#lines] == "end", "%s: the child did not come to its end", name) end
  counts.reads, counts.readsRefused = counts.reads + reads, counts.readsRefused + refusedReads
  counts.refused = counts.refused + refused
  print(("  %-66s %s; %2d reads, %2d refused; %2d writes, %2d refused"):format(name, opened and "opens" or "is refused",
    reads, refusedReads, wrote, refused))

  -- As the owner again: nothing is lost.
  fault.shell("chmod -R u+rwX '%s'", parent)
  if not options.writable then
    fault.expect(fault.readFile(folder .. "/tenant1.db") == before or options.mayFold, "%s: the file has changed", name)
  end
  local ok, problem = pcall(function()
    local store = tidelog.open("sqlite:" .. folder)
    local events = store:check(TENANT).events
    if not options.empty then
      fault.expect(events == COMMITS or options.writable and events > COMMITS, "%s: %d events afterwards", name, events)
    end
    store:close()
  end)
  fault.expect(ok, "%s: afterwards: %s", name, problem)
  if fault.failures == failures then fault.remove(parent) end
end

case("all may be written (to compare)", { owned = true, writable = true, writes = true, reads = true })
case("folder and file read-only", { owned = true, "chmod 444 *", "chmod 555 ." })
case("folder and file another's", { "chmod 644 *", "chmod 755 ." })
case("folder and file another's, with a log", { log = true, "chmod 644 *", "chmod 755 ." })
case("folder and files read-only, with a log", { log = true, owned = true, "chmod 444 *", "chmod 555 ." })
case("folder and files read-only, with a log without its index",
  { log = "only", owned = true, "chmod 444 *", "chmod 555 ." })
case("only the file read-only", { owned = true, writes = NEW_TENANT, "chmod 444 *" })
case("only the file read-only, with a log",
  { log = true, owned = true, writes = NEW_TENANT, "chmod 444 *" })
case("only the database read-only, with a log that may be written",
  { log = true, owned = true, writes = NEW_TENANT, mayFold = true, "chmod 444 tenant1.db" })
case("only the folder read-only", { owned = true, "chmod 555 ." })
case("only the folder read-only, with a log", { log = true, owned = true, writable = true,
  writes = { command = true, set = true, delete = true, poll = true }, "chmod 555 ." })
case("the file may not be read", { owned = true, reads = false, writes = NEW_TENANT, "chmod 000 *" })
case("the log may not be read", { log = true, owned = true, reads = false, writes = NEW_TENANT,
  "chmod 000 *-wal" })
case("the log's index may not be read", { log = true, owned = true, writes = NEW_TENANT,
  "chmod 000 *-shm" })
case("the folder may not be entered", { owned = true, reads = false, "chmod 000 ." })
case("the folder may not be listed", { owned = true, writable = true, writes = true, reads = true,
  "chmod 300 ." })
case("an empty read-only folder", { owned = true, empty = true, reads = true,
  writes = { delete = true, poll = true }, "rm -f *", "chmod 555 ." })
case("a new folder in a read-only one", { owned = true, empty = true, reads = false, target = "data/new",
  "chmod 555 ." })

for message, call in pairs(messages) do print(("  (%s) %s"):format(call, message)) end
fault.finish("read-only: %d cases, %d calls; %d reads gave everything, %d were refused; %d writes refused; %d crashes",
  counts.cases, counts.calls, counts.reads, counts.readsRefused, counts.refused, counts.crashes)
