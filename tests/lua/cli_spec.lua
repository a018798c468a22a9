assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

-- The tidelog command as a user has it: started in a folder of its own, with arguments
-- and an environment; judged by what it prints, on which stream, and its exit status.

local engine = require "tidelog.engine"
local stores = require "tests.lua.support.stores"

local COMMANDS = { "command", "events", "show", "status", "check", "copy", "mongodb", "run" }

local function shell(script)
  local pipe = assert(io.popen(script))
  local output = pipe:read "a"
  local _, _, status = pipe:close()
  return output, status
end

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

describe("tidelog", function()
  local source = shell("pwd"):gsub("\n$", "")
  local folder

  local function write(path, text) stores.write(folder .. "/" .. path, text) end

  local function exists(path)
    local file = io.open(folder .. "/" .. path)
    return file ~= nil and file:close()
  end

  -- Runs a line of the shell in the test's folder; `tidelog` in it is the command.
  local function line(script)
    local output, status = shell(("cd %s && { %s\n} 2>err"):format(quote(folder), script))
    local file = assert(io.open(folder .. "/err"))
    local errors = file:read "a"
    file:close()
    return output, status, errors
  end

  local function run(...)
    local words = { "tidelog" }
    for i, word in ipairs { ... } do words[i + 1] = quote(word) end
    return line(table.concat(words, " "))
  end

  -- It must succeed, and print nothing but its output.
  local function output(...)
    local printed, status, errors = run(...)
    assert.equal("", errors)
    assert.equal(0, status)
    return printed
  end

  -- What is printed as JSON, one value a line.
  local function json(...)
    local values = {}
    for text in output("--json", ...):gmatch "[^\n]+" do values[#values + 1] = engine.fromJson(text) end
    return values[1], values
  end

  -- It must fail with this status, and one line on stderr that has `message` in it.
  local function fails(status, message, ...)
    local printed, got, errors = run(...)
    assert.equal("", printed)
    assert.is_truthy(errors:match "^tidelog: [^\n]+\n$", "not one line: " .. errors)
    assert.is_truthy(errors:find(message, 1, true), errors)
    assert.equal(status, got, errors)
  end

  local function press(digit)
    return output("command", "PressDigit", "aggregateId=c1", "digit=" .. digit)
  end

  before_each(function()
    folder = shell("mktemp -d"):gsub("\n$", "")
    assert(os.execute(("ln -s %s %s"):format(quote(source .. "/aggregates"), quote(folder .. "/aggregates"))))
  end)
  after_each(function() os.execute("rm -rf " .. quote(folder)) end)

  describe("explains itself", function()
    it("with --help, for itself and each command", function()
      local help = output "--help"
      assert.equal(help, output "-h")
      for _, name in ipairs(COMMANDS) do
        assert.is_truthy(help:find("\n   " .. name .. "  ", 1, true), name)
        local own = output(name, "--help")
        assert.is_truthy(own:find("Usage: tidelog " .. name, 1, true), own)
        assert.is_nil(own:find(("[^\n]"):rep(101)), "a line is too long for a terminal")
      end
    end)

    it("with the options and variables of its man page", function()
      local help = output "--help"
      for _, name in ipairs { "store", "tenant", "actor", "role", "domain", "json" } do
        assert.is_truthy(help:find("--" .. name, 1, true), name)
        assert.is_truthy(help:find("TIDELOG_" .. name:upper(), 1, true), name)
      end
      local file = assert(io.open(source .. "/man/tidelog.1"))
      local page = file:read("a"):gsub("\\%-", "-")
      file:close()
      local all = help
      for _, name in ipairs(COMMANDS) do all = all .. output(name, "--help") end
      for _, action in ipairs { "setup", "close-hole" } do all = all .. output("mongodb", action, "--help") end
      local function has(text, where, option)
        assert.is_truthy(text:find(option, 1, true), option .. " is not in " .. where)
      end
      for option in all:gmatch "%-%-%l+" do has(page, "the man page", option) end
      for option in page:gmatch "%-%-%l+" do has(all, "the help", option) end
    end)

    it("without the password of the store's URI", function()
      local uri = "mongodb://user:open-sesame@127.0.0.1:1/?tidelogPrefix=shop-"
      local all = ""
      for _, words in ipairs { "--help", "mongodb setup --print", "check", "status", "copy $TIDELOG_STORE memory:" } do
        local printed, _, errors = line(("TIDELOG_STORE='%s' tidelog %s"):format(uri, words))
        all = all .. printed .. errors
      end
      assert.is_truthy(all:find("127.0.0.1:1", 1, true), all)
      assert.is_nil(all:find("sesame", 1, true), all)
    end)

    it("how to set up MongoDB, for the tenant and its database, without connecting", function()
      local script = output("--store", "mongodb://nobody.invalid/?tidelogPrefix=shop-", "--tenant", "t1", "mongodb",
        "setup", "--print")
      for _, text in ipairs { 'getSiblingDB("shop-t1")', "{ type: 1, id: 1, version: 1 }", "unique: true",
                              "{ type: 1, id: 1, commandId: 1 }", "createRole", "createUser", "accessLists", "backup",
                              "primaryShard" } do
        assert.is_truthy(script:find(text, 1, true), text)
      end
      assert.is_truthy(output("--store", "mongodb://h/", "--tenant", "admin", "mongodb", "setup", "--print")
        :find('getSiblingDB("~admin")', 1, true))
    end)

    it("with --version", function()
      assert.equal("tidelog " .. engine.version .. "\n", output "--version")
    end)
  end)

  describe("refuses wrong usage with status 2", function()
    local cases = {
      { "a command is required (see tidelog --help)" },
      { "unknown command 'evnets'", "evnets" },
      { "unknown option '--foo' (see tidelog events --help)", "events", "--foo" },
      { "missing argument 'name'", "command" },
      { "missing argument 'id'", "show", "calculators" },
      { "missing argument 'script'", "run" },
      { "too many arguments", "check", "more" },
      { "neither FIELD=TEXT nor FIELD:=JSON", "command", "PressDot", "digit" },
      { "neither FIELD=TEXT nor FIELD:=JSON", "command", "PressDot", "=1" },
      { "neither FIELD=TEXT nor FIELD:=JSON", "command", "PressDot", ":=1" },
      { "x: JSON line 1, column 2", "command", "PressDot", "x:={" },
      { "x: JSON", "command", "PressDot", "x:=" },
      { "x: JSON", "command", "PressDot", "x:=1 2" },
      { "the field x is given twice", "command", "PressDot", "x=1", "x:=2" },
      { "expectedVersion:=0", "command", "PressDot", "aggregateId=c1", "expectedVersion=0" },
      { "'five' is not a whole number", "events", "--limit", "five" },
      { "'1.5' is not a whole number", "events", "--from=1.5" },
      { "'-1' is not a whole number", "events", "--to=-1" },
      { "'99999999999999999999' is not a whole number", "events", "--to", "99999999999999999999" },
      { "'yesterday' is no ISO 8601 time", "events", "--since", "yesterday" },
      { "'2026' is no ISO 8601 time", "show", "calculators", "c1", "--at", "2026" },
      { "can not be used together", "show", "calculators", "c1", "--version", "1", "--position", "1" },
      { "tenant 'A B' is not 1 to 38 characters", "--tenant", "A B", "check" },
      { "tenant is missing", "--tenant", "", "check" },
      { "tenant '../x' is not", "check", "--tenant", "../x" },
      { "actor is missing", "--actor", "", "command", "PressDot" },
      { "role is missing", "--role", "", "command", "PressDot" },
      { "none of sqlite:FOLDER, mongodb://", "--store", "postgres:x", "events" },
      { "and this is for mongodb://", "mongodb", "setup" },
      { "and this is for mongodb://", "mongodb", "close-hole", "4", "--yes" },
      { "a command is required", "mongodb" },
      { "'x' is not a whole number", "mongodb", "close-hole", "x" },
      { "there is nobody to ask", "--store", "mongodb://h/", "mongodb", "close-hole", "4" },
      { "missing argument 'from'", "copy" },
      { "missing argument 'to'", "copy", "sqlite:data" },
      { "FROM: uri", "copy", "data", "sqlite:b" },
      { "TO: uri", "copy", "memory:", "data" },
      { "--backwards cannot be used with it", "events", "--follow", "--backwards" },
      { "--to cannot be used with it", "events", "--follow", "--to", "4" },
      { "--till cannot be used with it", "events", "--follow", "--till", "2026-11-23" },
      { "sqlite:FOLDER", "--store", "sqlite:", "command", "PressDot" },
    }
    for _, case in ipairs(cases) do
      it("tidelog " .. table.concat(case, " ", 2), function()
        fails(2, table.unpack(case))
        assert.is_false(exists "data")
      end)
    end
  end)

  describe("command", function()
    it("shows the aggregate and its new events", function()
      local lines = {}
      press(1)
      for text in press(2):gmatch "[^\n]+" do lines[#lines + 1] = text end
      assert.same({ "Calculator c1 is at version 1",
                    "position  version  event         payload",
                    "--------  -------  ------------  -------------",
                    '       1        1  DigitPressed  {"digit":"2"}' }, lines)
    end)

    it("gives text with = and any JSON with :=", function()
      local answer = json("command", "PressDot", "text=1", "empty=", "more=a=b:=c", "n:=1", "f:=1.0", "list:=[1,{}]",
        "none:=null", "yes:= true ", "a:b=c", "ünï=ⓒode\n'\"")
      assert.same({ text = "1", empty = "", more = "a=b:=c", n = 1, f = 1.0, list = { 1, {} }, none = engine.null,
                    yes = true, ["a:b"] = "c", ["ünï"] = "ⓒode\n'\"" }, answer.events[1].payload)
      assert.equal("integer", math.type(answer.events[1].payload.n))
      assert.equal("float", math.type(answer.events[1].payload.f))
    end)

    it("takes the id, the version and the command's id out of the fields", function()
      local first = json("command", "PressDot", "aggregateId=c1", "expectedVersion:=-1", "commandId=k")
      assert.same({}, first.events[1].payload)
      assert.same({ "c1", "k", false, 0 },
        { first.aggregateId, first.commandId, first.duplicate, first.aggregateVersion })
      local again = { "command", "PressDot", "aggregateId=c1", "commandId=k" }
      assert.is_true(json(table.unpack(again)).duplicate)
      assert.is_truthy(output(table.unpack(again)):find("nothing was written", 1, true))
      assert.equal(1, json("check").events)
      fails(1, "ConcurrencyError: Calculator 'c1' is at version 0, not 4", "command", "PressDot", "aggregateId=c1",
        "expectedVersion:=4")
    end)

    it("begins a new aggregate without aggregateId", function()
      local one, other = json("command", "PressDot"), json("command", "PressDot")
      assert.is_true(one.aggregateId < other.aggregateId)
    end)

    it("fails with status 1 where it is refused, and writes nothing", function()
      press(1)
      fails(1, "PreconditionError: missing right side", "command", "PressEquals", "aggregateId=c1")
      fails(1, 'InvalidArgumentError: number1 must be an integer, not "1"', "command", "AddNumbers", "number1=1")
      fails(1, "has no command 'Press'; there are: AddNumbers, PressDigit, PressDot", "command", "Press")
      fails(1, "aggregateId", "command", "PressDot", "aggregateId:=5")
      fails(1, "commandId is given without aggregateId", "command", "PressDot", "commandId=k")
      assert.equal(1, json("check").events)
    end)

    it("shows what was written, however deep it is", function()
      local deep = ('{"n":'):rep(63) .. "{}" .. ("}"):rep(63)
      local field = "n:=" .. deep:sub(6, -2)
      assert.is_truthy(output("command", "PressDot", field):find(deep, 1, true))
      assert.is_truthy(output("--json", "command", "PressDot", field):find(deep, 1, true))
      assert.is_truthy(output("events"):find(deep, 1, true))
      assert.is_truthy(output("events", "--json"):find(deep, 1, true))
      fails(2, "nested more than 64 levels", "command", "PressDot", "n:=" .. deep)
    end)

    it("stores who sent it", function()
      output("--actor", "ann", "--role", "user", "--role", "manager", "command", "PressDot")
      assert.same({ id = "ann", tenant = "default", roles = { "user", "manager" } }, json("events").actor)
    end)
  end)

  describe("events", function()
    before_each(function()
      press(1)
      press(2)
      output("command", "AddNumbers", "aggregateId=ä1", "number1:=1", "number2:=2")
    end)

    local function positions(...)
      local list = {}
      for i, event in ipairs(select(2, json("events", ...))) do list[i] = event.position end
      return table.concat(list, " ")
    end

    it("are a table for people", function()
      local lines = {}
      for text in output("events"):gmatch "[^\n]+" do lines[#lines + 1] = text:gsub("%d%d%d%d%-%S+Z", "TIME") end
      assert.equal(5, #lines)
      assert.is_truthy(lines[1]:find "^position  time +aggregate +version  event +payload +command +actor$")
      assert.is_truthy(lines[3]:find '^       0  TIME  Calculator c1        0  DigitPressed  {"digit":"1"} +PressDigit')
      assert.is_truthy(lines[5]:find "^       2  TIME  Adder ä1             0  NumbersAdded")
    end)

    it("are JSON lines with all their fields", function()
      local first, all = json "events"
      assert.equal(3, #all)
      assert.same({ digit = "1" }, first.payload)
      assert.same({ "DigitPressed", 0, 0, "Calculator", "c1", 0, "PressDigit" },
        { first.name, first.version, first.position, first.aggregateType, first.aggregateId, first.aggregateVersion,
          first.command })
      assert.is_truthy(engine.parseTime(first.time))
    end)

    it("are chosen by filters", function()
      assert.equal("0 1 2", positions())
      assert.equal("2 1 0", positions "--backwards")
      assert.equal("2 1", positions("--backwards", "--limit", "2"))
      assert.equal("1", positions("--from", "1", "--to", "1"))
      assert.equal("0 1", positions("--type", "Calculator"))
      assert.equal("2", positions("--type", "Adder", "--id", "ä1"))
      assert.equal("2", positions("--name", "NumbersAdded", "--name", "Other"))
      assert.equal("0 1 2", positions("--since", "2020-01-01T00:00:00Z"))
      assert.equal("", positions("--till", "2020-01-01T00:00:00Z"))
    end)

    it("say on stderr that there are none, which is no failure", function()
      local printed, status, errors = run("events", "--type", "calculators")
      assert.same({ "", 0, "tidelog: tenant default has no such events in sqlite:data\n" }, { printed, status, errors })
      printed, status, errors = run("--tenant", "nobody", "events")
      assert.same({ "", 0, "tidelog: tenant nobody has no events in sqlite:data\n" }, { printed, status, errors })
      assert.is_false(exists "data/nobody.db")
    end)

    it("may be many, and the reader may go away", function()
      write("many.lua", [[
        local tidelog = require "tidelog"
        local Many = { name = "Many", commands = {}, events = { Made = function() end } }
        function Many.commands.Make(_, context) for i = 1, 5000 do context:push("Made", { i = i }) end end
        local store <close> = tidelog.open "sqlite:data"
        local actor = tidelog.Actor { id = "u", tenant = "many", roles = {} }
        tidelog.CommandHandler(store, { Many }):command(actor, "Make")]])
      output("run", "many.lua")
      local _, all = json("--tenant", "many", "events")
      assert.equal(5000, #all)
      assert.equal(5000, all[5000].payload.i)
      local rows = select(2, output("--tenant", "many", "events"):gsub("\n *%d+  20", ""))
      assert.equal(5000, rows)
      local printed, status, errors = line "tidelog --tenant many events --json | head -n 1"
      assert.is_truthy(printed:find '^{[^\n]+}\n$')
      assert.same({ 0, "" }, { status, errors })
      assert.equal(5000, json("--tenant", "many", "check").events)
    end)
  end)

  describe("events --follow", function()
    local function follow(words, ...)
      return line(("{ sleep 0.2; %s; } >/dev/null & timeout 20 tidelog %s; wait"):format(table.concat({ ... }, "; "),
        words))
    end

    local function pressing(digit)
      return "tidelog command PressDigit aggregateId=c1 digit=" .. digit
    end

    it("goes on with what is appended, until its limit", function()
      press(1)
      press(2)
      local printed, status, errors = follow("events --follow --limit 4 --json", pressing(3), pressing(4))
      assert.same({ 0, "" }, { status, errors })
      local digits = {}
      for text in printed:gmatch "[^\n]+" do digits[#digits + 1] = engine.fromJson(text).payload.digit end
      assert.same({ "1", "2", "3", "4" }, digits)
    end)

    it("has its titles once, and the filters of events", function()
      press(1)
      local printed, status, errors = follow("events --follow --limit 3 --type Calculator --id c1", pressing(2),
        "tidelog command PressDigit aggregateId=c2 digit=7",
        "tidelog command AddNumbers aggregateId=c1 number1:=1 number2:=2", pressing(3))
      assert.same({ 0, "" }, { status, errors })
      assert.equal(1, select(2, printed:gsub("position", "")))
      assert.equal(5, select(2, printed:gsub("\n", "")))
      assert.equal(3, select(2, printed:gsub("Calculator c1", "")))
    end)

    it("waits for the first event, and begins where --from says", function()
      assert(os.execute("mkdir " .. quote(folder .. "/data")))
      local printed, status = follow("events --follow --limit 1 --from 1 --json", pressing(1), pressing(2))
      assert.equal(0, status)
      assert.equal("2", engine.fromJson(printed).payload.digit)
    end)
  end)

  local POLL = [[
    local tidelog = require "tidelog"
    local store <close> = tidelog.open(arg[1])
    local function count(self, tenant, event) self.db:doc("/seen/" .. event.position):set {} end
    tidelog.StreamReader(store):poll("default", "thread1", {
      { name = "Counter", events = { DigitPressed = count } },
      { name = "Failing", events = { DigitPressed = function(_, _, event) assert(event.position == 0) end } },
    }, { limit = tonumber(arg[2]) })]]

  describe("status", function()
    it("shows the store, the log and how far its readers are", function()
      write("poll.lua", POLL)
      for digit = 1, 5 do press(digit) end
      output("run", "poll.lua", "sqlite:data", "3")
      local shown = output "status"
      for _, part in ipairs { "\nplace      ", "/data\n", "server     SQLite 3", "documents  with cursors\n",
                              "tenant default: 5 events, the last one at 20",
                              "\nthread   leased by  until  handler  next  behind\n",
                              "\nthread1  nobody            Counter     3       2\n",
                              "\n                           Failing     1       4\n" } do
        assert.is_truthy(shown:find(part, 1, true), part .. " is not in\n" .. shown)
      end
      local status = json "status"
      assert.same({ "default", 5, "sqlite", "thread1", 1 },
        { status.tenant, status.events, status.store.store, status.threads[1].name, status.threads[1].token })
      assert.same({ Counter = { position = 3, behind = 2 } },
        { Counter = status.threads[1].cursors.Counter })
      assert.is_truthy(engine.parseTime(status.time))
    end)

    it("shows who has a lease", function()
      press(1)
      write("lease.lua", [[
        local engine = require "tidelog.engine"
        engine.lease(require "tidelog".open "sqlite:data", "default", "t", "reader 7", 60000)]])
      output("run", "lease.lua")
      assert.is_truthy(output("status"):find "\nt +reader 7 +20%S+Z\n")
      assert.equal("reader 7", json("status").threads[1].owner)
    end)

    it("is of a tenant that has nothing yet, too, but not of a store that is not there", function()
      fails(1, "there is no store sqlite:data yet", "status")
      press(1)
      assert.is_truthy(output("--tenant", "nobody", "status"):find "tenant nobody: 0 events\n$")
      assert.same({}, json("--tenant", "nobody", "status").threads)
      assert.is_false(exists "data/nobody.db")
    end)
  end)

  describe("copy", function()
    local function copied(...) return json("copy", "sqlite:data", "sqlite:b", ...) end

    it("carries a tenant over, says what it did, and goes on from there", function()
      write("poll.lua", POLL)
      for digit = 1, 3 do press(digit) end
      output("run", "poll.lua", "sqlite:data", "2")
      local said = output("copy", "sqlite:data", "sqlite:b")
      assert.equal("tenant default is the same in both: 3 events (3 copied), 2 documents (2 copied, 0 removed), "
        .. "1 thread; head HASH\n", (said:gsub("%x+\n$", "HASH\n")))
      assert.equal(output "events", output("--store", "sqlite:b", "events"))
      assert.equal(3, json("--store", "sqlite:b", "check").events)
      press(4)
      local result = copied()
      assert.same({ 4, 1, 2, 0 }, { result.events, result.copiedEvents, result.documents, result.copiedDocuments })
      output("run", "poll.lua", "sqlite:b", "10")
      assert.same({ position = 4, behind = 0 }, json("--store", "sqlite:b", "status").threads[1].cursors.Counter)
    end)

    it("carries one tenant or all", function()
      for _, tenant in ipairs { "t1", "t2", "t3" } do output("--tenant", tenant, "command", "PressDot") end
      assert.equal("t2", copied("--tenant", "t2").tenant)
      assert.same({ true, false }, { exists "b/t2.db" and true, exists "b/t1.db" })
      local _, all = copied "--all"
      assert.same({ "t1", 1, "t2", 0, "t3", 1 }, { all[1].tenant, all[1].copiedEvents, all[2].tenant,
                                                   all[2].copiedEvents, all[3].tenant, all[3].copiedEvents })
    end)

    it("fails where there is nothing, where the target has another history, or is the source", function()
      fails(1, "there is no store sqlite:data yet", "copy", "sqlite:data", "sqlite:b")
      assert.is_false(exists "b")
      press(1)
      fails(1, "tenant nobody has nothing in the source", "--tenant", "nobody", "copy", "sqlite:data", "sqlite:b")
      output("--store", "sqlite:b", "command", "PressDot")
      fails(1, "another history", "copy", "sqlite:data", "sqlite:b")
      fails(2, "TO: both are the same store", "copy", "sqlite:data", "sqlite:./data")
    end)

    it("shows on a terminal how far it is, and in a pipe nothing", function()
      local Progress = require "tidelog.cli.progress"
      local state = { tenant = "t", position = 500, head = 2000, documents = 0 }
      assert.equal("tenant t: 500 of 2,000 events, 25 %", Progress.line(state, 500, 0))
      assert.equal("tenant t: 500 of 2,000 events, 25 %, 100/s, 15 s left", Progress.line(state, 400, 1000))
      assert.equal("tenant t: 2,000 of 2,000 events, 100 %, 2,000/s, 1 document",
        Progress.line({ tenant = "t", position = 2000, head = 2000, documents = 1 }, 0, 1000))
      assert.equal("tenant t: 1 of 1,234,567 events, 0 %, 1/s, 342.9 h left",
        Progress.line({ tenant = "t", position = 1, head = 1234567, documents = 0 }, 0, 1000))
      local now, out = 0, { text = "" }
      function out:write(...) self.text = self.text .. table.concat { ... } end
      function out.flush() end
      local show, clear = Progress.new(out, function() return now end)
      show(state)
      show(state) -- too soon
      now = 100
      show(state)
      clear()
      assert.equal(("\r\27[Ktenant t: 500 of 2,000 events, 25 %"):rep(2) .. "\r\27[K", out.text)
    end)
  end)

  describe("show", function()
    before_each(function()
      for digit = 1, 5 do press(digit) end
    end)

    it("is the state, now or then", function()
      assert.equal("Calculator c1 at version 4\nfield   value\n------  ------\nleft    012345\nresult  0\n",
        output("show", "calculators", "c1"))
      local function left(...) return json("show", "calculators", "c1", ...).state.left end
      local time = select(2, json "events")[3].time
      assert.equal("012345", left())
      assert.equal("01", left("--version", "0"))
      assert.equal("012", left("--position=1"))
      assert.equal("0123", left("--at", time))
      assert.equal("012345", left("--at", "2999-01-01T00:00:00+01:00"))
    end)

    it("takes the aggregate's path or name", function()
      local shown = output("show", "calculators", "c1")
      assert.equal(shown, output("show", "/calculators", "c1"))
      assert.equal(shown, output("show", "Calculator", "c1"))
      fails(1, "'calculator' is the name or path of no aggregate; there are: adders, calculators", "show",
        "calculator", "c1")
    end)

    it("fails where there is nothing to show", function()
      fails(1, "Calculator 'c2' of tenant default has no events", "show", "calculators", "c2")
      fails(1, "has no events then", "show", "calculators", "c1", "--at", "2020-01-01T00:00:00Z")
      fails(1, "version 5 is not reached", "show", "calculators", "c1", "--version", "5")
      fails(1, "position 5 is not reached", "show", "calculators", "c1", "--position", "5")
    end)

    it("shows every kind of value on its line", function()
      os.remove(folder .. "/aggregates")
      assert(os.execute("mkdir " .. quote(folder .. "/aggregates")))
      write("aggregates/odd.lua", [[
        local Odd = { name = "Odd", path = "/odd", snapshot = false, commands = {}, events = {} }
        function Odd.commands.Make(_, context) context:push "Made" end
        function Odd.events.Made(self)
          self.a, self.b, self.c, self.d, self.e = 0.1, -1 / 0, 0 / 0, 1.0, 9007199254740993
          self.f, self.g, self.h = { 1, { x = "y" } }, true, "two\nlines"
          self.i = { call = print }
        end
        return Odd]])
      local shown = output("show", "odd", json("command", "Make").aggregateId):gsub("table: 0x%x+", "table")
      assert.equal([[
a      0.1
b      -Infinity
c      NaN
d      1.0
e      9007199254740993
f      [1,{"x":"y"}]
g      true
h      two lines
i      table
]], shown:match "%-\n(a.*)")
    end)
  end)

  describe("check", function()
    it("counts what is whole", function()
      press(1)
      press(2)
      assert.equal("tenant default is whole: 2 commits, 2 events\n", output "check")
      assert.same({ commits = 2, events = 2 }, json "check")
    end)

    it("fails where the log is damaged, or there is none", function()
      for digit = 0, 9 do press(digit) end
      fails(1, "StoreError: tenant nobody has no events in sqlite:data", "--tenant", "nobody", "check")
      local file = assert(io.open(folder .. "/data/default.db", "r+"))
      local whole = file:read "a"
      local at = assert(whole:find("DigitPressed", 1, true))
      file:seek("set", at - 1)
      file:write "DigitRemoved"
      file:close()
      fails(1, "StoreError", "check")
    end)
  end)

  describe("run", function()
    it("runs a script with its arguments, all of them its own", function()
      write("script.lua", [[print(arg[0], #arg, arg[1], ...)]])
      assert.equal("script.lua\t3\t--json\t--json\t-x\ta b\n", output("run", "script.lua", "--json", "-x", "a b"))
      assert.equal("script.lua\t1\t--help\t--help\n", output("run", "script.lua", "--help"))
    end)

    it("lets a script require tidelog and the domain", function()
      write("script.lua", [[
        local tidelog = require "tidelog"
        local store <close> = tidelog.open "memory:"
        local handler = tidelog.CommandHandler(store, { require "aggregates.adder" })
        local actor = tidelog.Actor { id = "u", tenant = "t", roles = {} }
        print(handler:command(actor, "AddNumbers", { number1 = 1, number2 = 2 }).aggregate.sum)]])
      assert.equal("3\n", output("run", "script.lua"))
      assert(os.execute(("mkdir %s/sub"):format(quote(folder))))
      assert.equal("3\n", (line "cd sub && tidelog --domain .. run ../script.lua"))
    end)

    it("gives the script's own exit status", function()
      write("script.lua", "print 'out' os.exit(tonumber(arg[1]), arg[2] ~= nil)")
      assert.same({ "out\n", 7, "" }, { run("run", "script.lua", "7") })
      assert.same({ "out\n", 7, "" }, { run("run", "script.lua", "7", "close") })
      assert.same({ "out\n", 0, "" }, { run("run", "script.lua", "0") })
    end)

    it("fails with status 1 and says where the script did", function()
      write("script.lua", "local function inner() error 'boo' end\nlocal ok = inner()\nreturn ok")
      local printed, status, errors = run("run", "script.lua")
      assert.same({ "", 1 }, { printed, status })
      assert.is_truthy(errors:find "^tidelog: script.lua:1: boo\nstack traceback:\n")
      assert.is_truthy(errors:find "script.lua:2: in main chunk\n$")
      for code, message in pairs {
        ["error { text = 'x' }"] = "table: 0x",
        ["error()"] = "nil",
        ["error(setmetatable({}, { __tostring = function() error 'x' end }))"] = "table",
        ["error(require 'tidelog'.Err.precondition 'not now')"] = "PreconditionError: not now",
        ["x x"] = "script.lua:1: syntax error near 'x'",
      } do
        write("script.lua", code)
        fails(1, message, "run", "script.lua")
      end
      fails(1, "cannot open missing.lua", "run", "missing.lua")
    end)
  end)

  describe("options", function()
    it("have defaults", function()
      press(1)
      assert.is_true(exists "data/default.db")
      local _, _, errors = line "USER=ann tidelog command PressDot && USER= tidelog command PressDot"
      assert.equal("", errors)
      local _, events = json "events"
      assert.same({ "ann", "tidelog" }, { events[2].actor.id, events[3].actor.id })
    end)

    it("stand before or after the command", function()
      output("--store", "sqlite:elsewhere", "--tenant", "t1", "command", "PressDot", "aggregateId=c1")
      output("command", "--tenant", "t1", "PressDot", "aggregateId=c1", "--store=sqlite:elsewhere")
      assert.equal(2, json("check", "--store", "sqlite:elsewhere", "--tenant", "t1").events)
      assert.equal(engine.fromJson(output("check", "--json", "--store", "sqlite:elsewhere", "--tenant=t1")).events, 2)
      assert.is_false(exists "data")
    end)

    it("come from the environment, where an empty variable is none, and the command line wins", function()
      local printed, status, errors = line [[
        export TIDELOG_STORE=sqlite:there TIDELOG_TENANT=t2 TIDELOG_ACTOR=bob TIDELOG_ROLE="r1,r2 r3" TIDELOG_JSON=1
        mkdir sub && cd sub && TIDELOG_DOMAIN=.. tidelog command PressDot >/dev/null && cd .. || exit
        TIDELOG_STORE=sqlite:sub/there tidelog events
        TIDELOG_STORE= TIDELOG_TENANT= tidelog command PressDot >/dev/null
        TIDELOG_STORE= TIDELOG_JSON= tidelog --tenant default check]]
      assert.same({ 0, "" }, { status, errors })
      local event = engine.fromJson(printed:match "^[^\n]+")
      assert.same({ id = "bob", tenant = "t2", roles = { "r1", "r2", "r3" } }, event.actor)
      assert.is_truthy(printed:find "tenant default is whole: 1 commits, 1 events\n$")
      printed, status, errors = line "TIDELOG_TENANT='A B' tidelog check"
      assert.same({ "", 2 }, { printed, status })
      assert.is_truthy(errors:find("tenant 'A B' is not", 1, true))
    end)

    it("name a store that may be in memory, or not be usable", function()
      assert.is_truthy(output("--store", "memory:", "command", "PressDot"):find "is at version 0")
      write("file", "not a database")
      fails(1, "StoreError", "--store", "sqlite:file", "command", "PressDot")
      fails(1, "StoreError", "--store", "sqlite:file", "events")
      fails(1, "StoreError", "--store", "sqlite:/dev/null/x", "command", "PressDot")
      assert(os.execute(("mkdir %s/data"):format(quote(folder))))
      write("data/default.db", ("not a database"):rep(100))
      fails(1, "StoreError", "events")
    end)

    it("that only look make no folder", function()
      for _, command in ipairs { { "events" }, { "check" }, { "show", "calculators", "c1" } } do
        fails(1, "there is no store sqlite:typo yet", "--store", "sqlite:typo", table.unpack(command))
        assert.is_false(exists "typo")
      end
    end)

    it("name a domain, and what is wrong with it", function()
      fails(1, "domain 'nowhere' has no readable folder aggregates", "--domain", "nowhere", "command", "PressDot")
      os.remove(folder .. "/aggregates")
      assert(os.execute("mkdir " .. quote(folder .. "/aggregates")))
      fails(1, "has no command 'PressDot'; there are: none", "command", "PressDot")
      write("aggregates/broken.lua", "return {\n")
      fails(1, "aggregates/broken.lua:2:", "command", "PressDot")
      assert.is_false(exists "data/default.db")
    end)

    it("keep tenants apart", function()
      output("--tenant", "t1", "command", "PressDot", "aggregateId=c1")
      output("--tenant", "t2", "command", "PressDot", "aggregateId=c1")
      assert.equal(0, json("--tenant", "t1", "show", "calculators", "c1").aggregateVersion)
      assert.is_true(exists "data/t1.db" and exists "data/t2.db")
    end)
  end)

  it("says that it cannot write its output", function()
    press(1)
    for _, command in ipairs { "events", "check", "--json show calculators c1", "command PressDot" } do
      local _, status, errors = line("tidelog " .. command .. " >/dev/full")
      assert.equal(1, status)
      assert.is_truthy(errors:find "^tidelog: standard output cannot be written: No space left on device\n$", errors)
    end
  end)
end)
