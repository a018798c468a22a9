assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local engine = require "tidelog.engine"
local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

for _, s in ipairs(stores.all()) do
  describe("StreamReader on " .. s.name, function()
    local actor = domain.actor()
    local ch, reader

    before_each(function()
      s.setup()
      ch, reader = tidelog.CommandHandler(s.store, { domain.Tally() }), tidelog.StreamReader(s.store)
    end)
    after_each(s.teardown)

    -- `count` events, n = 1 to count, of two aggregates, three in a commit.
    local function fill(count)
      for n = 1, count, 3 do
        local all = {}
        for i = n, math.min(n + 2, count) do all[#all + 1] = i end
        ch:command(actor, "AddAll", { aggregateId = n % 2 == 0 and "a" or "b", all = all })
      end
    end

    -- A handler that writes down each event's n, and raises where `fails(n)`.
    local function recorder(name, fails)
      local handler = { name = name, seen = {} }
      handler.events = { Added = function(self, tenant, event)
        assert(tenant == "tenant1")
        self.seen[#self.seen + 1] = event.payload.n
        if fails then fails(event.payload.n, self, event) end
      end }
      return handler
    end

    local function poll(handlers, options, thread)
      return reader:poll("tenant1", thread or "thread1", handlers, options)
    end

    -- Polls until there is nothing more to do; how often.
    local function drain(handlers, options)
      local polls, all = 0, {}
      repeat
        local more, failures = poll(handlers, options)
        polls = polls + 1
        table.move(failures, 1, #failures, #all + 1, all)
        assert(polls <= 1000, "more is true for ever")
      until not more
      return polls, all
    end

    local function numbers(from, to)
      local list = {}
      for n = from, to do list[#list + 1] = n end
      return list
    end

    -- ---- order, limits, cursors --------------------------------------------------------------

    it("shows every event once, in order", function()
      fill(25)
      local h = recorder "h"
      drain { h }
      assert.same(numbers(1, 25), h.seen)
      drain { h }
      assert.same(numbers(1, 25), h.seen)
      fill(2)
      drain { h }
      assert.equal(27, #h.seen)
    end)

    it("shows as many events as limit says, 10 where it says nothing", function()
      fill(25)
      local h = recorder "h"
      for i, expected in ipairs { 10, 20, 25 } do
        local more = poll { h }
        assert.equal(expected, #h.seen)
        assert.equal(i < 3, more)
      end
      for _, limit in ipairs { 1, 2, 3, 7, 24, 25, 26, 1000, 5.0 } do
        local other = recorder("h" .. limit)
        local polls = drain({ other }, { limit = limit })
        assert.same(numbers(1, 25), other.seen)
        assert.equal(math.ceil(25 / limit), polls)
      end
    end)

    it("is at the end of an empty log, and of an unknown tenant, at once", function()
      local h = recorder "h"
      local more, failures = poll { h }
      assert.same({ false, {} }, { more, failures })
      assert.same({}, s.store:tenants())
    end)

    it("goes on where the handler was, in a new reader and process", function()
      fill(12)
      local h = recorder "h"
      poll { h }
      assert.equal(10, #h.seen)
      tidelog.StreamReader(s.another()):poll("tenant1", "thread1", { h })
      assert.same(numbers(1, 12), h.seen)
      local again = recorder "h"
      poll { again }
      assert.same({}, again.seen)
    end)

    it("keeps a cursor for each handler, by its name", function()
      fill(12)
      local first, second, third = recorder "first", recorder "second", recorder "third"
      drain { first }
      poll { first, second }
      assert.equal(10, #second.seen)
      drain { third, second }
      drain { first, second, third }
      for _, h in ipairs { first, second, third } do assert.same(numbers(1, 12), h.seen) end
    end)

    it("keeps cursors apart by thread and by tenant", function()
      fill(3)
      ch:command(domain.actor { tenant = "tenant2" }, "Add", { n = 100 })
      local h = recorder "h"
      poll { h }
      poll({ h }, nil, "thread2")
      assert.same({ 1, 2, 3, 1, 2, 3 }, h.seen)
      local seen
      reader:poll("tenant2", "thread1", { { name = "h", events = { Added = function(_, tenant, event)
        seen = { tenant, event.payload.n, event.position }
      end } } })
      assert.same({ "tenant2", 100, 0 }, seen)
    end)

    it("keeps the cursors of handlers that are not there this time", function()
      fill(3)
      local first, second = recorder "first", recorder "second"
      poll { first, second }
      poll { second }
      fill(3)
      poll { first }
      poll { second }
      poll { first, second }
      assert.equal(6, #first.seen)
      assert.equal(6, #second.seen)
    end)

    it("shows a new handler everything from the beginning, and the others nothing again", function()
      fill(30)
      local old, new = recorder "old", recorder "new"
      drain { old }
      fill(4)
      drain { old, new }
      assert.equal(34, #old.seen)
      assert.equal(34, #new.seen)
      assert.same(numbers(1, 30), table.move(new.seen, 1, 30, 1, {}))
    end)

    it("shows a handler only the events it has a function for", function()
      ch = tidelog.CommandHandler(s.store, { domain.Tally {
        events = { Other = function() end },
        commands = { Mix = function(_, context)
          context:push "Other"
          context:push "Added"
          context:push "Other"
        end },
      } })
      for n = 1, 5 do ch:command(actor, "Mix", { n = n }) end
      local h = recorder "h"
      drain { h }
      assert.same(numbers(1, 5), h.seen)
      local deaf = { name = "deaf", events = {} }
      assert.equal(2, drain { deaf })
    end)

    it("shows what was added while it polls", function()
      fill(1)
      local h
      h = recorder("h", function(n) if n < 5 then ch:command(actor, "Add", { aggregateId = "z", n = n + 1 }) end end)
      drain { h }
      assert.same(numbers(1, 5), h.seen)
    end)

    -- ---- more ----------------------------------------------------------------------------------

    it("says more only where another poll would find something to do", function()
      fill(10)
      local h = recorder "h"
      assert.is_false((poll({ h }, { limit = 10 })))
      fill(1)
      assert.is_false((poll({ h }, { limit = 1 })))
      fill(2)
      assert.is_true((poll({ h }, { limit = 1 })))
      assert.is_false((poll({ h }, { limit = 1 })))
      assert.is_false((poll({ h }, { limit = 1 })))
      assert.is_true((poll({ h, recorder "new" }, { limit = 12 })))
    end)

    for where, fails in pairs { first = 1, middle = 13, last = 25 } do
      it("ends, and shows the others everything, while one handler fails at the " .. where .. " event", function()
        fill(25)
        local bad = recorder("bad", function(n) if n == fails then error "no" end end)
        local good = recorder "good"
        for _ = 1, 3 do
          drain { bad, good }
          assert.same(numbers(1, 25), good.seen)
        end
        fill(15)
        for _ = 1, 3 do
          drain { good, bad }
          assert.equal(40, #good.seen)
        end
        local late = recorder "late"
        drain { bad, late, good }
        assert.equal(40, #late.seen)
        assert.equal(40, #good.seen)
        for i, n in ipairs(bad.seen) do assert.is_true(i < fails and n == i or n == fails) end
      end)
    end

    it("ends where every handler fails", function()
      fill(25)
      local handlers = {}
      for i = 1, 5 do
        handlers[i] = recorder("h" .. i, function(n) if n == i * 4 then error "no" end end)
      end
      local _, failures = drain(handlers)
      assert.is_true(#failures >= 5)
      for i = 1, 5 do assert.equal(i * 4, handlers[i].seen[#handlers[i].seen]) end
      assert.is_false((poll(handlers)))
    end)

    it("ends with any limit while some fail", function()
      fill(9)
      for _, limit in ipairs { 1, 2, 3, 9, 10 } do
        local good = recorder("good" .. limit)
        drain({ recorder("bad" .. limit, function(n) if n == 2 then error "no" end end), good,
                recorder("worse" .. limit, function() error "no" end) }, { limit = limit })
        assert.same(numbers(1, 9), good.seen)
      end
    end)

    -- ---- failures --------------------------------------------------------------------------------

    it("lists failures as { handler, event, error }", function()
      fill(5)
      local problem = tidelog.Err.precondition "not ready"
      local bad = recorder("bad", function(n) if n == 3 then error(problem) end end)
      local _, failures = poll { recorder "good", bad }
      assert.equal(1, #failures)
      assert.equal("bad", failures[1].handler)
      assert.equal(problem, failures[1].error)
      local event = failures[1].event
      assert.same({ "Added", 2, 3 }, { event.name, event.position, event.payload.n })
      assert.same({ 1, 2, 3 }, bad.seen)
    end)

    it("keeps the cursor of a handler before the event that failed, and goes on from there", function()
      fill(5)
      local broken = true
      local h = recorder("h", function(n) if n == 3 and broken then error "no" end end)
      drain { h }
      drain { h }
      assert.same({ 1, 2, 3, 3 }, h.seen)
      broken = false
      local _, failures = drain { h }
      assert.same({ 1, 2, 3, 3, 3, 4, 5 }, h.seen)
      assert.same({}, failures)
    end)

    it("lists whatever is raised", function()
      fill(1)
      for i, value in ipairs { "text", 42, false, {}, setmetatable({}, { __tostring = function() error "x" end }),
                               print } do
        local _, failures = poll { recorder("h" .. i, function() error(value, 0) end) }
        assert.equal(1, #failures)
        assert.is_true(rawequal(value, failures[1].error))
      end
      local _, failures = poll { recorder("nil", function() error() end) }
      assert.equal(1, #failures)
      assert.is_not_nil(failures[1].error)
    end)

    it("takes what is no function for a failure of that handler only", function()
      fill(3)
      local good = recorder "good"
      local _, failures = drain { { name = "odd", events = { Added = 42 } }, good }
      assert.equal(1, #failures)
      assert.equal("odd", failures[1].handler)
      assert.same({ 1, 2, 3 }, good.seen)
    end)

    it("takes an events table that raises for a failure of that handler only", function()
      fill(3)
      local good = recorder "good"
      local odd = { name = "odd", events = setmetatable({}, { __index = function() error "no such event" end }) }
      local _, failures = drain { odd, good }
      assert.equal(1, #failures)
      assert.equal("odd", failures[1].handler)
      assert.same({ 1, 2, 3 }, good.seen)
    end)

    -- ---- handlers --------------------------------------------------------------------------------

    it("ignores a handler without name or events", function()
      fill(3)
      local h = recorder "h"
      local more, failures = poll { {}, { name = "x" }, { events = {} }, { name = "", events = {} },
                                    { name = 42, events = {} }, { name = "x", events = 42 }, h, "x", 42, true }
      assert.same({ false, {} }, { more, failures })
      assert.same({ 1, 2, 3 }, h.seen)
      assert.same({ false, {} }, { poll {} })
      assert.same({ false, {} }, { poll { {} } })
    end)

    it("refuses two handlers of one name, and a handler in the place of the list", function()
      expect.error("InvalidArgumentError", "handlers", poll, { recorder "h", recorder "h" })
      expect.error("InvalidArgumentError", "handlers", poll, recorder "h")
      expect.error("InvalidArgumentError", "handler", poll, { recorder "a\0b" })
    end)

    it("finds events and methods through metatables", function()
      fill(2)
      local Base = { events = { Added = function(self, _, event) self:note(event.payload.n) end } }
      function Base:note(n) self.last, self.sum = n, (self.sum or 0) + n end
      local h = setmetatable({ name = "h" }, { __index = Base })
      local g = setmetatable({ events = setmetatable({}, { __index = Base.events }), note = Base.note },
        { __index = function(_, key) if key == "name" then return "g" end end })
      poll { h, g }
      for _, handler in ipairs { h, g } do
        assert.same({ 2, 3 }, { rawget(handler, "last"), rawget(handler, "sum") })
      end
      assert.is_nil(rawget(Base, "last"))
      assert.is_nil(rawget(h, "db"))
    end)

    it("shows each handler an event of its own: what one does to it no other sees", function()
      fill(2)
      local spoiled = recorder("a", function(_, _, event)
        event.payload.n, event.name, event.actor.id, event.extra = 100, "x", "x", true
        event.payload = { n = 100 }
      end)
      local seen = {}
      local after = { name = "b", events = { Added = function(_, _, event)
        seen[#seen + 1] = { event.name, event.payload.n, event.actor.id, event.position, event.extra }
      end } }
      poll { spoiled, after }
      assert.same({ { "Added", 1, "user1", 0 }, { "Added", 2, "user1", 1 } }, seen)
    end)

    it("shows every field of an event", function()
      local before = engine.now()
      local manager = domain.actor { roles = { "a", "b" }, extra = { 1.5 } }
      ch:command(manager, "Add", { aggregateId = "x", n = 0 })
      ch = tidelog.CommandHandler(s.store, { domain.Tally { commands = {
        Push = function(_, context) context:push("Added", { n = 5 }, 7) end,
      } } })
      ch:command(manager, "Push", { aggregateId = "x", commandId = "c1" }, { correlationId = "r1", causationId = "k1" })
      local events = {}
      poll { { name = "h", events = { Added = function(_, _, event) events[#events + 1] = event end } } }
      local time = events[2].time
      assert.is_true(engine.parseTime(time) >= before and engine.parseTime(time) <= engine.now())
      assert.is_truthy(time:match "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$")
      expect.exactly({
        name = "Added", version = 7, payload = { n = 5 }, position = 1, time = time, aggregateType = "Tally",
        aggregateId = "x", aggregateVersion = 1, command = "Push", actor = manager, commandId = "c1",
        correlationId = "r1", causationId = "k1",
      }, events[2])
      assert.equal(events[1].commandId, events[1].correlationId)
      assert.is_nil(events[1].causationId)
      for i, event in ipairs(domain.events(s.store)) do expect.exactly(event, events[i]) end
    end)

    -- ---- self.db -----------------------------------------------------------------------------------

    local function doc(path) return s.store:documents("tenant1"):doc(path):get() end

    it("keeps what handlers write in self.db, together with their cursors", function()
      fill(12)
      local h = { name = "h", events = { Added = function(self, _, event)
        local counter = self.db:doc "/counter"
        local value = counter:get() or { count = 0, list = {} }
        value.count = value.count + 1
        value.list[#value.list + 1] = event.payload.n
        counter:set(value)
      end } }
      drain { h }
      drain { h }
      assert.same({ count = 12, list = numbers(1, 12) }, doc "/counter")
    end)

    it("shows a handler its own writes at once, and those of earlier events and polls", function()
      s.store:documents("tenant1"):doc("/old"):set { old = true }
      s.store:documents("tenant1"):doc("/gone"):set { old = true }
      fill(2)
      local seen = {}
      local h = { name = "h", events = { Added = function(self, _, event)
        local n, db = event.payload.n, self.db
        local function paths(prefix)
          local list = {}
          for i, document in ipairs(db:list(prefix)) do list[i] = document.path end
          return table.concat(list, " ")
        end
        if n == 1 then
          db:doc("/gone"):delete()
          seen[1] = { db:doc("/gone"):get() == nil, db:doc("/old"):get().old, paths() }
          db:doc("/new"):set { n = n }
          db:doc("/old"):set { n = n }
          seen[2] = { db:doc("/new"):get().n, db:doc("/old"):get().n, paths() }
          db:doc("/gone"):set { back = true }
          db:doc("/gone"):delete()
        else
          seen[3] = { db:doc("/new"):get().n, db:doc("/old"):get().n, paths(), paths "/n",
                      db:doc("/gone"):get() == nil }
          db:doc("/new"):delete()
          seen[4] = { db:doc("/new"):get() == nil, paths() }
        end
      end } }
      local _, failures = poll { h }
      assert.same({}, failures)
      assert.same({ { true, true, "/old" }, { 1, 1, "/new /old" }, { 1, 1, "/new /old", "/new", true },
                    { true, "/old" } }, seen)
      assert.same({ n = 1 }, doc "/old")
      assert.is_nil(doc "/new")
      assert.is_nil(doc "/gone")
    end)

    it("gives a handler values of its own from self.db", function()
      fill(1)
      poll { { name = "h", events = { Added = function(self)
        local value = { list = { 1 } }
        self.db:doc("/a"):set(value)
        value.list[1] = 2
        self.db:doc("/a"):get().list[1] = 3
        assert(self.db:doc("/a"):get().list[1] == 1)
      end } } }
      assert.same({ list = { 1 } }, doc "/a")
    end)

    it("drops what a handler wrote for the event that it failed on, and only that", function()
      fill(3)
      local function writer(name, fails)
        return recorder(name, function(n, self)
          self.db:doc("/" .. name):set { n = n }
          self.db:doc("/" .. name .. "/" .. n):set {}
          if n > 1 then self.db:doc("/" .. name .. "/1"):delete() end
          if n == fails then error "no" end
        end)
      end
      poll { writer("bad", 2), writer "good" }
      assert.same({ n = 1 }, doc "/bad")
      assert.same({}, doc "/bad/1")
      assert.is_nil(doc "/bad/2")
      assert.same({ n = 3 }, doc "/good")
      assert.is_nil(doc "/good/1")
    end)

    it("takes what cannot be stored for a failure, with the field's path", function()
      fill(2)
      local bad = recorder("bad", function(n, self)
        self.db:doc("/ok"):set { n = n }
        if n == 2 then self.db:doc("/bad"):set { inner = { f = print } } end
      end)
      local _, failures = poll { bad }
      assert.same({ "InvalidArgumentError", "inner.f" }, { failures[1].error.name, failures[1].error.argument })
      assert.same({ n = 1 }, doc "/ok")
      assert.is_nil(doc "/bad")
    end)

    it("commits documents and cursors together or not at all: a poll that dies leaves neither", function()
      fill(3)
      local h = recorder("h", function(n, self) self.db:doc("/h"):set { n = n } end)
      local commit = engine.commitCursors
      engine.commitCursors = function() error(tidelog.Err.store("the power was cut", true)) end
      local ok, problem = pcall(poll, { h })
      engine.commitCursors = commit
      assert.is_false(ok)
      assert.equal("StoreError", problem.name)
      assert.is_nil(doc "/h")
      poll { h }
      assert.same({ 1, 2, 3, 1, 2, 3 }, h.seen)
      assert.same({ n = 3 }, doc "/h")
    end)

    it("gives the lease up where reading the store fails, and says what was the matter", function()
      fill(3)
      local step = engine.step
      engine.step = function() error(tidelog.Err.store "the disk is broken") end
      local ok, problem = pcall(poll, { recorder "h" })
      engine.step = step
      assert.is_false(ok)
      assert.equal("the disk is broken", problem.message)
      local h = recorder "h"
      tidelog.StreamReader(s.another()):poll("tenant1", "thread1", { h })
      assert.same({ 1, 2, 3 }, h.seen)
    end)

    it("lets nobody write through a self.db after its event", function()
      fill(2)
      local kept
      poll { recorder("h", function(_, self) kept = self.db end) }
      expect.error("PreconditionError", nil, function() kept:doc("/late"):set {} end)
      expect.error("PreconditionError", nil, function() kept:doc("/late"):delete() end)
      assert.is_nil(doc "/late")
    end)

    -- ---- leases ----------------------------------------------------------------------------------

    it("lets one reader at a thread: the second one finds nothing to do", function()
      fill(3)
      local other = tidelog.StreamReader(s.another())
      local second, results = recorder "h", nil
      local first = recorder("h", function(n)
        if n == 2 then results = { other:poll("tenant1", "thread1", { second }) } end
      end)
      poll { first }
      assert.same({ false, {} }, results)
      assert.same({}, second.seen)
      assert.same({ 1, 2, 3 }, first.seen)
      other:poll("tenant1", "thread1", { second })
      assert.same({}, second.seen)
    end)

    it("lets others at other threads and tenants meanwhile", function()
      fill(3)
      ch:command(domain.actor { tenant = "tenant2" }, "Add", { n = 1 })
      local other = tidelog.StreamReader(s.another())
      local second = recorder "h"
      poll { recorder("h", function(n)
        if n == 2 then other:poll("tenant1", "thread2", { second }) end
      end) }
      assert.same({ 1, 2, 3 }, second.seen)
    end)

    it("refuses the commit of a reader whose lease was taken by another: ConcurrencyError, nothing written", function()
      fill(3)
      local other = tidelog.StreamReader(s.another())
      local function writer(who, action)
        return recorder("h", function(n, self)
          self.db:doc("/by"):set { who = who }
          if action then action(n) end
        end)
      end
      local slow = writer("slow", function(n)
        if n ~= 3 then return end
        engine.sleep(40)
        other:poll("tenant1", "thread1", { writer "fast" })
      end)
      local err = expect.error("ConcurrencyError", nil, poll, { slow }, { timeout = 20 })
      assert.is_truthy(err.message:find("lease", 1, true), err.message)
      assert.same({ who = "fast" }, doc "/by")
      local h = recorder "h"
      poll { h }
      assert.same({}, h.seen)
    end)

    it("refuses the commit of a reader that polled its own thread within a handler", function()
      fill(2)
      local inner = recorder "h"
      local outer = recorder("h", function(n) if n == 1 then poll { inner } end end)
      expect.error("ConcurrencyError", nil, poll, { outer })
      assert.same({ 1, 2 }, inner.seen)
      poll { inner }
      assert.same({ 1, 2 }, inner.seen)
    end)

    it("takes over the thread of a reader that died", function()
      fill(3)
      engine.lease(s.store, "tenant1", "thread1", "a reader that died", 30)
      local h = recorder "h"
      assert.same({ false, {} }, { poll { h } })
      engine.sleep(40)
      poll { h }
      assert.same({ 1, 2, 3 }, h.seen)
    end)

    -- ---- arguments -------------------------------------------------------------------------------

    it("needs a store that tidelog.open made, and a tracer that is one", function()
      expect.error("InvalidArgumentError", "store", tidelog.StreamReader, nil)
      for _, store in ipairs { 42, "memory:", {}, true, io.stdout } do
        expect.error("InvalidArgumentError", "store", tidelog.StreamReader, store)
      end
      for _, tracer in ipairs { 42, "x", true, {}, print } do
        expect.error("InvalidArgumentError", "tracer", tidelog.StreamReader, s.store, tracer)
      end
    end)

    it("says which argument of poll is wrong, and touches nothing", function()
      fill(1)
      local function refused(name, about, ...) expect.error(name, about, reader.poll, reader, ...) end
      refused("MissingArgumentError", "tenant")
      refused("MissingArgumentError", "thread", "tenant1")
      refused("MissingArgumentError", "thread", "tenant1", "")
      refused("MissingArgumentError", "handlers", "tenant1", "thread1")
      for _, tenant in ipairs { 42, "T", {}, "a\0" } do refused("InvalidArgumentError", "tenant", tenant, "t", {}) end
      for _, thread in ipairs { 42, {}, "a\0", "\255", ("x"):rep(1 << 20) } do
        refused("InvalidArgumentError", "thread", "tenant1", thread, {})
      end
      for _, handlers in ipairs { 42, "x", true, print } do
        refused("InvalidArgumentError", "handlers", "tenant1", "thread1", handlers)
      end
      for _, options in ipairs { 42, "x", true, { max = 1 }, { 1 } } do
        refused("InvalidArgumentError", "options", "tenant1", "thread1", {}, options)
      end
      for _, option in ipairs { "limit", "timeout" } do
        for _, value in ipairs { 0, -1, 1.5, "1", {}, true, 0 / 0, print } do
          refused("InvalidArgumentError", option, "tenant1", "thread1", {}, { [option] = value })
        end
      end
    end)
  end)
end
