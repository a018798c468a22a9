assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

local actor = domain.actor()

-- Two writers: `here` is tested; `there` has what another process would have.
for _, s in ipairs(stores.all()) do
  for _, cacheSize in ipairs { 0, 1000 } do
    describe(("two writers on %s, a cache of %d"):format(s.name, cacheSize), function()
      local here, there
      local decided -- the sums that `here` has decided on
      local meanwhile -- called while `here` decides

      local function add(n, id) there:command(actor, "Add", { aggregateId = id or "a", n = n }) end

      local function open(options)
        options = options or {}
        options.cacheSize = cacheSize
        return tidelog.CommandHandler(s.store, { domain.Tally { commands = {
          -- Doubles what it sees; with limit it refuses above that, with quiet it pushes nothing.
          Double = function(self, context)
            decided[#decided + 1] = self.sum
            if meanwhile then meanwhile(#decided, context) end
            local payload = context.payload
            if payload.limit and self.sum > payload.limit then error(tidelog.Err.precondition "too much") end
            if payload.least and self.sum < payload.least then error(tidelog.Err.precondition "too little") end
            if payload.quiet then return end
            context:push("Added", { n = self.sum })
          end,
        } } }, nil, options)
      end

      before_each(function()
        s.setup()
        decided, meanwhile = {}, nil
        here, there = open(), tidelog.CommandHandler(s.another(), { domain.Tally() })
      end)
      after_each(s.teardown)

      local function double(payload, id)
        payload = payload or {}
        payload.aggregateId = id or "a"
        return here:command(actor, "Double", payload)
      end

      local function everywhere(sum)
        assert.equal(sum, here:load("tenant1", "Tally", "a").sum)
        assert.equal(sum, there:load("tenant1", "Tally", "a").sum)
        assert.equal(sum, tidelog.CommandHandler(s.store, { domain.Tally() }):load("tenant1", "Tally", "a").sum)
        s.store:check "tenant1"
      end

      it("see each other's events", function()
        for n = 1, 4 do
          add(n)
          here:command(actor, "Add", { aggregateId = "a", n = n })
        end
        everywhere(20)
      end)

      it("decide again on the latest state where the other was first", function()
        add(1)
        meanwhile = function(attempt) if attempt == 1 then add(10) end end
        local context = double()
        assert.same({ 1, 11 }, decided)
        assert.same({ 22, 2 }, { context.aggregate.sum, context.aggregate.aggregateVersion })
        assert.same({ 1, 11 }, { #context.events, context.events[1].payload.n })
        everywhere(22)
      end)

      it("decide again also on a state that stood in the cache", function()
        add(1)
        double()
        add(10)
        decided = {}
        local context = double()
        assert.equal(12, decided[#decided])
        assert.equal(24, context.aggregate.sum)
        everywhere(24)
      end)

      it("decide again where several events came in between, and some of them in one commit", function()
        add(1)
        meanwhile = function(attempt)
          if attempt > 1 then return end
          there:command(actor, "AddAll", { aggregateId = "a", all = { 1, 2, 3 } })
          add(4)
        end
        assert.equal(22, double().aggregate.sum)
        everywhere(22)
      end)

      it("are given a fresh context for each decision", function()
        add(1)
        local seen = {}
        meanwhile = function(attempt, context)
          seen[attempt] = { #context.events, context.time, context:random() }
          context:push("Added", { n = 0 })
          if attempt == 1 then
            local started = os.clock()
            while os.clock() < started + 0.005 do end
            add(10)
          end
        end
        local context
        local bodies = domain.bodies(function() context = double() end)
        assert.equal(0, seen[2][1])
        assert.are_not.equal(seen[1][2], seen[2][2])
        assert.equal(2, #context.events)
        assert.same({ seen[2][3] }, bodies[#bodies].random)
        everywhere(22)
      end)

      it("do not decide again with expectedVersion: ConcurrencyError, and nothing is written", function()
        add(1)
        meanwhile = function(attempt) if attempt == 1 then add(10) end end
        expect.error("ConcurrencyError", nil, double, { expectedVersion = 0 })
        assert.equal(1, #decided)
        everywhere(11)
        meanwhile = nil
        assert.equal(22, double { expectedVersion = 1 }.aggregate.sum)
      end)

      it("do not refuse an expectedVersion because what they cached is older", function()
        add(1)
        double { quiet = true }
        add(10)
        assert.equal(22, double { expectedVersion = 1 }.aggregate.sum)
        add(3)
        expect.error("ConcurrencyError", nil, double, { expectedVersion = 2 })
        everywhere(25)
      end)

      it("do not refuse on a state that is not the latest: a refusal is decided again, too", function()
        add(1)
        double { quiet = true }
        add(10)
        assert.equal(22, double { least = 5 }.aggregate.sum)
        assert.equal(11, decided[#decided])
      end)

      it("do not accept without a word on a state that is not the latest", function()
        add(1)
        double { quiet = true }
        add(10)
        local context = double { quiet = true }
        assert.equal(11, decided[#decided])
        assert.equal(11, context.aggregate.sum)
        expect.error("PreconditionError", nil, double, { quiet = true, limit = 5 })
      end)

      it("say ConcurrencyError for a refusal on a stale state with expectedVersion", function()
        add(1)
        double { quiet = true }
        meanwhile = function() add(10) end
        local ok, problem = pcall(double, { expectedVersion = 0, limit = 0 })
        assert.is_false(ok)
        if cacheSize > 0 then assert.equal("ConcurrencyError", problem.name) end
        everywhere(11)
      end)

      it("say so after a bounded number of decisions: ConcurrencyError", function()
        add(1)
        meanwhile = function() add(1) end
        expect.error("ConcurrencyError", nil, double)
        assert.is_true(#decided >= 3 and #decided <= 100, #decided .. " decisions")
        everywhere(#decided + 1)
        meanwhile = nil
        assert.equal(2 * (#decided + 1), double().aggregate.sum)
      end)

      it("decide as often as `attempts` says", function()
        for _, attempts in ipairs { 1, 2, 3 } do
          here, decided = open { attempts = attempts }, {}
          meanwhile = function() add(1) end
          expect.error("ConcurrencyError", nil, double)
          assert.equal(attempts, #decided)
          here, decided = open { attempts = attempts }, {}
          meanwhile = function(attempt) if attempt < attempts then add(1) end end
          double()
          assert.equal(attempts, #decided)
        end
      end)

      it("never conflict on different aggregates", function()
        add(1)
        meanwhile = function() add(10, "b") end
        assert.equal(2, double().aggregate.sum)
        assert.same({ 1 }, decided)
      end)

      it("never conflict in different tenants", function()
        add(1)
        meanwhile = function()
          there:command(domain.actor { tenant = "tenant2" }, "Add", { aggregateId = "a", n = 1 })
        end
        assert.equal(2, double().aggregate.sum)
        assert.same({ 1 }, decided)
      end)

      it("may make one and the same new aggregate", function()
        meanwhile = function(attempt) if attempt == 1 then add(10, "new") end end
        assert.equal(20, double(nil, "new").aggregate.sum)
        meanwhile = function() add(10, "newer") end
        expect.error("ConcurrencyError", nil, double, { expectedVersion = -1 }, "newer")
      end)

      it("lose nothing where a command sends another on its own aggregate", function()
        add(1)
        meanwhile = function(attempt)
          if attempt == 1 then here:command(actor, "Add", { aggregateId = "a", n = 10 }) end
        end
        local context = double()
        assert.equal(11, decided[#decided])
        assert.same({ 22, 2 }, { context.aggregate.sum, context.aggregate.aggregateVersion })
        everywhere(22)
        expect.error("ConcurrencyError", nil, function()
          decided = {}
          double { expectedVersion = 2 }
        end)
        everywhere(32)
      end)

      it("lose nothing where a command loads its own aggregate after the other wrote", function()
        add(1)
        double { quiet = true }
        decided = {}
        meanwhile = function(attempt, context)
          if attempt > 1 then return end
          add(10)
          assert.equal(11, context:load("Tally", "a").sum)
        end
        local context = double()
        assert.same({ 1, 11 }, decided)
        assert.same({ 22, 2 }, { context.aggregate.sum, context.aggregate.aggregateVersion })
        everywhere(22)
      end)

      it("lose nothing where a command yields in a coroutine while another one runs", function()
        add(1)
        double { quiet = true }
        decided = {}
        meanwhile = function(attempt) if attempt == 1 then coroutine.yield() end end
        local waiting = coroutine.wrap(double)
        waiting()
        here:command(actor, "Add", { aggregateId = "a", n = 10 })
        local context = waiting()
        assert.same({ 1, 11 }, decided)
        assert.equal(22, context.aggregate.sum)
        everywhere(22)
      end)
    end)

    -- ---- idempotent commands --------------------------------------------------------------

    describe(("a commandId on %s, a cache of %d"):format(s.name, cacheSize), function()
      local ch, decided

      local function Tally()
        return domain.Tally { commands = {
          Count = function(_, context)
            decided = decided + 1
            for _, n in ipairs(context.payload.all) do context:push("Added", { n = n }) end
          end,
        } }
      end

      before_each(function()
        s.setup()
        decided = 0
        ch = tidelog.CommandHandler(s.store, { Tally() }, nil, { cacheSize = cacheSize })
      end)
      after_each(s.teardown)

      local function count(id, changes, handler)
        local payload = { aggregateId = "a", commandId = id, all = { 1, 2 } }
        for key, value in pairs(changes or {}) do payload[key] = value end
        return (handler or ch):command(actor, "Count", payload)
      end

      it("that comes again gives the first one's events, and writes nothing", function()
        local first = count "c1"
        assert.is_false(first.duplicate)
        assert.equal("c1", first.commandId)
        ch:command(actor, "Add", { aggregateId = "a", n = 10 })
        local second = count "c1"
        assert.is_true(second.duplicate)
        assert.equal(1, decided)
        assert.equal(3, s.store:head "tenant1")
        assert.equal(2, #second.events)
        for i = 1, 2 do expect.exactly(first.events[i], second.events[i]) end
        assert.same({ 3, 1 }, { second.aggregate.sum, second.aggregate.aggregateVersion })
        assert.equal(13, ch:load("tenant1", "Tally", "a").sum)
      end)

      it("that comes again leaves the aggregate fit for the next command", function()
        count "c1"
        count "c1"
        assert.equal(6, count "c2".aggregate.sum)
        assert.equal(7, ch:command(actor, "Add", { aggregateId = "a", n = 1, expectedVersion = 3 }).aggregate.sum)
      end)

      it("that comes again in another process or handler is known there, too", function()
        count "c1"
        local other = tidelog.CommandHandler(s.another(), { Tally() })
        assert.is_true(count("c1", nil, other).duplicate)
        assert.is_false(count("c2", nil, other).duplicate)
        assert.is_true(count "c2".duplicate)
        assert.equal(2, decided)
        assert.equal(4, s.store:head "tenant1")
      end)

      it("that comes again with a stale expectedVersion is a duplicate, not a conflict", function()
        assert.is_false(count("c1", { expectedVersion = -1 }).duplicate)
        assert.is_true(count("c1", { expectedVersion = -1 }).duplicate)
        assert.is_true(count("c1", { expectedVersion = 50 }).duplicate)
      end)

      it("that comes again with another payload or command is still the first one", function()
        count "c1"
        assert.is_true(count("c1", { all = { 100 } }).duplicate)
        assert.is_true(ch:command(actor, "Add", { aggregateId = "a", commandId = "c1", n = 5 }).duplicate)
        assert.equal(2, s.store:head "tenant1")
      end)

      it("is another one on another aggregate, type and tenant", function()
        count "c1"
        assert.is_false(count("c1", { aggregateId = "b" }).duplicate)
        assert.is_false(ch:command(domain.actor { tenant = "tenant2" }, "Count",
          { aggregateId = "a", commandId = "c1", all = { 1 } }).duplicate)
        local Other = { name = "Other", commands = { Do = function(_, context) context:push "Done" end },
                        events = { Done = function() end } }
        local other = tidelog.CommandHandler(s.store, { Other })
        assert.is_false(other:command(actor, "Do", { aggregateId = "a", commandId = "c1" }).duplicate)
      end)

      it("may be given in the options, too; the payload's goes first", function()
        ch:command(actor, "Add", { aggregateId = "a", n = 1 }, { commandId = "c1" })
        assert.is_true(count "c1".duplicate)
        local context = ch:command(actor, "Add", { aggregateId = "a", commandId = "c2", n = 1 }, { commandId = "c1" })
        assert.same({ false, "c2" }, { context.duplicate, context.commandId })
      end)

      it("needs an aggregateId, and has to be a name", function()
        expect.error("MissingArgumentError", "aggregateId", ch.command, ch, actor, "Count",
          { commandId = "c", all = {} })
        for _, id in ipairs { 42, true, {}, "a\0b", "\255", ("x"):rep(1 << 20), false, tidelog.null } do
          expect.error("InvalidArgumentError", "commandId", count, id)
        end
        expect.error("MissingArgumentError", "commandId", count, "")
      end)

      it("of a command that was refused, or pushed nothing, can be used again", function()
        pcall(ch.command, ch, actor, "Refuse", { aggregateId = "a", commandId = "c1", n = 1 })
        assert.is_false(count("c1", { all = {} }).duplicate)
        assert.is_false(count "c1".duplicate)
        assert.is_true(count "c1".duplicate)
      end)

      it("that was made for a command is not mistaken for one that was given", function()
        local context = ch:command(actor, "Count", { aggregateId = "a", all = { 1 } })
        assert.is_false(count(context.commandId).duplicate)
      end)

      it("that another writer used while this one decided is a duplicate", function()
        local other = tidelog.CommandHandler(s.another(), { Tally() })
        local once = false
        local mine = tidelog.CommandHandler(s.store, { domain.Tally { commands = {
          Count = function(_, context)
            if not once then
              once = true
              count("c1", nil, other)
            end
            context:push("Added", { n = 100 })
          end,
        } } }, nil, { cacheSize = cacheSize })
        mine:command(actor, "Add", { aggregateId = "a", n = 10 })
        local context = count("c1", nil, mine)
        assert.is_true(context.duplicate)
        assert.same({ 1, 2 }, { context.events[1].payload.n, context.events[2].payload.n })
        assert.same({ 13, 2 }, { context.aggregate.sum, context.aggregate.aggregateVersion })
        assert.equal(13, mine:load("tenant1", "Tally", "a").sum)
        assert.equal(14, mine:command(actor, "Add", { aggregateId = "a", n = 1 }).aggregate.sum)
      end)
    end)
  end

  if s.persistent then
    describe("another process on " .. s.name, function()
      before_each(s.setup)
      after_each(s.teardown)

      -- Runs Lua code in a process of its own; `uri` is the store's.
      local function elsewhere(code)
        local file = os.tmpname()
        local out = assert(io.open(file, "w"))
        out:write(('local uri = %q\n'):format(s.uri), [[
          local tidelog = require "tidelog"
          local domain = require "tests.lua.support.domain"
          local ch = tidelog.CommandHandler(tidelog.open(uri), { domain.Tally() })
          local actor = domain.actor()
        ]], code)
        out:close()
        local pipe = assert(io.popen((os.getenv "LUA54" or "lua5.4") .. " " .. file .. " 2>&1"))
        local output = pipe:read "a"
        pipe:close()
        os.remove(file)
        return (output:gsub("%s+$", ""))
      end

      it("sees what this one wrote, and knows its command ids", function()
        local ch = tidelog.CommandHandler(s.store, { domain.Tally() })
        ch:command(actor, "Add", { aggregateId = "a", commandId = "c1", n = 1 })
        assert.equal("true 1", elsewhere [[
          local context = ch:command(actor, "Add", { aggregateId = "a", commandId = "c1", n = 1 })
          print(tostring(context.duplicate) .. " " .. context.aggregate.sum)
        ]])
        assert.equal("11", elsewhere [[
          print(ch:command(actor, "Add", { aggregateId = "a", commandId = "c2", n = 10 }).aggregate.sum)
        ]])
        assert.is_true(ch:command(actor, "Add", { aggregateId = "a", commandId = "c2", n = 10 }).duplicate)
        assert.equal(12, ch:command(actor, "Add", { aggregateId = "a", n = 1 }).aggregate.sum)
        assert.same({ commits = 3, events = 3 }, s.store:check "tenant1")
      end)
    end)
  end
end
