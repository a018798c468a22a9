assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

-- What a caller can get wrong: each value, in each place of each public function, is taken
-- or refused with an error of ours; it never crashes, and never raises Lua's own complaint
-- from within our files.
local NONE = {}
local values = {
  { "nothing", NONE },
  { "nil", nil },
  { "true", true },
  { "false", false },
  { "42", 42 },
  { "-1", -1 },
  { "1.5", 1.5 },
  { "NaN", 0 / 0 },
  { "infinity", 1 / 0 },
  { "the largest integer", math.maxinteger },
  { "the smallest integer", math.mininteger },
  { "an empty text", "" },
  { "a text", "x" },
  { "a text that looks like a number", "1" },
  { "a text with NUL", "a\0b" },
  { "a text with a line break", "a\nb" },
  { "a text that is no UTF-8", "\255\254" },
  { "a huge text", ("x"):rep(1 << 20) },
  { "a format", "%s%n%d%99999s" },
  { "an empty table", {} },
  { "a list", { 1, 2 } },
  { "a list of texts", { "x", "y" } },
  { "a table", { a = 1 } },
  { "null", tidelog.null },
  { "an array", tidelog.array {} },
  { "a function", print },
  { "a coroutine", coroutine.create(print) },
  { "a userdata", io.stdout },
  { "a table of which everything raises", setmetatable({}, {
    __index = function() error(tidelog.Err.precondition "mine") end,
    __newindex = function() error(tidelog.Err.precondition "mine") end,
    __pairs = function() error(tidelog.Err.precondition "mine") end,
    __len = function() error(tidelog.Err.precondition "mine") end,
    __eq = function() error(tidelog.Err.precondition "mine") end,
    __tostring = function() error(tidelog.Err.precondition "mine") end,
    __call = function() error(tidelog.Err.precondition "mine") end,
    __name = 42,
  }) },
  { "a table that has every name", setmetatable({}, { __index = function(_, key)
    return type(key) == "string" and key or nil
  end }) },
  { "an actor", domain.actor() },
  { "an error", tidelog.Err.precondition "x" },
  { "an aggregate", domain.Tally() },
}

-- What is wrong with an error: a message must not bring back a megabyte, nor our own file
-- and line.
local function complaint(err)
  if not tidelog.Err.is(err) then
    local shown, text = pcall(tostring, err)
    return type(err) .. " " .. (shown and text or "?"):sub(1, 200)
  end
  local readable, why = pcall(expect.readable, err)
  if readable then return nil end
  return ("%s: %s (%s)"):format(err.name, err.message:sub(1, 100), tostring(why):sub(1, 100))
end

