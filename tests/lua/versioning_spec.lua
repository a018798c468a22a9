assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local engine = require "tidelog.engine"
local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

local actor = domain.actor()

-- Loads the source of an aggregate's module, as a file of it would be.
local function load_source(source)
  return assert(load(source, "=aggregate", "t"))()
end

-- How many events `fn` makes the engine show to event functions.
local function folded(fn)
  local fold, count = engine.fold, 0
  engine.fold = function(scan, state, ...)
    local before = state.aggregateVersion
    fold(scan, state, ...)
    count = count + state.aggregateVersion - before
  end
  local ok, problem = pcall(fn)
  engine.fold = fold
  if not ok then error(problem, 0) end
  return count
end

for _, s in ipairs(stores.all()) do
  describe("upcasters on " .. s.name, function()
    before_each(s.setup)
    after_each(s.teardown)

    -- Money in three schemas: { amount }, { cents }, { cents, currency }.
    local function Purse(upcast)
      return {
        name = "Purse",
        init = function(self) self.cents, self.seen = 0, {} end,
        commands = {
          Pay = function(_, context) context:push("Paid", context.payload.paid, context.payload.version) end,
          PayAll = function(_, context)
            for _, each in ipairs(context.payload.all) do context:push("Paid", each[2], each[1]) end
          end,
          Note = function(_, context) context:push("Noted", { text = "x" }) end,
        },
        events = {
          Paid = function(self, event)
            self.cents = self.cents + event.payload.cents
            self.seen[#self.seen + 1] = { event.version, event.payload.currency }
          end,
          Noted = function(self, event) self.seen[#self.seen + 1] = { event.version, event.payload.text } end,
        },
        upcast = upcast,
      }
    end

    local upcast = { Paid = {
      [0] = function(payload) return { cents = math.floor(payload.amount * 100) } end,
      [1] = function(payload) payload.currency = "EUR"; return payload end,
    } }

    it("bring each event to the newest schema, one step after the other", function()
      local ch = tidelog.CommandHandler(s.store, { Purse(upcast) })
      for _, each in ipairs { { 0, { amount = 1.5 } }, { 1, { cents = 20 } },
                              { 2, { cents = 3, currency = "SEK" } } } do
        ch:command(actor, "Pay", { aggregateId = "a", version = each[1], paid = each[2] })
      end
      ch:command(actor, "Note", { aggregateId = "a" })
      local expected = { { 2, "EUR" }, { 2, "EUR" }, { 2, "SEK" }, { 0, "x" } }
      for _, handler in ipairs { ch, tidelog.CommandHandler(s.another(), { Purse(upcast) }) } do
        local purse = handler:load("tenant1", "Purse", "a")
        assert.equal(173, purse.cents)
        assert.same(expected, purse.seen)
      end
    end)

    it("do the same when the event is pushed and when it is replayed", function()
      local ch = tidelog.CommandHandler(s.store, { Purse(upcast) })
      local context = ch:command(actor, "PayAll", { aggregateId = "a", all = {
        { 0, { amount = 1 } }, { 1, { cents = 1 } }, { 0, { amount = 2 } },
      } })
      local replayed = tidelog.CommandHandler(s.store, { Purse(upcast) }):load("tenant1", "Purse", "a")
      expect.exactly({ context.aggregate.cents, context.aggregate.seen }, { replayed.cents, replayed.seen })
      expect.exactly({ 301, { { 2, "EUR" }, { 2, "EUR" }, { 2, "EUR" } } }, { replayed.cents, replayed.seen })
    end)

    it("leave what is stored, and what the caller and handlers see, as it was pushed", function()
      local ch = tidelog.CommandHandler(s.store, { Purse(upcast) })
      local context = ch:command(actor, "Pay", { aggregateId = "a", version = 1, paid = { cents = 5 } })
      for _, event in ipairs { context.events[1], domain.events(s.store)[1] } do
        expect.exactly({ 1, { cents = 5 } }, { event.version, event.payload })
      end
    end)

    it("are applied to events that were stored before they were written", function()
      local old = Purse()
      old.events.Paid = function(self, event) self.cents = self.cents + event.payload.amount * 100 end
      tidelog.CommandHandler(s.store, { old }):command(actor, "Pay",
        { aggregateId = "a", version = 0, paid = { amount = 7 } })
      assert.equal(700, tidelog.CommandHandler(s.store, { Purse(upcast) }):load("tenant1", "Purse", "a").cents)
    end)

    it("begin at the event's version: what is newer than all steps stays as it is", function()
      local ch = tidelog.CommandHandler(s.store, { Purse(upcast) })
      local purse = ch:command(actor, "Pay", { aggregateId = "a", version = 9, paid = { cents = 1, currency = "X" } })
        .aggregate
      assert.same({ { 9, "X" } }, purse.seen)
      assert.same({ { 9, "X" } }, ch:load("tenant1", "Purse", "a", { version = 0 }).seen)
    end)

    it("stop at a gap between the steps", function()
      local gap = Purse { Paid = { [0] = upcast.Paid[0], [2] = function() error "not reached" end } }
      local purse = tidelog.CommandHandler(s.store, { gap }):command(actor, "Pay",
        { aggregateId = "a", version = 0, paid = { amount = 1 } }).aggregate
      assert.same({ { 1 } }, purse.seen)
    end)

    it("that raise, or return no table, fail the command, and nothing is stored", function()
      for _, step in ipairs { function() error(tidelog.Err.precondition "no step") end, function() end,
                              function() return 42 end } do
        local ch = tidelog.CommandHandler(s.store, { Purse { Paid = { [0] = step } } })
        assert.is_false(pcall(ch.command, ch, actor, "Pay", { aggregateId = "a", version = 0, paid = {} }))
        assert.equal(0, s.store:head "tenant1")
      end
    end)

    it("that fail at replay say which event cannot be replayed, and change nothing", function()
      local ch = tidelog.CommandHandler(s.store, { Purse(upcast) })
      ch:command(actor, "Pay", { aggregateId = "a", version = 1, paid = { cents = 1 } })
      ch:command(actor, "Pay", { aggregateId = "a", version = 0, paid = { amount = 1 } })
      local broken = tidelog.CommandHandler(s.store, {
        Purse { Paid = { [0] = function() error "lost" end, [1] = upcast.Paid[1] } },
      })
      for _, fn in ipairs { function() broken:load("tenant1", "Purse", "a") end,
                            function() broken:command(actor, "Note", { aggregateId = "a" }) end } do
        local ok, problem = pcall(fn)
        assert.is_false(ok)
        assert.is_truthy(tostring(problem):find("Purse 'a'", 1, true), tostring(problem))
        assert.is_truthy(tostring(problem):find("version 1", 1, true), tostring(problem))
        assert.is_truthy(tostring(problem):find("lost", 1, true), tostring(problem))
      end
      assert.equal(1, broken:load("tenant1", "Purse", "a", { version = 0 }).cents)
      assert.equal(2, s.store:head "tenant1")
    end)
  end)

  describe("an event without a function on " .. s.name, function()
    before_each(s.setup)
    after_each(s.teardown)

    it("is refused at replay with NotImplementedError, unless the aggregate ignores it", function()
      local Old = domain.Tally { events = { Legacy = function() end },
                                 commands = { Old = function(_, context) context:push "Legacy" end } }
      local ch = tidelog.CommandHandler(s.store, { Old })
      ch:command(actor, "Old", { aggregateId = "a" })
      ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      local strict = tidelog.CommandHandler(s.store, { domain.Tally() })
      local err = expect.error("NotImplementedError", "Legacy", strict.load, strict, "tenant1", "Tally", "a")
      assert.equal("Legacy", err.method)
      for _, ignore in ipairs { { "Legacy" }, { Legacy = true } } do
        local lenient = tidelog.CommandHandler(s.store, { domain.Tally { ignore = ignore } })
        local tally = lenient:load("tenant1", "Tally", "a")
        assert.same({ 1, 1 }, { tally.sum, tally.aggregateVersion })
      end
    end)
  end)

  describe("snapshots on " .. s.name, function()
    before_each(s.setup)
    after_each(s.teardown)

    local source = [[
      local factor = 1
      local function weigh(n) return n * factor end
      local Sum = { name = "Sum", path = "/sums", snapshot = { every = 2 } }
      function Sum:init() self.sum = 0 end
      function Sum:grow(n) self.sum = self.sum + weigh(n) end
      Sum.commands = { Add = function(self, context) context:push "Added" end }
      Sum.events = { Added = function(self, event) self:grow(event.payload.n) end }
      return Sum
    ]]

    local function fill(Type, count, options)
      local ch = tidelog.CommandHandler(s.store, { Type }, nil, options)
      for n = 1, count do ch:command(actor, "Add", { aggregateId = "a", n = n }) end
      return ch
    end

    -- How many events are read for the state of "a" in this type, and the state.
    local function read(Type, at)
      local state
      local count = folded(function()
        state = tidelog.CommandHandler(s.store, { Type }):load("tenant1", Type, "a", at)
      end)
      return count, state
    end

    it("are written every n events, and save reading what is before them", function()
      for count = 1, 7 do
        local Type = load_source(source:gsub("every = 2", "every = 3"))
        Type.name = "Sum" .. count
        fill(Type, count)
        local events, state = read(Type)
        assert.same({ count % 3, count * (count + 1) // 2, count - 1 }, { events, state.sum, state.aggregateVersion })
      end
    end)

    it("are written where a commit of several events passes the n-th", function()
      local Tally = domain.Tally { snapshot = { every = 5 } }
      local ch = tidelog.CommandHandler(s.store, { Tally })
      ch:command(actor, "AddAll", { aggregateId = "a", all = { 1, 2, 3 } })
      ch:command(actor, "AddAll", { aggregateId = "a", all = { 4, 5, 6 } })
      ch:command(actor, "AddAll", { aggregateId = "a", all = { 7 } })
      local events, state = read(Tally)
      assert.same({ 1, 28, 6 }, { events, state.sum, state.aggregateVersion })
    end)

    it("are not written with snapshot = false", function()
      local Type = load_source(source:gsub("{ every = 2 }", "false"))
      fill(Type, 5)
      assert.equal(5, (read(Type)))
    end)

    it("are written every 100 events, where nothing is said", function()
      local Tally = domain.Tally()
      local ch, all = tidelog.CommandHandler(s.store, { Tally }), {}
      for n = 1, 60 do all[n] = n end
      ch:command(actor, "AddAll", { aggregateId = "a", all = all })
      assert.equal(60, (read(Tally)))
      ch:command(actor, "AddAll", { aggregateId = "a", all = all })
      assert.equal(0, (read(Tally)))
    end)

    it("are not used for a version before them", function()
      local Type = load_source(source)
      fill(Type, 4)
      local events, state = read(Type, { version = 1 })
      assert.same({ 2, 3 }, { events, state.sum })
      events, state = read(Type, { version = 3 })
      assert.same({ 0, 10 }, { events, state.sum })
    end)

    it("are used whatever the cache is", function()
      for _, cacheSize in ipairs { 0, 1, 1000 } do
        local Type = load_source(source)
        Type.name = "Sum" .. cacheSize
        fill(Type, 4, { cacheSize = cacheSize })
        assert.equal(0, (read(Type)))
      end
    end)

    it("keep tenants, types and ids apart", function()
      local Type, Other = load_source(source), load_source(source)
      Other.name, Other.commands = "Other", { AddOther = Other.commands.Add }
      local ch = tidelog.CommandHandler(s.store, { Type, Other })
      local n = 0
      for _, tenant in ipairs { "tenant1", "tenant2" } do
        for _, command in ipairs { "Add", "AddOther" } do
          for _, id in ipairs { "a", "b" } do
            n = n + 1
            for _ = 1, 2 do
              ch:command(domain.actor { tenant = tenant }, command, { aggregateId = id, n = n })
            end
          end
        end
      end
      local fresh = tidelog.CommandHandler(s.store, { Type, Other })
      n = 0
      for _, tenant in ipairs { "tenant1", "tenant2" } do
        for _, name in ipairs { "Sum", "Other" } do
          for _, id in ipairs { "a", "b" } do
            n = n + 1
            assert.equal(2 * n, fresh:load(tenant, name, id).sum)
          end
        end
      end
    end)

    local function changed(from, to)
      local new, count = source:gsub(from, to)
      assert.equal(1, count)
      return load_source(new)
    end

    local unused = {
      ["an event function"] = { "self:grow%(event.payload.n%)", "self:grow(event.payload.n * 10)", 30 },
      ["a method that an event function calls"] = { "self.sum %+ weigh%(n%)", "self.sum + weigh(n) * 10", 30 },
      ["a local function that is called"] = { "return n %* factor", "return n * factor * 10", 30 },
      ["a local value that is used"] = { "local factor = 1", "local factor = 10", 30 },
      ["a local value from integer to float"] = { "local factor = 1", "local factor = 1.0", 3.0 },
      ["init"] = { "self.sum = 0", "self.sum = 100", 103 },
      ["upcasters"] = { "return Sum", [[
        Sum.upcast = { Added = { [0] = function(payload) return { n = payload.n * 10 } end } }
        return Sum]], 30 },
    }
    for what, case in pairs(unused) do
      it("are not used after a change of " .. what, function()
        fill(load_source(source), 2)
        local events, state = read(changed(case[1], case[2]))
        assert.equal(2, events)
        expect.exactly(case[3], state.sum)
      end)
    end

    local used = {
      ["nothing, by a second load"] = { "return Sum", "return Sum" },
      ["a command"] = { "context:push \"Added\"", "assert(context); context:push \"Added\"" },
      ["another command"] = { "Add = function", "Two = function() end, Add = function" },
      ["a comment"] = { "self.sum = self.sum", "-- why\n self.sum = self.sum" },
      ["comments and empty lines above"] = { "local factor = 1", "-- what\n\n\nlocal factor = 1\n\n" },
      ["the name of a local"] = { "function%(self, event%) self:grow%(event.payload.n%)",
                                  "function(this, it) this:grow(it.payload.n)" },
      ["the path"] = { "/sums", "/totals" },
      ["how often there is one"] = { "every = 2", "every = 50" },
    }
    for what, case in pairs(used) do
      it("are used after a change of " .. what, function()
        fill(load_source(source), 2)
        local events, state = read(changed(case[1], case[2]))
        assert.same({ 0, 3 }, { events, state.sum })
      end)
    end

    it("of older code are replaced by those of the new", function()
      fill(load_source(source), 2)
      local New = changed("return n %* factor", "return n * factor * 10")
      fill(New, 2)
      local events, state = read(New)
      assert.same({ 0, 60 }, { events, state.sum })
      events, state = read(load_source(source))
      assert.same({ 4, 6 }, { events, state.sum })
    end)

    it("are used by another process of the same code", function()
      fill(load_source(source), 2)
      local state
      local again = tidelog.CommandHandler(s.another(), { load_source(source) })
      assert.equal(0, folded(function() state = again:load("tenant1", "Sum", "a") end))
      assert.equal(3, state.sum)
      assert.equal(6, again:command(actor, "Add", { aggregateId = "a", n = 3 }).aggregate.sum)
    end)
  end)

  -- Each event brings its part of a state; whatever BSON has a form for or not, the state is
  -- the same from the cache, from a snapshot and from the events.
  for _, every in ipairs { 1, 3 } do
    describe(("a state on %s, a snapshot every %d,"):format(s.name, every), function()
      before_each(s.setup)
      after_each(s.teardown)

      local states = {
        ["sparse lists"] = function(self, n) self.v = self.v or {}; self.v[n * 10] = n; self.v[-n] = true end,
        ["names and numbers as keys"] = function(self, n)
          self.v = self.v or {}
          self.v[n], self.v["k" .. n] = "x", n
        end,
        ["floats and booleans as keys"] = function(self, n)
          self.v = self.v or {}
          self.v[n + 0.5], self.v[n % 2 == 0] = n, n + 0.0
        end,
        ["an empty name as key"] = function(self, n) self.v = { [""] = n, [" "] = { [""] = { [""] = n } } } end,
        ["numbers as keys that are strings"] = function(self, n) self.v = { ["1"] = n, [1] = -n, ["01"] = 0 } end,
        ["integers at the borders as keys"] = function(self, n)
          self.v = { [math.maxinteger] = n, [math.mininteger] = -n, [0] = 0, [2 ^ 53] = 1 }
        end,
        ["a first list"] = function(self, n) self[1], self[2] = n, { n } end,
        ["NaN"] = function(self, n) self.v = { 0 / 0, n } end,
        ["infinities"] = function(self, n) self.v, self.w = 1 / 0 * n, { -1 / 0 } end,
        ["negative zero"] = function(self) self.v = { -0.0, 0.0, 0 } end,
        ["invalid UTF-8"] = function(self, n) self.v = { "\255" .. n, ["\254"] = n } end,
        ["texts with NUL, also as keys"] = function(self, n) self.v = { "a\0b" .. n, ["k\0" .. n] = n } end,
        ["null"] = function(self) self.v = { tidelog.null, { a = tidelog.null } } end,
        ["empty tables and arrays"] = function(self) self.v = { {}, tidelog.array {}, { tidelog.array {} } } end,
        ["arrays with gaps"] = function(self, n) self.v = tidelog.array { 1 }; self.v[n + 2] = n end,
        ["a deep nesting"] = function(self, n)
          local v = { n }
          for _ = 1, 80 do v = { v } end
          self.v = v
        end,
        ["a deep nesting of mixed tables"] = function(self, n)
          local v = { n, x = n }
          for _ = 1, 40 do v = { v, x = n } end
          self.v = v
        end,
      }
      for name, grow in pairs(states) do
        it("with " .. name .. " is always the same", function()
          local Type = { name = "State", snapshot = { every = every },
                         commands = { Grow = function(_, context) context:push "Grown" end },
                         events = { Grown = function(self, event) grow(self, event.payload.n) end } }
          local expected = {}
          for n = 1, 4 do grow(expected, n) end
          for id, cacheSize in pairs { a = 0, b = 1000 } do
            local ch = tidelog.CommandHandler(s.store, { Type }, nil, { cacheSize = cacheSize })
            local states_seen = {}
            for n = 1, 4 do
              states_seen[1] = ch:command(actor, "Grow", { aggregateId = id, n = n }).aggregate
            end
            states_seen[2] = ch:load("tenant1", Type, id)
            states_seen[3] = tidelog.CommandHandler(s.store, { Type }):load("tenant1", Type, id)
            states_seen[4] = ch:load("tenant1", Type, id, { position = s.store:head "tenant1" - 1 })
            expected.aggregateId, expected.aggregateVersion = id, 3
            for _, state in ipairs(states_seen) do expect.exactly(expected, state) end
          end
        end)
      end

      it("with functions, coroutines and metatables is always right", function()
        local meta = { __index = function(_, key) return "no " .. tostring(key) end }
        local Type = { name = "State", snapshot = { every = every },
                       init = function(self) self.parts = {} end,
                       commands = { Grow = function(_, context) context:push "Grown" end },
                       events = { Grown = function(self, event)
                         local n = event.payload.n
                         self.parts[n] = setmetatable({ get = function() return n end }, meta)
                         self.co = coroutine.wrap(function() coroutine.yield(n) end)
                       end } }
        for id, cacheSize in pairs { a = 0, b = 1000 } do
          local ch = tidelog.CommandHandler(s.store, { Type }, nil, { cacheSize = cacheSize })
          for n = 1, 4 do
            local state = ch:command(actor, "Grow", { aggregateId = id, n = n }).aggregate
            for i = 1, n do
              assert.equal(i, state.parts[i].get())
              assert.equal("no x", state.parts[i].x)
            end
          end
        end
      end)

      it("with cycles and with one table in two places is always right", function()
        local Type = { name = "State", snapshot = { every = every },
                       init = function(self) self.nodes, self.me = {}, self end,
                       commands = { Grow = function(_, context) context:push "Grown" end },
                       events = { Grown = function(self)
                         local node = { up = self.last, all = self.nodes }
                         if self.last then self.last.down = node end
                         self.nodes[#self.nodes + 1], self.last = node, node
                       end } }
        for id, cacheSize in pairs { a = 0, b = 1000 } do
          local ch = tidelog.CommandHandler(s.store, { Type }, nil, { cacheSize = cacheSize })
          for n = 1, 4 do
            ch:command(actor, "Grow", { aggregateId = id })
            local state = ch:load("tenant1", Type, id)
            assert.equal(n, #state.nodes)
            assert.equal(state.nodes[n], state.last)
            assert.equal(state.nodes, state.nodes[1].all)
            assert.equal(state, state.me)
            if n > 1 then assert.equal(state.nodes[n], state.nodes[n - 1].down) end
          end
        end
      end)

      it("that is nested without an end in sight either works or is refused before it is stored", function()
        local Type = { name = "State", snapshot = { every = every },
                       commands = { Grow = function(_, context) context:push "Grown" end },
                       events = { Grown = function(self, event)
                         for _ = 1, event.payload.n do self.list = { up = self.list } end
                       end } }
        local ch = tidelog.CommandHandler(s.store, { Type })
        local function depth(state)
          local n, at = 0, state.list
          while at do n, at = n + 1, at.up end
          return n
        end
        for _, n in ipairs { 500, 450, 100, 5000, 100000 } do
          local before, head = depth(ch:load("tenant1", Type, "a")), s.store:head "tenant1"
          local ok, result = pcall(ch.command, ch, actor, "Grow", { aggregateId = "a", n = n })
          if ok then
            assert.equal(before + n, depth(result.aggregate))
            assert.equal(before + n, depth(ch:load("tenant1", Type, "a")))
          else
            assert.equal("LimitError", result.name)
            assert.equal(head, s.store:head "tenant1")
            assert.equal(before, depth(ch:load("tenant1", Type, "a")))
          end
        end
      end)
    end)
  end

  describe("the cache on " .. s.name, function()
    before_each(s.setup)
    after_each(s.teardown)

    for _, cacheSize in ipairs { 0, 1, 2, 3, 10, 1000 } do
      it(("of %d keeps %d aggregates at most, and the state is right all the same"):format(cacheSize, cacheSize),
        function()
          local ch = tidelog.CommandHandler(s.store, { domain.Tally { snapshot = false } }, nil,
            { cacheSize = cacheSize })
          local ids, sums = 15, {}
          for round = 1, 3 do
            for i = 1, ids do
              local tally = ch:command(actor, "Add", { aggregateId = "id" .. i, n = i * round }).aggregate
              sums[i] = (sums[i] or 0) + i * round
              assert.same({ sums[i], round - 1 }, { tally.sum, tally.aggregateVersion })
            end
          end
          local cached = 0
          for i = 1, ids do
            local id = "id" .. i
            -- load reads from the cache, or from the first event on
            if folded(function() ch:load("tenant1", "Tally", id) end) == 0 then cached = cached + 1 end
          end
          assert.is_true(cached <= cacheSize, cached .. " were cached")
          if cacheSize > ids then assert.equal(ids, cached) end
        end)
    end

    it("keeps tenants, types and ids apart", function()
      local Other = domain.Tally { name = "Other" }
      Other.commands = { AddOther = Other.commands.Add }
      local ch = tidelog.CommandHandler(s.store, { domain.Tally(), Other })
      for round = 1, 2 do
        local n = 0
        for _, tenant in ipairs { "tenant1", "tenant2" } do
          for _, command in ipairs { "Add", "AddOther" } do
            for _, id in ipairs { "a", "b", "a b" } do
              n = n + 1
              local tally = ch:command(domain.actor { tenant = tenant }, command, { aggregateId = id, n = n }).aggregate
              assert.equal(round * n, tally.sum)
            end
          end
        end
      end
    end)
  end)
end
