assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local stores = require "tests.lua.support.stores"

for _, s in ipairs(stores.all()) do
  describe("a tracer on " .. s.name, function()
    local actor = domain.actor()
    local records

    before_each(function()
      s.setup()
      records = {}
    end)
    after_each(s.teardown)

    local collector = { trace = function(_, fn) records[#records + 1] = fn() end }

    local function methods()
      local list = {}
      for i, record in ipairs(records) do list[i] = record.method end
      records = {}
      return table.concat(list, " ")
    end

    local function handler(tracer) return tidelog.CommandHandler(s.store, { domain.Tally() }, tracer or collector) end

    local fail = { name = "bad", events = { Added = function() error "no" end } }
    local good = { name = "good", events = { Added = function() end } }

    it("sees the way of a command", function()
      local ch = handler()
      ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      assert.equal("loadAggregate commitEvents command", methods())
      ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      assert.equal("commitEvents command", methods())
      ch:command(actor, "Nothing", { aggregateId = "a" })
      assert.equal("command", methods())
      pcall(ch.command, ch, actor, "Refuse", { aggregateId = "a", n = 1 })
      assert.equal("command", methods())
    end)

    it("sees the context and the time that a command took", function()
      local context = handler():command(actor, "AddAll", { aggregateId = "a", all = { 1, 2 } })
      for _, record in ipairs(records) do
        assert.equal(context, record.context)
        assert.equal("float", math.type(record.elapsed))
        assert.is_true(record.elapsed >= 0 and record.elapsed < 60000)
        assert.is_nil(record.error)
      end
      local commit = records[2]
      assert.same({ "commitEvents", 2, 1 },
        { commit.method, #commit.context.events, commit.context.events[2].position })
    end)

    it("sees with what a command failed", function()
      local ch = handler()
      pcall(ch.command, ch, actor, "Refuse", { aggregateId = "a", n = 1 })
      local record = records[#records]
      assert.same({ "command", "PreconditionError", "Refuse" },
        { record.method, record.error.name, record.context.command })
      ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      pcall(ch.command, ch, actor, "Add", { aggregateId = "a", n = 1, expectedVersion = 5 })
      assert.equal("ConcurrencyError", records[#records].error.name)
    end)

    it("sees what was asked for where a command is refused before it is decided", function()
      local ch = handler()
      records = {}
      pcall(ch.command, ch, actor, "Nonsense", { aggregateId = "a" })
      pcall(ch.command, ch, nil, "Add", { n = 1 })
      pcall(ch.command, ch, actor, "Add", { aggregateId = "a", n = print })
      assert.equal(3, #records)
      assert.same({ "command", "Nonsense", "command" },
        { records[1].method, records[1].context.command, records[1].error.argument })
      assert.equal("MissingArgumentError", records[2].error.name)
      assert.same({ "n", "Tally" }, { records[3].error.argument, records[3].context.aggregateType })
    end)

    it("sees that a command or handler failed also where nil or false was raised", function()
      for _, value in ipairs { false, "nil" } do
        if value == "nil" then value = nil end
        records = {}
        local function raise() error(value, 0) end
        local ch = tidelog.CommandHandler(s.store, { domain.Tally { commands = { Raise = raise } } }, collector)
        pcall(ch.command, ch, actor, "Raise", { aggregateId = "a" })
        assert.is_not_nil(records[#records].error)
        ch:command(actor, "Add", { aggregateId = "a", n = 1 })
        tidelog.StreamReader(s.store, collector)
          :poll("tenant1", "thread1", { { name = "h", events = { Added = raise } } })
        assert.same({ "handle", true }, { records[#records - 1].method, records[#records - 1].error ~= nil })
      end
    end)

    it("sees the way of a poll", function()
      handler({ trace = function() end }):command(actor, "AddAll", { aggregateId = "a", all = { 1, 2 } })
      local reader = tidelog.StreamReader(s.store, collector)
      reader:poll("tenant1", "thread1", { good, fail })
      local lease
      for i, expected in ipairs { { "pollStream" }, { "handle", "good", 0 }, { "handle", "bad", 0 },
                                  { "handle", "good", 1 }, { "commitCursors" } } do
        local record = records[i]
        assert.same(expected, { record.method, record.handler, record.event and record.event.position })
        assert.is_true(record.elapsed >= 0)
        lease = lease or record.lease
        assert.equal(lease, record.lease)
        assert.equal(expected[2] == "bad", record.error ~= nil)
      end
      assert.equal(5, #records)
      assert.equal("thread1", lease.thread)
      assert.equal("integer", math.type(lease.token))
    end)

    it("need not look: then no record is made", function()
      local ch = handler { trace = function() end }
      assert.equal(1, ch:command(actor, "Add", { aggregateId = "a", n = 1 }).aggregate.sum)
    end)

    it("may look twice", function()
      local ch = handler { trace = function(_, fn) assert(fn().method == fn().method) end }
      assert.equal(1, ch:command(actor, "Add", { aggregateId = "a", n = 1 }).aggregate.sum)
    end)

    local unprintable = setmetatable({}, { __tostring = function() error "broken" end })
    for what, value in pairs { ["a text"] = "broken", ["a table"] = {}, ["false"] = false,
                               ["what cannot be shown"] = unprintable } do
      it("that raises " .. what .. " breaks no command and no poll", function()
        local tracer = { trace = function(_, fn)
          fn()
          error(value, 0)
        end }
        local ch = handler(tracer)
        assert.equal(1, ch:command(actor, "Add", { aggregateId = "a", n = 1 }).aggregate.sum)
        assert.equal(3, ch:command(actor, "Add", { aggregateId = "a", n = 2 }).aggregate.sum)
        assert.is_false(pcall(ch.command, ch, actor, "Refuse", { aggregateId = "a", n = 1 }))
        local more, failures = tidelog.StreamReader(s.store, tracer):poll("tenant1", "thread1", { good })
        assert.same({ false, {} }, { more, failures })
        assert.equal(2, s.store:head "tenant1")
      end)
    end

    it("that yields, runs a command of its own or is changed meanwhile breaks nothing", function()
      local ch, depth = nil, 0
      local tracer = { trace = function(self)
        depth = depth + 1
        if depth < 5 then ch:command(actor, "Add", { aggregateId = "a", n = 1 }) end
        self.trace = self.trace
      end }
      ch = handler(tracer)
      ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      local sum = ch:load("tenant1", "Tally", "a").sum
      assert.equal(s.store:head "tenant1", sum)
      assert.equal(sum, handler():load("tenant1", "Tally", "a").sum)
      tracer.trace = nil
      assert.equal(sum + 1, ch:command(actor, "Add", { aggregateId = "a", n = 1 }).aggregate.sum)
    end)

    it("named ConsoleTracer keeps stats[method][aggregate][Command-Event] = { time, count }", function()
      local tracer = tidelog.ConsoleTracer()
      local ch = handler(tracer)
      for _ = 1, 3 do ch:command(actor, "Add", { aggregateId = "a", n = 1 }) end
      ch:command(actor, "AddAll", { aggregateId = "a", all = { 1, 2 } })
      tidelog.StreamReader(s.store, tracer):poll("tenant1", "thread1", { good })
      local stats = tracer.stats
      for _, method in ipairs { "command", "commitEvents" } do
        assert.equal(3, stats[method].Tally["Add-Added"].count)
        assert.equal(2, stats[method].Tally["AddAll-Added"].count)
        assert.is_true(stats[method].Tally["Add-Added"].time >= 0)
      end
      assert.equal(3, stats.handle.Tally["Add-Added"].count)
      assert.equal(2, stats.handle.Tally["AddAll-Added"].count)
      assert.equal("table", type(stats.loadAggregate.Tally))
      assert.is_truthy(tostring(tracer):find("Add-Added", 1, true))
    end)
  end)
end
