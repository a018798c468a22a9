assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

-- What CommandHandler says of aggregate tables: each is checked before any command.
for _, s in ipairs(stores.all()) do
  describe("CommandHandler on " .. s.name, function()
    before_each(s.setup)
    after_each(s.teardown)

    local function refused(name, about, aggregates, tracer, options)
      return expect.error(name, about, tidelog.CommandHandler, s.store, aggregates, tracer, options)
    end

    -- A Tally whose one field has been replaced.
    local function with(field, value)
      local Tally = domain.Tally()
      Tally[field] = value
      return { Tally }
    end

    it("needs a store that tidelog.open made", function()
      expect.error("InvalidArgumentError", "store", tidelog.CommandHandler, nil, { domain.Tally() })
      for _, store in ipairs { 42, "memory:", {}, true, io.stdout, print } do
        expect.error("InvalidArgumentError", "store", tidelog.CommandHandler, store, { domain.Tally() })
      end
    end)

    it("needs a list of aggregates", function()
      refused("MissingArgumentError", "aggregates", nil)
      for _, aggregates in ipairs { 42, "x", true, print } do
        refused("InvalidArgumentError", "aggregates", aggregates)
      end
      refused("InvalidArgumentError", nil, { 42 })
      refused("InvalidArgumentError", nil, { domain.Tally(), false })
      refused("InvalidArgumentError", nil, { "tally" })
    end)

    it("refuses an aggregate in the place of a list, which would be a handler without commands", function()
      refused("InvalidArgumentError", "aggregates", domain.Tally())
      refused("InvalidArgumentError", "aggregates", { tally = domain.Tally() })
    end)

    it("takes what require returns, and the file's name behind it", function()
      package.loaded["tests.a_tally"] = domain.Tally()
      tidelog.CommandHandler(s.store, { require "tests.a_tally" })
      package.loaded["tests.a_tally"] = nil
      tidelog.CommandHandler(s.store, { domain.Tally(), "./tally.lua" })
    end)

    it("needs commands and events: NotImplementedError with the method", function()
      for _, part in ipairs { "commands", "events" } do
        for _, value in ipairs { false, 42, "x" } do
          local err = refused("NotImplementedError", part, with(part, value or nil))
          assert.equal(part, err.method)
          assert.is_truthy(err.message:find("Tally", 1, true))
        end
      end
      refused("NotImplementedError", "commands", { {} })
    end)

    it("checks every aggregate, not only the first", function()
      local Second = { name = "Second", commands = { Other = function() end } }
      refused("NotImplementedError", "events", { domain.Tally(), Second })
    end)

    it("needs a name", function()
      refused("MissingArgumentError", "name", with("name", nil))
      refused("MissingArgumentError", "name", with("name", ""))
      for _, name in ipairs { 42, true, {}, "a\0b", "a\nb", "\255", ("x"):rep(1 << 20) } do
        refused("InvalidArgumentError", "name", with("name", name))
      end
    end)

    it("needs no path, but takes only one that begins with /", function()
      tidelog.CommandHandler(s.store, with("path", nil))
      for _, path in ipairs { 42, true, {}, "tallies", "/", "/a\0" } do
        refused("InvalidArgumentError", "path", with("path", path))
      end
    end)

    it("is not loaded by a path that another one has, too", function()
      local ch = tidelog.CommandHandler(s.store, {
        { name = "A", path = "/same", commands = {}, events = {} },
        { name = "B", path = "/same", commands = {}, events = {} },
      })
      expect.error("InvalidArgumentError", "aggregateType", ch.load, ch, "tenant1", "/same", "1")
      assert.equal(-1, ch:load("tenant1", "A", "1").aggregateVersion)
    end)

    it("needs no init, but takes only a function", function()
      local ch = tidelog.CommandHandler(s.store, with("init", nil))
      assert.is_nil(ch:load("tenant1", "Tally", "a").sum)
      for _, init in ipairs { 42, true, {}, "x", false } do
        refused("InvalidArgumentError", "init", with("init", init))
      end
    end)

    it("takes the same command in one aggregate only", function()
      local err = refused("InvalidArgumentError", nil, { domain.Tally(), domain.Tally { name = "Other" } })
      assert.is_truthy(err.message:find("Tally", 1, true) and err.message:find("Other", 1, true), err.message)
    end)

    it("takes the same aggregate, or the same name, once only", function()
      local Tally, Other = domain.Tally(), domain.Tally()
      Other.commands = { Else = function() end }
      refused("InvalidArgumentError", nil, { Tally, Other })
      refused("InvalidArgumentError", nil, { Tally, Tally })
    end)

    it("takes functions, and tables with a function handle, as commands", function()
      for _, command in ipairs { 42, "x", true } do
        refused("InvalidArgumentError", nil, { domain.Tally { commands = { Bad = command } } })
      end
      for _, command in ipairs { {}, { handle = 42 }, { roles = {} } } do
        local err = refused("NotImplementedError", "handle", { domain.Tally { commands = { Bad = command } } })
        assert.is_truthy(err.message:find("Tally.commands.Bad", 1, true))
      end
    end)

    it("takes only lists of texts as a command's roles", function()
      for _, roles in ipairs { 42, "user", true, { 1 }, { "user", {} }, { user = true } } do
        refused("InvalidArgumentError", nil,
          { domain.Tally { commands = { Bad = { handle = print, roles = roles } } } })
      end
    end)

    it("takes only known types as a command's payload", function()
      for _, payload in ipairs { 42, "integer", { n = 42 }, { n = "int" }, { n = "integer??" }, { n = "" },
                                 { "integer" }, { n = {} } } do
        refused("InvalidArgumentError", nil,
          { domain.Tally { commands = { Bad = { handle = print, payload = payload } } } })
      end
    end)

    it("does not pass over a misspelt field of a command, such as role", function()
      refused("InvalidArgumentError", nil,
        { domain.Tally { commands = { Bad = { handle = print, role = { "manager" } } } } })
    end)

    it("takes only functions as events", function()
      for _, event in ipairs { 42, "x", true, {} } do
        refused("InvalidArgumentError", "events", { domain.Tally { events = { Bad = event } } })
      end
    end)

    it("takes only functions under schema versions as upcasters", function()
      for _, upcast in ipairs { 42, { Added = 42 }, { Added = { 42 } }, { Added = { [-1] = print } },
                                { Added = { [0.5] = print } }, { Added = { x = print } } } do
        refused("InvalidArgumentError", "upcast", with("upcast", upcast))
      end
      tidelog.CommandHandler(s.store, with("upcast", { Added = { [0] = print, [1] = print } }))
    end)

    it("takes false or { every = n } as snapshot", function()
      for _, snapshot in ipairs { 42, "x", print } do
        refused("InvalidArgumentError", "snapshot", with("snapshot", snapshot))
      end
      for _, every in ipairs { 0, -1, 1.5, "1", true, {} } do
        refused("InvalidArgumentError", "snapshot.every", with("snapshot", { every = every }))
      end
      for _, snapshot in ipairs { false, { every = 1 }, { every = 2.0 }, {} } do
        tidelog.CommandHandler(s.store, with("snapshot", snapshot))
      end
    end)

    it("takes only a table with a function trace as tracer", function()
      for _, tracer in ipairs { 42, "x", true, print, {}, { trace = 42 } } do
        refused("InvalidArgumentError", "tracer", { domain.Tally() }, tracer)
      end
      tidelog.CommandHandler(s.store, { domain.Tally() }, { trace = function() end })
      tidelog.CommandHandler(s.store, { domain.Tally() }, tidelog.ConsoleTracer())
    end)

    it("refuses wrong and unknown options", function()
      for _, options in ipairs { 42, "x", true, print } do
        refused("InvalidArgumentError", "options", { domain.Tally() }, nil, options)
      end
      refused("InvalidArgumentError", "options", { domain.Tally() }, nil, { cachesize = 1 })
      for option, low in pairs { cacheSize = 0, attempts = 1 } do
        for _, value in ipairs { low - 1, 1.5, "1", true, {}, 0 / 0 } do
          refused("InvalidArgumentError", option, { domain.Tally() }, nil, { [option] = value })
        end
        tidelog.CommandHandler(s.store, { domain.Tally() }, nil, { [option] = low })
      end
    end)

    it("finds commands, events and methods of aggregates that inherit", function()
      local Base = domain.Tally()
      function Base:double() return self.sum * 2 end
      local Child = setmetatable({
        name = "Child",
        commands = setmetatable({ AddMore = function(_, context) context:push "Added" end },
          { __index = Base.commands }),
        events = setmetatable({}, { __index = Base.events }),
      }, { __index = Base })
      local ch = tidelog.CommandHandler(s.store, { Child })
      ch:command(domain.actor(), "Add", { aggregateId = "a", n = 1 })
      local context = ch:command(domain.actor(), "AddMore", { aggregateId = "a", n = 2 })
      assert.equal(6, context.aggregate:double())
      assert.equal("Child", domain.events(s.store)[1].aggregateType)
    end)
  end)
end
