assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

-- What a store tells of itself: news, threads, what it is.

local engine = require "tidelog.engine"
local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

for _, s in ipairs(stores.all()) do
  describe("A store on " .. s.name, function()
    local actor = domain.actor()
    local ch

    before_each(function()
      s.setup()
      ch = tidelog.CommandHandler(s.store, { domain.Tally() })
    end)
    after_each(s.teardown)

    local function add(count)
      for n = 1, count do ch:command(actor, "Add", { aggregateId = "a", n = n }) end
    end

    local function took(fn, ...)
      local started = engine.clock()
      local result = fn(...)
      return engine.clock() - started, result
    end

    it("waits for news: not at all where there are some, up to the time where there are none", function()
      add(3)
      local ms, head = took(s.store.wait, s.store, "tenant1", 2, 20000)
      assert.equal(3, head)
      assert.is_true(ms < 10000)
      ms, head = took(s.store.wait, s.store, "tenant1", 3, 60)
      assert.equal(3, head)
      assert.is_true(ms > 55 and ms < 10000)
      assert.equal(3, s.store:wait("tenant1", 3, 0))
      assert.equal(3, s.store:wait("tenant1", 0)) -- 10 s where nothing is said
      assert.equal(0, s.store:wait("nobody", 0, 0))
      assert.same({ "tenant1" }, s.store:tenants())
    end)

    it("says which argument of a wait is wrong", function()
      local function refused(name, about, ...) expect.error(name, about, s.store.wait, s.store, ...) end
      refused("MissingArgumentError", "tenant")
      refused("MissingArgumentError", "position", "tenant1")
      refused("InvalidArgumentError", "tenant", "T", 0)
      for _, position in ipairs { -1, 1.5, "1", {}, true } do
        refused("InvalidArgumentError", "position", "tenant1", position)
      end
      for _, timeout in ipairs { -1, 1.5, "1", {}, true, 86400001 } do
        refused("InvalidArgumentError", "timeout", "tenant1", 0, timeout)
      end
      expect.error("InvalidArgumentError", "store", s.store.wait, {}, "tenant1", 0)
    end)

    it("says what it is", function()
      local about = s.store:describe()
      assert.equal(s.name:gsub(":", ""), about.store)
      for _, field in ipairs { "place", "server" } do
        assert.is_truthy(type(about[field]) == "string" and about[field] ~= "", field)
      end
      assert.equal("with cursors", about.documents)
      assert.equal(s.name == "mongodb:" and "change stream" or "polling", about.news)
      if s.name == "sqlite:" then
        assert.is_truthy(about.server:match "^SQLite %d")
        assert.equal(about.place .. "/tenant1.db", s.store:describe("tenant1").file)
      end
      expect.error("InvalidArgumentError", "tenant", s.store.describe, s.store, "T")
      assert.same({}, s.store:tenants()) -- nothing came into being
    end)

    it("lists its threads: who has a lease, and how far each handler is", function()
      assert.same({}, s.store:threads "tenant1")
      add(3)
      local reader = tidelog.StreamReader(s.store)
      local within
      local function handler(name, fn) return { name = name, events = { Added = fn or function() end } } end
      reader:poll("tenant1", "b", { handler "one", handler("two", function(_, _, event)
        within = s.store:threads "tenant1"
        if event.payload.n == 2 then error "no" end
      end) })
      reader:poll("tenant1", "a", { handler "one" }, { limit = 2 })
      assert.same({ { name = "a", token = 1, cursors = { one = { position = 2 } } },
                    { name = "b", token = 1, cursors = { one = { position = 3 }, two = { position = 1 } } } },
        s.store:threads "tenant1")
      assert.equal(1, #within)
      assert.equal("string", type(within[1].owner))
      assert.is_truthy(engine.parseTime(within[1].expires) > engine.now())
      assert.same({}, within[1].cursors)
    end)

    it("lists more threads than a page has, in order", function()
      local count = 1001
      for n = 1, count do engine.putThread(s.store, "tenant1", ("t%04d"):format(n), n, engine.encode({}, "cursors")) end
      local threads = s.store:threads "tenant1"
      assert.equal(count, #threads)
      for n, thread in ipairs(threads) do assert.same({ ("t%04d"):format(n), n }, { thread.name, thread.token }) end
    end)

    it("refuses aggregates whose type is the engine's own", function()
      local Own = domain.Tally { name = "tidelog.mine", path = "/mine" }
      expect.error("InvalidArgumentError", "name", tidelog.CommandHandler, s.store, { Own })
      expect.error("InvalidArgumentError", "aggregateType", engine.append, s.store, "tenant1", "tidelog.mine", "a",
        0, 1, engine.encode({}, "body"))
      assert.same({}, s.store:tenants())
    end)
  end)
end