for _, s in ipairs(stores.all()) do
  describe("bad input on " .. s.name .. ":", function()
    local actor = domain.actor()
    local ch, reader, documents, document

    before_each(function()
      s.setup()
      ch, reader = tidelog.CommandHandler(s.store, { domain.Tally() }), tidelog.StreamReader(s.store)
      ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      documents = s.store:documents "tenant1"
      document = documents:doc "/a"
    end)
    after_each(s.teardown)

    -- Calls fn with each value in each of the places of `good`, a list of good arguments of
    -- which some may be functions that make them.
    local function try(name, fn, good, places)
      local failed, tried = {}, 0
      for place = 1, places or #good do
        for _, value in ipairs(values) do
          local arguments = { n = #good }
          for i, argument in ipairs(good) do
            arguments[i] = type(argument) == "function" and argument() or argument
          end
          arguments[place] = value[2]
          if rawequal(value[2], NONE) then arguments[place], arguments.n = nil, place - 1 end
          tried = tried + 1
          local ok, err = pcall(fn(), table.unpack(arguments, 1, math.max(arguments.n, place)))
          local wrong = not ok and complaint(err)
          if wrong then
            failed[#failed + 1] = ("%s with %s as argument %d: %s"):format(name, value[1], place, wrong)
          end
        end
      end
      assert(tried > 0)
      local shown = table.concat(failed, "\n", 1, math.min(#failed, 4))
      assert(#failed == 0, ("%d of %d:\n%s"):format(#failed, tried, shown))
    end

    local function self_store() return s.store end
    local function self_ch() return ch end
    local function self_reader() return reader end
    local function self_documents() return documents end
    local function self_document() return document end
    local function list() return { domain.Tally() } end
    local handlers = { { name = "h", events = {} } }
    local function command() return { aggregateId = "a", n = 1 } end

    local functions = {
      ["open"] = { function() return tidelog.open end, { "memory:", {} } },
      ["open's options"] = { function() return function(a, b)
        return tidelog.open("memory:", { busyTimeout = a, maxOpen = b })
      end end, { 1, 1 } },
      ["Actor"] = { function() return tidelog.Actor end, { { id = "a", tenant = "t", roles = {} } } },
      ["Actor's fields"] = { function() return function(id, tenant, roles, name)
        return tidelog.Actor { id = id, tenant = tenant, roles = roles, name = name }
      end end, { "a", "t", {}, "n" } },
      ["array"] = { function() return tidelog.array end, { {} } },
      ["ConsoleTracer"] = { function() return tidelog.ConsoleTracer end, { {} } },
      ["CommandHandler"] = { function() return tidelog.CommandHandler end,
                             { self_store, list, tidelog.ConsoleTracer(), {} } },
      ["CommandHandler's options"] = { function() return function(a, b)
        return tidelog.CommandHandler(s.store, list(), nil, { cacheSize = a, attempts = b })
      end end, { 1, 1 } },
      ["CommandHandler's aggregates"] = { function() return function(a, b)
        return tidelog.CommandHandler(s.store, { a, b })
      end end, { list, list } },
      ["an aggregate's fields"] = { function() return function(name, path, init, commands, events, upcast, snapshot,
                                                             ignore)
        return tidelog.CommandHandler(s.store, { { name = name, path = path, init = init, commands = commands,
          events = events, upcast = upcast, snapshot = snapshot, ignore = ignore } })
      end end, { "N", "/n", function() return print end, {}, {}, {}, {}, {} } },
      ["a command's fields"] = { function() return function(handle, roles, payload, field)
        return tidelog.CommandHandler(s.store, { domain.Tally { commands = {
          C = { handle = handle, roles = roles, payload = payload },
          D = { handle = print, payload = { field = field } },
        } } })
      end end, { function() return print end, {}, {}, "integer" } },
      ["StreamReader"] = { function() return tidelog.StreamReader end, { self_store, tidelog.ConsoleTracer() } },
      ["ch:command"] = { function() return ch.command end, { self_ch, actor, "Add", command, {} } },
      ["ch:command's payload"] = { function() return function(id, version, commandId)
        local payload = { aggregateId = id, expectedVersion = version, commandId = commandId, n = 1 }
        return ch:command(actor, "Add", payload)
      end end, { "a", -1, "c" } },
      ["ch:command's options"] = { function() return function(a, b, c)
        return ch:command(actor, "Add", command(), { commandId = a, correlationId = b, causationId = c })
      end end, { "a", "b", "c" } },
      ["ch:load"] = { function() return ch.load end, { self_ch, "tenant1", "Tally", "a", { version = 0 } } },
      ["ch:load's at"] = { function() return function(version, position, time)
        ch:load("tenant1", "Tally", "a", { version = version })
        ch:load("tenant1", "Tally", "a", { position = position })
        ch:load("tenant1", "Tally", "a", { time = time })
      end end, { 0, 0, 0 } },
      ["sr:poll"] = { function() return reader.poll end, { self_reader, "tenant1", "thread1", handlers, {} } },
      ["sr:poll's options"] = { function() return function(a, b)
        return reader:poll("tenant1", "thread1", handlers, { limit = a, timeout = b })
      end end, { 1, 1000 } },
      ["sr:poll's handlers"] = { function() return function(a, name, events, on)
        return reader:poll("tenant1", "thread1", { a, { name = name, events = events },
                                                   { name = "on", events = { Added = on } } })
      end end, { handlers[1], "n", {}, function() return function() end end } },
      ["store:close"] = { function() return s.store.close end, { s.open } },
      ["store:head"] = { function() return s.store.head end, { self_store, "tenant1" } },
      ["store:check"] = { function() return s.store.check end, { self_store, "tenant1" } },
      ["store:tenants"] = { function() return s.store.tenants end, { self_store } },
      ["store:documents"] = { function() return s.store.documents end, { self_store, "tenant1" } },
      ["store:events"] = { function() return s.store.events end, { self_store, "tenant1", {} } },
      ["db:doc"] = { function() return documents.doc end, { self_documents, "/a" } },
      ["db:list"] = { function() return documents.list end, { self_documents, "/" } },
      ["doc:get"] = { function() return document.get end, { self_document } },
      ["doc:set"] = { function() return document.set end, { self_document, {} } },
      ["doc:delete"] = { function() return document.delete end, { self_document } },
    }
    for _, field in ipairs { "from", "to", "since", "till", "aggregateType", "aggregateId", "name", "backwards",
                             "limit" } do
      functions["store:events' " .. field] = { function() return function(value)
        local filter = { [field] = value }
        if field == "aggregateId" then filter.aggregateType = "Tally" end
        for _ in s.store:events("tenant1", filter) do end
      end end, { 1 } }
    end

    for name, case in pairs(functions) do
      it(name .. " takes or refuses whatever it is given", function() try(name, case[1], case[2]) end)
    end

    it("context:push takes or refuses whatever it is given", function()
      local inside
      local other = tidelog.CommandHandler(s.store, { domain.Tally { commands = {
        C = function(_, context)
          inside = context
          try("context:push", function() return context.push end,
            { function() return context end, "Added", { n = 1 }, 0 })
          try("context:load", function() return context.load end,
            { function() return context end, "Tally", "a", 0 })
          try("context:random", function() return context.random end, { function() return context end, 1, 6 })
        end,
      }, events = { Added = function() end } } })
      local ok, problem = pcall(other.command, other, actor, "C", { aggregateId = "b", n = 1 })
      assert(ok, tostring(problem))
      try("context:push after its command", function() return inside.push end,
        { function() return inside end, "Added", { n = 1 }, 0 })
      try("context:load after its command", function() return inside.load end,
        { function() return inside end, "Tally", "a", 0 })
    end)

    it("self.db takes or refuses whatever it is given", function()
      local _, failures = reader:poll("tenant1", "thread1", { { name = "h", events = { Added = function(self)
        local db = self.db
        try("self.db:doc", function() return db.doc end, { function() return db end, "/a" })
        try("self.db:list", function() return db.list end, { function() return db end, "/" })
        local doc = db:doc "/a"
        for _, method in ipairs { "get", "set", "delete" } do
          try("doc:" .. method, function() return doc[method] end, { function() return doc end, {} })
        end
      end } } })
      assert(#failures == 0, failures[1] and tostring(failures[1].error))
    end)

    it("leaves the log sound", function()
      for name, case in pairs(functions) do pcall(try, name, case[1], case[2]) end
      for _, tenant in ipairs(s.store:tenants()) do s.store:check(tenant) end
      assert.equal(1, ch:load("tenant1", "Tally", "a", { version = 0 }).sum)
    end)
  end)
end
