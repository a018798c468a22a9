assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

-- What fails leaves no trace; what a caller holds is the caller's own.
for _, s in ipairs(stores.all()) do
  for _, cacheSize in ipairs { 0, 1000 } do
    describe(("on %s with a cache of %d"):format(s.name, cacheSize), function()
      local actor = domain.actor()
      local ch, raise

      -- Basket keeps nested tables, and what its events brought.
      local function Basket()
        local commands = {
          Put = function(_, context) context:push "Put" end,
          Spoil = function(self, context)
            context:push("Put", { item = { name = "spoiled", tags = { "x" } } })
            self.items[1].name, self.items[1].tags[1], self.total, self.extra = "changed", "changed", -1, {}
            setmetatable(self.items, { __index = error })
            raise()
          end,
        }
        return {
          name = "Basket",
          init = function(self) self.items, self.total = {}, 0 end,
          commands = commands,
          events = {
            Put = function(self, event)
              self.items[#self.items + 1] = event.payload.item
              self.total = self.total + 1
              self.last = self.items[#self.items]
            end,
          },
          snapshot = { every = 2 },
        }
      end

      before_each(function()
        s.setup()
        ch = tidelog.CommandHandler(s.store, { Basket() }, nil, { cacheSize = cacheSize })
        for n = 1, 3 do
          ch:command(actor, "Put", { aggregateId = "a", item = { name = "item" .. n, tags = { "t", n } } })
        end
      end)
      after_each(s.teardown)

      local function state(handler)
        local basket = (handler or ch):load("tenant1", "Basket", "a")
        return expect.text { items = basket.items, total = basket.total, version = basket.aggregateVersion,
                             id = basket.aggregateId, extra = basket.extra, last = basket.last }
      end

      -- Everything that could have kept a trace is as it was.
      local function unchanged(before)
        assert.equal(before, state())
        assert.equal(before, state(tidelog.CommandHandler(s.another(), { Basket() })))
        assert.equal(3, s.store:head "tenant1")
        local context = ch:command(actor, "Put", { aggregateId = "a", expectedVersion = 2,
                                                   item = { name = "item4", tags = { "t" } } })
        assert.equal(4, context.aggregate.total)
        assert.equal("item1", context.aggregate.items[1].name)
        assert.equal("item4", context.aggregate.items[4].name)
        assert.equal(context.aggregate.items[4], context.aggregate.last)
        assert.is_nil(getmetatable(context.aggregate.items))
      end

      local raised = {
        ["an error of ours"] = tidelog.Err.precondition "no",
        ["a table"] = { reason = "no" },
        ["an empty table"] = {},
        ["a text"] = "no",
        ["a number"] = 42,
        ["false"] = false,
        ["true"] = true,
        ["nil"] = nil,
        ["a function"] = print,
        ["a coroutine"] = coroutine.create(print),
        ["a userdata"] = io.stdout,
        ["a table whose __tostring raises"] = setmetatable({}, { __tostring = function() error "broken" end }),
      }
      raised["nil"] = false -- stands in the table, raised as nil below

      for name, value in pairs(raised) do
        it("a command that raises " .. name .. " leaves no trace, and that is what the caller gets", function()
          if name == "nil" then value = nil end
          raise = function() error(value, 0) end
          local before = state()
          local ok, problem = pcall(ch.command, ch, actor, "Spoil", { aggregateId = "a" })
          assert.is_false(ok)
          assert.is_true(rawequal(value, problem))
          unchanged(before)
        end)
      end

      it("a command that runs out of stack leaves no trace", function()
        raise = function()
          local function down() return (("x"):gsub("x", down)) end -- by C calls, of which there are fewest
          down()
        end
        local before = state()
        assert.is_false(pcall(ch.command, ch, actor, "Spoil", { aggregateId = "a" }))
        unchanged(before)
      end)

      it("a command whose event cannot be stored leaves no trace", function()
        raise = function() end
        local before = state()
        for _, payload in ipairs { { aggregateId = "a", x = print }, { aggregateId = "a", x = 0 / 0 } } do
          expect.error("InvalidArgumentError", "x", ch.command, ch, actor, "Spoil", payload)
        end
        unchanged(before)
      end)

      it("a command with too much to store for one commit leaves no trace", function()
        raise = function() end
        local part = ("x"):rep(5 * 1024 * 1024)
        local Large = Basket()
        Large.commands.PutAll = function(_, context)
          for _ = 1, 4 do context:push("Put", { item = { name = part, tags = {} } }) end
        end
        local large = tidelog.CommandHandler(s.store, { Large }, nil, { cacheSize = cacheSize })
        local before = state()
        expect.error("LimitError", nil, large.command, large, actor, "PutAll", { aggregateId = "a" })
        assert.equal(before, state(large))
        unchanged(before)
      end)

      it("what was raised before any aggregate was there leaves none", function()
        raise = function() error "no" end
        pcall(ch.command, ch, actor, "Spoil", { aggregateId = "new" })
        pcall(ch.command, ch, actor, "Spoil")
        assert.equal(-1, ch:load("tenant1", "Basket", "new").aggregateVersion)
        assert.same({}, ch:load("tenant1", "Basket", "new").items)
        assert.equal(3, s.store:head "tenant1")
      end)

      it("what a caller holds never changes under later commands", function()
        local context = ch:command(actor, "Put", { aggregateId = "a", item = { name = "mine", tags = { "t" } } })
        local loaded = ch:load("tenant1", "Basket", "a")
        local held = { context.aggregate, loaded, context.events[1].payload, context.payload }
        local texts = {}
        for i, value in ipairs(held) do texts[i] = expect.text(value) end
        for n = 1, 3 do
          ch:command(actor, "Put", { aggregateId = "a", item = { name = "later" .. n, tags = { n } } })
        end
        for i, value in ipairs(held) do assert.equal(texts[i], expect.text(value)) end
        assert.equal(4, context.aggregate.total)
        assert.equal(3, context.aggregate.aggregateVersion)
      end)

      it("changing what a caller holds reaches neither the cache nor the store", function()
        local context = ch:command(actor, "Put", { aggregateId = "a", item = { name = "mine", tags = { "t" } } })
        local loaded = ch:load("tenant1", "Basket", "a")
        local before = state()
        for _, basket in ipairs { context.aggregate, loaded } do
          basket.total, basket.aggregateVersion, basket.aggregateId, basket.extra = -1, 77, "b", true
          basket.items[1].name, basket.items[4].tags[1], basket.items[5] = "changed", "changed", "more"
          setmetatable(basket.items, { __index = error })
          setmetatable(basket, nil)
        end
        context.events[1].payload.item.name, context.events[1].payload.item.tags[1] = "changed", "changed"
        context.events[1].name, context.events[2] = "Other", "more"
        context.aggregateId = "b"
        assert.equal(before, state())
        assert.equal(before, state(tidelog.CommandHandler(s.another(), { Basket() })))
        assert.equal("mine", domain.events(s.store)[4].payload.item.name)
        assert.equal(4, ch:command(actor, "Put", { aggregateId = "a", item = { name = "x", tags = {} } })
          .aggregate.aggregateVersion)
      end)

      it("the payload that was given may be changed and used again", function()
        local payload = { aggregateId = "a", item = { name = "first", tags = { "t" } } }
        ch:command(actor, "Put", payload)
        payload.item.name, payload.item.tags[1] = "second", "u"
        ch:command(actor, "Put", payload)
        payload.item.name = "third"
        local items = ch:load("tenant1", "Basket", "a").items
        assert.same({ { name = "first", tags = { "t" } }, { name = "second", tags = { "u" } } }, { items[4], items[5] })
      end)

      it("one table in two places of the state stays one table, in every copy", function()
        for _ = 1, 2 do
          local basket = ch:load("tenant1", "Basket", "a")
          assert.equal(basket.items[3], basket.last)
          basket = ch:command(actor, "Put", { aggregateId = "b", item = { name = "x", tags = {} } }).aggregate
          assert.equal(basket.items[#basket.items], basket.last)
        end
      end)

      it("an event function cannot give the aggregate another id or version", function()
        local Copying = {
          name = "Copying",
          commands = {
            Assign = function(_, context) context:push "Assigned" end,
            Move = function(_, context) context:push("Assigned", { aggregateId = "b", aggregateVersion = 9 }) end,
          },
          events = { Assigned = function(self, event)
            for key, value in pairs(event.payload) do self[key] = value end
          end },
        }
        local handler = tidelog.CommandHandler(s.store, { Copying }, nil, { cacheSize = cacheSize })
        local function check(version, copy)
          assert.same({ "c", version }, { copy.aggregateId, copy.aggregateVersion })
        end
        check(0, handler:command(actor, "Assign", { aggregateId = "c", aggregateVersion = 77, x = 1 }).aggregate)
        check(0, handler:load("tenant1", Copying, "c"))
        check(1, handler:command(actor, "Move", { aggregateId = "c" }).aggregate)
        check(2, handler:command(actor, "Assign", { aggregateId = "c", expectedVersion = 1 }).aggregate)
        check(2, handler:load("tenant1", Copying, "c"))
        check(2, tidelog.CommandHandler(s.store, { Copying }):load("tenant1", Copying, "c"))
        check(1, handler:load("tenant1", Copying, "c", { version = 1 }))
        assert.equal(-1, handler:load("tenant1", Copying, "b").aggregateVersion)
      end)

      it("what a command does to its aggregate without an event is not kept", function()
        local Direct = Basket()
        Direct.commands.Direct = function(self, context)
          self.total, self.items[1].name, self.aggregateVersion = 100, "direct", 50
          if context.payload.push then context:push("Put", { item = { name = "x", tags = {} } }) end
        end
        local handler = tidelog.CommandHandler(s.store, { Direct }, nil, { cacheSize = cacheSize })
        for _, push in ipairs { false, true } do
          handler:command(actor, "Direct", { aggregateId = "a", push = push })
          local basket = handler:load("tenant1", "Basket", "a")
          local count = push and 4 or 3
          assert.same({ count, "item1", count - 1 },
            { basket.total, basket.items[1].name, basket.aggregateVersion })
        end
      end)

      it("an event function that remembers outside of the state, and fails, makes the cache forget", function()
        local calls = 0
        local Moody = { name = "Moody", init = function(self) self.n = 0 end,
          commands = { Go = function(_, context) context:push "Went" end },
          events = { Went = function(self)
            calls = calls + 1
            self.n = self.n + 1
            if calls == 2 then error "only now" end
          end } }
        local handler = tidelog.CommandHandler(s.store, { Moody }, nil, { cacheSize = cacheSize })
        local warned = pcall(handler.command, handler, actor, "Go", { aggregateId = "m" })
        assert.is_true(warned)
        calls = 10
        assert.equal(1, handler:load("tenant1", Moody, "m").n)
        assert.equal(2, handler:command(actor, "Go", { aggregateId = "m" }).aggregate.n)
      end)

      it("a tracer that loads, commands or spoils what it sees disturbs nothing", function()
        local handler, inside
        handler = tidelog.CommandHandler(s.store, { Basket() }, { trace = function(_, fn)
          local record = fn()
          if inside then return end
          inside = true
          handler:load("tenant1", "Basket", "a")
          if record.method == "commitEvents" then
            handler:command(actor, "Put", { aggregateId = "a", item = { name = "traced", tags = {} } })
          end
          inside = false
        end }, { cacheSize = cacheSize })
        local context = handler:command(actor, "Put", { aggregateId = "a", item = { name = "x", tags = {} } })
        assert.equal(4, context.aggregate.total)
        assert.equal("x", context.aggregate.items[4].name)
        local before = state(tidelog.CommandHandler(s.another(), { Basket() }))
        assert.equal(before, state(handler))
        assert.equal(5, handler:load("tenant1", "Basket", "a").total)
        assert.equal(5, s.store:head "tenant1")
      end)
    end)
  end
end
