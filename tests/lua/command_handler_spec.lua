assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local Host = require "tidelog.host"
local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

local Err = tidelog.Err

for _, s in ipairs(stores.all()) do
  describe("a command on " .. s.name, function()
    local actor = domain.actor()

    before_each(s.setup)
    after_each(s.teardown)

    -- A handler of a Tally with these commands, and more events.
    local function handler(commands, events, options)
      return tidelog.CommandHandler(s.store, { domain.Tally { commands = commands, events = events } }, nil, options)
    end

    -- Runs fn(self, context) as a command on aggregate "a" with the payload.
    local function decide(fn, payload)
      local given = { aggregateId = "a" }
      for key, value in pairs(payload or { n = 1 }) do given[key] = value end
      return handler({ Decide = fn }):command(actor, "Decide", given)
    end

    local function refused(name, about, ch, ...)
      local head = s.store:head "tenant1"
      local err = expect.error(name, about, ch.command, ch, ...)
      assert.equal(head, s.store:head "tenant1")
      return err
    end

    it("is done once its events are stored, whatever it does to the list of them", function()
      local spoil = {
        none = function(context) context.events = nil end,
        ["a text"] = function(context) context.events = "x" end,
        ["another entry"] = function(context) context.events[1] = false end,
        ["no entry"] = function(context) context.events[1] = nil end,
        ["no aggregate"] = function(context) context.aggregate = nil end,
        ["a function in an event"] = function(context) context.events[1].payload.fn = print end,
      }
      for name, fn in pairs(spoil) do
        local head = s.store:head "tenant1"
        local context = decide(function(_, context)
          context:push "Added"
          fn(context)
          context:push "Added"
        end)
        assert.equal(head + 2, s.store:head "tenant1", name)
        assert.equal(2, #context.events, name)
        assert.equal(head + 1, context.aggregate.aggregateVersion, name)
        Host.answer(context) -- a host must be told, too
        assert.equal(head, context.events[1].position)
        assert.equal(head + 1, context.events[2].position)
      end
    end)

    -- ---- what is given -----------------------------------------------------------------

    it("must be known", function()
      local ch = handler()
      refused("MissingArgumentError", "command", ch, actor)
      refused("MissingArgumentError", "command", ch, actor, "")
      for _, name in ipairs { "Unknown", "add", "Added", "Add\0", 42, true, {}, print, 0 / 0, "__index", "name" } do
        refused("InvalidArgumentError", "command", ch, actor, name, { n = 1 })
      end
    end)

    it("may be a table with roles: another actor is denied, and nothing is stored", function()
      local function handle(_, context) context:push "Added" end
      local ch = handler {
        ForManagers = { roles = { "manager" }, handle = handle },
        ForTwo = { roles = { "manager", "user" }, handle = handle },
        ForAll = { handle = handle },
        ForNobody = { roles = {}, handle = handle },
      }
      local manager, nobody = domain.actor { roles = { "x", "manager" } }, domain.actor { roles = {} }
      local payload = { aggregateId = "a", n = 1 }
      for _, who in ipairs { manager, actor } do ch:command(who, "ForTwo", payload) end
      for _, who in ipairs { manager, actor, nobody } do ch:command(who, "ForAll", payload) end
      ch:command(manager, "ForManagers", payload)
      for _, denied in ipairs { { actor, "ForManagers" }, { nobody, "ForManagers" }, { nobody, "ForTwo" },
                                { manager, "ForNobody" } } do
        refused("AccessDeniedError", nil, ch, denied[1], denied[2], payload)
      end
    end)

    it("takes roles as they are written, not by pattern or part", function()
      local ch = handler { C = { roles = { "Admin", "a.*" }, handle = function() end } }
      for _, role in ipairs { "admin", "ADMIN", "Admin ", "Administrator", "Adm", "abc", ".*" } do
        refused("AccessDeniedError", nil, ch, domain.actor { roles = { role } }, "C")
      end
      ch:command(domain.actor { roles = { "Admin" } }, "C")
    end)

    it("is denied also if the roles' table was changed after the handler was made", function()
      local roles = { "manager" }
      local ch = handler { C = { roles = roles, handle = function() end } }
      roles[1] = "user"
      refused("AccessDeniedError", nil, ch, actor, "C")
    end)

    describe("with payload types", function()
      local good = {
        integer = { 1, 0, -1, 2.0, math.maxinteger, math.mininteger },
        number = { 1, 1.5, -0.0, 1e308 },
        string = { "", "x", "a\0b" },
        boolean = { true, false },
        table = { {}, { a = 1 }, { 1, 2 }, tidelog.array {} },
        array = { { 1, 2 }, tidelog.array {}, { { a = 1 } } },
        any = { 1, "x", {}, false },
      }
      local bad = {
        integer = { 1.5, "1", true, {}, 1e300 },
        number = { "1", true, {} },
        string = { 1, true, {} },
        boolean = { 0, "true", {} },
        table = { 1, "x", true },
        array = { {}, { a = 1 }, "x", 1 },
        any = {},
      }

      for kind in pairs(good) do
        it("takes what is of the type " .. kind .. ", and nothing else", function()
          local function handle() end
          local ch = handler { Must = { payload = { v = kind }, handle = handle },
                               May = { payload = { v = kind .. "?" }, handle = handle } }
          for _, value in ipairs(good[kind]) do
            ch:command(actor, "Must", { v = value })
            ch:command(actor, "May", { v = value })
          end
          for _, value in ipairs(bad[kind]) do
            refused("InvalidArgumentError", "v", ch, actor, "Must", { v = value })
            refused("InvalidArgumentError", "v", ch, actor, "May", { v = value })
          end
          refused("MissingArgumentError", "v", ch, actor, "Must", {})
          refused("MissingArgumentError", "v", ch, actor, "Must")
          refused("MissingArgumentError", "v", ch, actor, "Must", { v = tidelog.null })
          ch:command(actor, "May", {})
          ch:command(actor, "May", { v = tidelog.null })
        end)
      end

      it("takes fields that the types do not name", function()
        handler({ C = { payload = { v = "integer" }, handle = function() end } })
          :command(actor, "C", { v = 1, other = "x" })
      end)
    end)

    it("takes no payload, an empty one, or a table", function()
      local ch = handler()
      assert.equal("table", type(ch:command(actor, "Nothing").payload))
      ch:command(actor, "Nothing", {})
      for _, payload in ipairs { 42, "x", true, print, { 1, 2 }, tidelog.array {}, tidelog.null } do
        refused("InvalidArgumentError", "payload", ch, actor, "Nothing", payload)
      end
    end)

    it("takes the read-only payload of another command", function()
      local ch = handler()
      local first = ch:command(actor, "Add", { n = 1, tags = { "a", { b = 1 } } })
      local second = ch:command(actor, "Add", first.payload)
      expect.exactly(first.payload, second.payload)
      assert.are_not.equal(first.aggregateId, second.aggregateId)
    end)

    it("takes only a table of known names as options", function()
      local ch = handler()
      for _, options in ipairs { 42, "x", true, print } do
        refused("InvalidArgumentError", "options", ch, actor, "Add", { n = 1 }, options)
      end
      refused("InvalidArgumentError", "options", ch, actor, "Add", { n = 1 }, { correlationID = "x" })
      for _, name in ipairs { "commandId", "correlationId", "causationId" } do
        for _, value in ipairs { 42, true, {}, "a\0b", "\255", ("x"):rep(1 << 20) } do
          refused("InvalidArgumentError", name, ch, actor, "Add", { aggregateId = "a", n = 1 }, { [name] = value })
        end
        refused("MissingArgumentError", name, ch, actor, "Add", { aggregateId = "a", n = 1 }, { [name] = "" })
      end
    end)

    -- ---- the aggregate -----------------------------------------------------------------

    it("without aggregateId makes a new aggregate, whose id is unique and sorts by time", function()
      local ch, ids, last = handler(), {}, ""
      for _ = 1, 50 do
        local context = ch:command(actor, "Add", { n = 1 })
        local id = context.aggregateId
        assert.equal(id, context.aggregate.aggregateId)
        assert.equal(0, context.aggregate.aggregateVersion)
        assert.is_nil(ids[id])
        assert.is_true(last < id)
        ids[id], last = true, id
      end
      local other = tidelog.CommandHandler(s.another(), { domain.Tally() })
      assert.equal(1, other:load("tenant1", "Tally", last).sum)
      assert.equal(2, other:command(actor, "Add", { aggregateId = last, n = 1 }).aggregate.sum)
    end)

    it("takes any name as aggregateId", function()
      local ch = handler()
      for _, id in ipairs { "a", "A", " ", "a b", "a/b", "../x", "ä", "日本", "%", "'", '"; --', "$x", "a.b", "-1" } do
        assert.equal(1, ch:command(actor, "Add", { aggregateId = id, n = 1 }).aggregate.sum)
        assert.equal(id, ch:load("tenant1", "Tally", id).aggregateId)
      end
      for _, id in ipairs { 42, 1.5, true, false, {}, "a\0b", "a\n", "\255", ("x"):rep(1 << 20), tidelog.null } do
        refused("InvalidArgumentError", "aggregateId", ch, actor, "Add", { aggregateId = id, n = 1 })
      end
      refused("MissingArgumentError", "aggregateId", ch, actor, "Add", { aggregateId = "", n = 1 })
    end)

    it("has versions from 0 without a gap, −1 before the first event", function()
      local ch = handler()
      assert.equal(-1, ch:command(actor, "Nothing", { aggregateId = "a" }).aggregate.aggregateVersion)
      for version = 0, 3 do
        local context = ch:command(actor, "Add", { aggregateId = "a", n = 1 })
        assert.equal(version, context.aggregate.aggregateVersion)
        assert.equal("integer", math.type(context.aggregate.aggregateVersion))
      end
      assert.equal(6, ch:command(actor, "AddAll", { aggregateId = "a", all = { 1, 2, 3 } }).aggregate.aggregateVersion)
      assert.equal(6, ch:command(actor, "Nothing", { aggregateId = "a" }).aggregate.aggregateVersion)
    end)

    it("keeps types apart that have the same id", function()
      local Other = { name = "Other", commands = { AddOther = function(_, context) context:push "Added" end },
                      events = { Added = function(self, event) self.other = event.payload.n end } }
      local ch = tidelog.CommandHandler(s.store, { domain.Tally(), Other })
      ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      local context = ch:command(actor, "AddOther", { aggregateId = "a", n = 2 })
      assert.equal(0, context.aggregate.aggregateVersion)
      assert.equal(2, context.aggregate.other)
      assert.is_nil(context.aggregate.sum)
    end)

    -- ---- expectedVersion ------------------------------------------------------------------

    for _, cacheSize in ipairs { 0, 1000 } do
      describe("with expectedVersion and a cache of " .. cacheSize, function()
        local ch
        before_each(function()
          ch = handler(nil, nil, { cacheSize = cacheSize })
          for n = 1, 3 do ch:command(actor, "Add", { aggregateId = "a", n = n }) end
        end)

        it("acts on that version", function()
          local context = ch:command(actor, "Add", { aggregateId = "a", n = 1, expectedVersion = 2 })
          assert.equal(3, context.aggregate.aggregateVersion)
          assert.equal(2, context.expectedVersion)
          ch:command(actor, "Add", { aggregateId = "a", n = 1, expectedVersion = context.aggregate.aggregateVersion })
          ch:command(actor, "Add", { aggregateId = "new", n = 1, expectedVersion = -1 })
        end)

        it("is refused where it is stale or ahead", function()
          for _, version in ipairs { -1, 0, 1, 3, 4, math.maxinteger } do
            refused("ConcurrencyError", nil, ch, actor, "Add", { aggregateId = "a", n = 1, expectedVersion = version })
          end
          refused("ConcurrencyError", nil, ch, actor, "Add", { aggregateId = "new", n = 1, expectedVersion = 0 })
          assert.equal(6, ch:load("tenant1", "Tally", "a").sum)
        end)

        it("is refused before the command is decided", function()
          local decided = 0
          local other = handler({ Count = function() decided = decided + 1 end })
          refused("ConcurrencyError", nil, other, actor, "Count", { aggregateId = "a", expectedVersion = 1 })
          assert.equal(0, decided)
        end)

        it("takes whole numbers from −1 on", function()
          ch:command(actor, "Add", { aggregateId = "a", n = 1, expectedVersion = 2.0 })
          for _, version in ipairs { 1.5, "2", "", true, false, {}, -2, math.mininteger, 0 / 0, math.huge, print,
                                     tidelog.null } do
            refused("InvalidArgumentError", "expectedVersion", ch, actor, "Add",
              { aggregateId = "a", n = 1, expectedVersion = version })
          end
        end)

        it("needs an aggregateId", function()
          for _, version in ipairs { -1, 0 } do
            refused("MissingArgumentError", "aggregateId", ch, actor, "Add", { n = 1, expectedVersion = version })
          end
        end)
      end)
    end

    -- ---- the context -------------------------------------------------------------------

    it("has a context with everything it was given", function()
      local inside
      local context = decide(function(self, context)
        inside = { actor = context.actor, command = context.command, aggregate = context.aggregate, self = self,
                   aggregateId = context.aggregateId, aggregateType = context.aggregateType, cached = context.cached,
                   expectedVersion = context.expectedVersion, count = #context.events }
        context:push "Added"
        inside.after = #context.events
      end, { n = 1, expectedVersion = -1 })
      assert.equal(actor, inside.actor)
      assert.equal("Decide", inside.command)
      assert.equal(inside.self, inside.aggregate)
      assert.equal("a", inside.aggregateId)
      assert.equal("Tally", inside.aggregateType)
      assert.equal(-1, inside.expectedVersion)
      assert.equal(0, inside.count)
      assert.equal(1, inside.after)
      assert.is_false(inside.cached)
      assert.equal(actor, context.actor)
      assert.equal("Decide", context.command)
      assert.equal("a", context.aggregateId)
      assert.equal(1, context.aggregate.sum)
      assert.is_false(context.duplicate)
    end)

    it("says whether the aggregate came from the cache", function()
      local ch = handler()
      assert.is_false(ch:command(actor, "Add", { aggregateId = "a", n = 1 }).cached)
      assert.is_true(ch:command(actor, "Add", { aggregateId = "a", n = 1 }).cached)
      assert.is_false(handler():command(actor, "Add", { aggregateId = "a", n = 1 }).cached)
    end)

    it("has a payload without aggregateId, expectedVersion and commandId, but only at the top", function()
      local context = decide(function(_, context) context:push "Added" end,
        { n = 1, expectedVersion = -1, commandId = "c1", aggregateVersion = 5, id = "kept",
          nested = { aggregateId = "x", expectedVersion = 1, commandId = "y" } })
      local expected = { n = 1, nested = { aggregateId = "x", expectedVersion = 1, commandId = "y" },
                         aggregateVersion = 5, id = "kept" }
      expect.exactly(expected, context.payload)
      expect.exactly(expected, domain.events(s.store)[1].payload)
    end)

    it("has a read-only payload, also in what it holds", function()
      decide(function(_, context)
        local payload = context.payload
        expect.error("InvalidArgumentError", "n", function() payload.n = 2 end)
        expect.error("InvalidArgumentError", "new", function() payload.new = 2 end)
        expect.error("InvalidArgumentError", nil, function() payload.list[1] = "b" end)
        expect.error("InvalidArgumentError", nil, function() payload.list[2].deep.x = 2 end)
        assert.is_false(pcall(table.insert, payload.list, "b"))
        assert.is_false(pcall(table.remove, payload.list))
        assert.is_false(pcall(setmetatable, payload, {}))
        context:push "Added"
      end, { n = 1, list = { "a", { deep = { x = 1 } } } })
      expect.exactly({ n = 1, list = { "a", { deep = { x = 1 } } } }, domain.events(s.store)[1].payload)
    end)

    it("can look through its payload with pairs, ipairs and #", function()
      decide(function(_, context)
        local keys = {}
        for key, value in pairs(context.payload) do keys[key] = value end
        assert.equal(7, keys.n)
        local list = {}
        for i, value in ipairs(context.payload.list) do list[i] = value end
        assert.same({ "a", "b" }, { list[1], list[2] })
        assert.equal(3, #context.payload.list)
        assert.equal("c", context.payload.list[3][1])
        assert.equal("a", (table.unpack(context.payload.list)))
        assert.equal("a,b", table.concat(context.payload.list, ",", 1, 2))
        assert.equal(1, select("#", next(context.payload.empty)))
      end, { n = 7, list = { "a", "b", { "c" } }, empty = {} })
    end)

    it("leaves the caller's own payload as it was", function()
      local list = { "a", { b = 1 } }
      local payload = { aggregateId = "a", expectedVersion = -1, commandId = "c", n = 1, list = list }
      local context = handler():command(actor, "Add", payload)
      assert.same({ aggregateId = "a", expectedVersion = -1, commandId = "c", n = 1, list = { "a", { b = 1 } } },
        payload)
      assert.equal(list, payload.list)
      assert.is_nil(getmetatable(payload))
      assert.is_nil(getmetatable(list))
      payload.n, list[1] = 2, "changed"
      assert.equal(1, context.payload.n)
      assert.equal("a", context.payload.list[1])
      assert.equal(1, context.events[1].payload.n)
    end)

    -- ---- push ----------------------------------------------------------------------------

    it("pushes its own payload under version 0, where nothing else is said", function()
      decide(function(_, context) context:push "Added" end, { n = 3, x = "y" })
      local event = domain.events(s.store)[1]
      expect.exactly({ n = 3, x = "y" }, event.payload)
      expect.exactly(0, event.version)
      assert.equal("Added", event.name)
    end)

    it("pushes another payload and version, if it says so", function()
      decide(function(_, context)
        context:push("Added", { n = 4 }, 7)
        context:push("Added", context.payload, 8)
        context:push("Added", nil, 2.0)
      end, { n = 3 })
      local events = domain.events(s.store)
      expect.exactly({ { n = 4 }, { n = 3 }, { n = 3 } },
        { events[1].payload, events[2].payload, events[3].payload })
      expect.exactly({ 7, 8, 2 }, { events[1].version, events[2].version, events[3].version })
    end)

    it("pushes parts of its read-only payload", function()
      decide(function(_, context) context:push("Added", { n = 1, part = context.payload.list }) end,
        { list = { 1, { a = tidelog.array {} } } })
      expect.exactly({ n = 1, part = { 1, { a = tidelog.array {} } } }, domain.events(s.store)[1].payload)
      decide(function(_, context) context:push("Added", context.payload.inner) end, { inner = { n = 5 } })
      expect.exactly({ n = 5 }, domain.events(s.store)[2].payload)
    end)

    it("applies an event at once, so that the next decision sees it", function()
      local sums = {}
      local context = decide(function(self, context)
        for n = 1, 3 do
          context:push("Added", { n = n })
          sums[n] = { self.sum, self.aggregateVersion, context.aggregate.sum }
        end
      end)
      assert.same({ { 1, 0, 1 }, { 3, 1, 3 }, { 6, 2, 6 } }, sums)
      assert.equal(3, #context.events)
      assert.equal(3, s.store:head "tenant1")
    end)

    it("stores the events of several pushes together, in order", function()
      handler():command(actor, "AddAll", { aggregateId = "a", all = { 1, 2, 3 } })
      assert.same({ commits = 1, events = 3 }, s.store:check "tenant1")
      local found = {}
      for i, event in ipairs(domain.events(s.store)) do
        found[i] = { event.position, event.aggregateVersion, event.payload.n }
      end
      assert.same({ { 0, 0, 1 }, { 1, 1, 2 }, { 2, 2, 3 } }, found)
    end)

    it("gives the caller the events as they were stored", function()
      local context = handler():command(actor, "AddAll", { aggregateId = "a", all = { 1, 2.0 } },
        { correlationId = "r", causationId = "k" })
      for i, event in ipairs(domain.events(s.store)) do
        expect.exactly(event, context.events[i])
      end
      assert.equal(2, #context.events)
    end)

    it("gives the caller the events as they were stored also where the state keeps a payload and changes it", function()
      local ch = handler({ Both = function(_, context)
        context:push("Kept", { items = { 1 } })
        context:push("Grown", {})
      end }, {
        Kept = function(self, event) self.items = event.payload.items end,
        Grown = function(self, event) self.items[2], event.payload.more = 2, true end,
      })
      local context = ch:command(actor, "Both", { aggregateId = "a" })
      expect.exactly({ { items = { 1 } }, {} }, { context.events[1].payload, context.events[2].payload })
      assert.same({ 1, 2 }, context.aggregate.items)
      assert.same({ 1, 2 }, ch:load("tenant1", "Tally", "a").items)
      assert.same({ 1, 2 }, handler(nil, {
        Kept = function(self, event) self.items = event.payload.items end,
        Grown = function(self, event) self.items[2], event.payload.more = 2, true end,
      }):load("tenant1", "Tally", "a").items)
    end)

    it("refuses an event that the aggregate has no function for", function()
      local ch = handler { C = function(_, context) context:push(context.payload.name) end }
      for _, name in ipairs { "Unknown", "added", "Add" } do
        refused("NotImplementedError", name, ch, actor, "C", { aggregateId = "a", name = name })
      end
    end)

    it("refuses a name or version that is none", function()
      local function try(...)
        local arguments = table.pack(...)
        return function() decide(function(_, context) context:push(table.unpack(arguments, 1, arguments.n)) end) end
      end
      expect.error("MissingArgumentError", "name", try())
      expect.error("MissingArgumentError", "name", try "")
      for _, name in ipairs { 42, true, {}, print, "a\0", "\255" } do
        expect.error("InvalidArgumentError", "name", try(name))
      end
      for _, version in ipairs { -1, 1.5, "1", {}, true, 1 << 31, math.huge } do
        expect.error("InvalidArgumentError", "version", try("Added", { n = 1 }, version))
      end
      for _, payload in ipairs { 42, "x", false, { 1 }, tidelog.array {} } do
        expect.error("InvalidArgumentError", "payload of Added", try("Added", payload))
      end
      expect.error("InvalidArgumentError", "f.g", try("Added", { f = { g = print } }))
      assert.equal(0, s.store:head "tenant1")
    end)

    it("says so where push is called with a dot", function()
      expect.error("InvalidArgumentError", nil, decide, function(_, context) context.push "Added" end)
    end)

    it("pushes nothing once it is done", function()
      local kept
      local context = decide(function(_, context)
        kept = context
        context:push "Added"
      end)
      expect.error("PreconditionError", nil, kept.push, kept, "Added")
      expect.error("PreconditionError", nil, context.push, context, "Added")
      assert.equal(1, #context.events)
      assert.equal(1, context.aggregate.sum)
      assert.equal(1, s.store:head "tenant1")
    end)

    it("pushes nothing once it has failed", function()
      local kept
      pcall(decide, function(_, context)
        kept = context
        error "no"
      end)
      expect.error("PreconditionError", nil, kept.push, kept, "Added")
    end)

    it("fails with what an event function raised, also where it caught that itself", function()
      local ch = handler({ C = function(_, context)
        context:push("Added", { n = 1 })
        pcall(context.push, context, "Failing")
        pcall(context.push, context, "Added")
      end }, { Failing = function(self)
        self.sum = 1000
        error(Err.precondition "missing left side")
      end })
      local err = refused("PreconditionError", nil, ch, actor, "C", { aggregateId = "a", n = 1 })
      assert.equal("missing left side", err.message)
      assert.equal(-1, ch:load("tenant1", "Tally", "a").aggregateVersion)
      assert.equal(1, ch:command(actor, "Add", { aggregateId = "a", n = 1 }).aggregate.sum)
    end)

    it("goes on where a push was refused before it touched the state, and that was caught", function()
      local context = decide(function(_, context)
        pcall(context.push, context, "Unknown")
        pcall(context.push, context, "Added", { n = print })
        pcall(context.push, context, "Added", { n = 1 }, -1)
        context:push("Added", { n = 2 })
      end)
      assert.equal(2, context.aggregate.sum)
      assert.equal(1, s.store:head "tenant1")
    end)

    it("may leave its context's events and aggregate alone or not: what it pushed is stored", function()
      decide(function(_, context)
        context:push("Added", { n = 1 })
        context.events[1].payload.n = 100
        context.events[1].name = "Other"
        context:push("Added", { n = 2 })
      end)
      local events = domain.events(s.store)
      assert.same({ "Added", 1, "Added", 2 },
        { events[1].name, events[1].payload.n, events[2].name, events[2].payload.n })
    end)

    it("cannot write into another aggregate, tenant or name by changing its context", function()
      for field, value in pairs { aggregateId = "b", aggregateType = "Other", command = "Other", commandId = "x",
                                  correlationId = "x", causationId = "x", payload = { n = 100 },
                                  actor = domain.actor { id = "user2", tenant = "tenant2" } } do
        pcall(decide, function(_, context)
          context[field] = value
          context:push("Added", { n = 1 })
        end)
      end
      assert.equal(0, s.store:head "tenant2")
      for _, event in ipairs(domain.events(s.store)) do
        assert.same({ "a", "Tally", "Decide", "user1" },
          { event.aggregateId, event.aggregateType, event.command, event.actor.id })
        assert.are_not.equal("x", event.commandId)
        assert.are_not.equal("x", event.correlationId)
        assert.is_nil(event.causationId)
      end
    end)

    it("pushes the payload that it names, whatever stands in context.payload", function()
      local ok, context = pcall(decide, function(_, context)
        context.payload = { n = 5 }
        context:push("Added", context.payload)
      end, { n = 1 })
      if ok then -- or the field is read-only
        assert.equal(5, context.aggregate.sum)
        assert.equal(5, domain.events(s.store)[1].payload.n)
      end
    end)

    it("does not ask the payload's metamethods", function()
      local odd = setmetatable({ n = 5 }, { __eq = function() return true end, __pairs = error, __len = error,
                                            __index = error })
      expect.error("InvalidArgumentError", "payload of Added", decide,
        function(_, context) context:push("Added", odd) end)
    end)

    -- ---- context:load -------------------------------------------------------------------

    it("can load other aggregates of the actor's tenant", function()
      local found
      local ch = handler { Look = function(_, context) found = context:load("Tally", context.payload.other) end }
      ch:command(actor, "Add", { aggregateId = "b", n = 5 })
      ch:command(domain.actor { tenant = "tenant2" }, "Add", { aggregateId = "b", n = 50 })
      ch:command(actor, "Look", { aggregateId = "a", other = "b" })
      assert.equal(5, found.sum)
      assert.equal(0, found.aggregateVersion)
      found.sum, found.list[1] = 1000, 1000
      ch:command(actor, "Look", { aggregateId = "a", other = "b" })
      assert.equal(5, found.sum)
      assert.equal(5, found.list[1])
      ch:command(actor, "Look", { aggregateId = "a", other = "none" })
      assert.equal(-1, found.aggregateVersion)
    end)

    it("can load by the aggregate's table, also of one that has no commands here", function()
      local Other = domain.Tally { name = "Other" }
      tidelog.CommandHandler(s.store, { Other }):command(actor, "Add", { aggregateId = "b", n = 5 })
      decide(function(_, context) assert.equal(5, context:load(Other, "b").sum) end)
    end)

    it("can load at an expectedVersion only", function()
      local ch = handler { Look = function(_, context)
        context:load("Tally", "b", context.payload.version)
        context:push("Added", { n = 1 })
      end }
      ch:command(actor, "Add", { aggregateId = "b", n = 5 })
      ch:command(actor, "Look", { aggregateId = "a", version = 0 })
      for _, version in ipairs { -1, 1 } do
        refused("ConcurrencyError", nil, ch, actor, "Look", { aggregateId = "a", version = version })
      end
      for _, version in ipairs { "0", 0.5, -2, true } do
        refused("InvalidArgumentError", "expectedVersion", ch, actor, "Look", { aggregateId = "a", version = version })
      end
    end)

    it("can load its own aggregate, as it is in the store", function()
      local context = decide(function(self, context)
        context:push("Added", { n = 1 })
        assert.equal(1, self.sum)
        assert.equal(0, context:load("Tally", "a").sum)
        context:push("Added", { n = 1 })
      end)
      assert.equal(2, context.aggregate.sum)
      assert.equal(1, context.aggregate.aggregateVersion)
    end)

    -- ---- time and chance ----------------------------------------------------------------

    it("is given one moment, which is recorded, and no other place for it", function()
      local times
      local bodies = domain.bodies(function()
        local context = decide(function(_, context)
          times = { context.time }
          local started = os.clock()
          while os.clock() < started + 0.005 do end
          times[2] = context.time
          context:push "Added"
        end)
        times[3] = context.time
      end)
      assert.is_truthy(times[1]:match "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$")
      assert.equal(times[1], times[2])
      assert.equal(times[1], times[3])
      assert.equal(times[1], require "tidelog.engine".formatTime(bodies[1].time))
      assert.is_true(times[1] <= domain.events(s.store)[1].time)
    end)

    it("is given random numbers, which are recorded in their order", function()
      local drawn
      local bodies = domain.bodies(function()
        decide(function(_, context)
          drawn = { context:random(), context:random(), context:random(6), context:random(-3, 3) }
          context:push "Added"
        end)
      end)
      assert.equal(4, #bodies[1].random)
      expect.exactly({ drawn[1], drawn[2] }, { bodies[1].random[1], bodies[1].random[2] })
      expect.exactly({ 1 + math.floor(bodies[1].random[3] * 6), -3 + math.floor(bodies[1].random[4] * 7) },
        { drawn[3], drawn[4] })
    end)

    it("records neither where it asked for neither", function()
      local bodies = domain.bodies(function() decide(function(_, context) context:push "Added" end) end)
      assert.is_nil(bodies[1].time)
      assert.is_nil(bodies[1].random)
      assert.equal(16, #bodies[1].code)
    end)

    it("draws numbers like math.random", function()
      decide(function(_, context)
        local seen = {}
        for _ = 1, 300 do
          local value = context:random()
          assert.is_true(value >= 0 and value < 1)
          local die = context:random(6)
          assert.is_true(math.type(die) == "integer" and die >= 1 and die <= 6)
          seen[die] = true
          local around = context:random(-1, 1)
          assert.is_true(around >= -1 and around <= 1)
        end
        assert.equal(6, #seen)
        assert.equal(7, context:random(7, 7))
        assert.equal(1, context:random(1))
        assert.equal(math.maxinteger, context:random(math.maxinteger, math.maxinteger))
        expect.error("InvalidArgumentError", "n", context.random, context, 0)
        expect.error("InvalidArgumentError", "n", context.random, context, 2, 1)
        expect.error("InvalidArgumentError", "n", context.random, context, math.mininteger, math.maxinteger)
        expect.error("InvalidArgumentError", nil, context.random, context, 1.5)
        expect.error("InvalidArgumentError", nil, context.random, context, "6")
        expect.error("InvalidArgumentError", "m", context.random, context, 1.5, 2)
        expect.error("InvalidArgumentError", "n", context.random, context, 1, "6")
      end)
    end)

    -- ---- ids ----------------------------------------------------------------------------

    it("has a commandId, which is also the correlationId where none is given", function()
      local ch = handler()
      local context = ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      local other = ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      assert.is_true(#context.commandId > 0)
      assert.are_not.equal(context.commandId, other.commandId)
      assert.equal(context.commandId, context.correlationId)
      assert.is_nil(context.causationId)
      local event = domain.events(s.store)[1]
      assert.same({ context.commandId, context.commandId }, { event.commandId, event.correlationId })
      assert.is_nil(event.causationId)
    end)

    it("keeps the correlationId and causationId that are given with every event", function()
      handler():command(actor, "AddAll", { aggregateId = "a", commandId = "c", all = { 1, 2 } },
        { correlationId = "order 7", causationId = "event 5" })
      for _, event in ipairs(domain.events(s.store)) do
        assert.same({ "c", "order 7", "event 5" }, { event.commandId, event.correlationId, event.causationId })
      end
    end)
  end)
end
