assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local engine = require "tidelog.engine"
local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

for _, s in ipairs(stores.all()) do
  describe("store:events on " .. s.name, function()
    local actor = domain.actor()
    local ch, times

    before_each(function()
      s.setup()
      local Other = domain.Tally { name = "Other", events = { Counted = function() end } }
      Other.commands = { Count = function(_, context)
        context:push("Counted", { n = 1 })
        context:push("Added", { n = 2 })
      end }
      ch = tidelog.CommandHandler(s.store, { domain.Tally(), Other })
      ch:command(actor, "AddAll", { aggregateId = "a", all = { 1, 2, 3 } }) -- 0 to 2
      ch:command(actor, "Add", { aggregateId = "b", n = 4 })               -- 3
      engine.sleep(3)
      ch:command(actor, "Count", { aggregateId = "a" })                    -- 4, 5
      engine.sleep(3)
      ch:command(actor, "Add", { aggregateId = "a", n = 5 })               -- 6
      times = {}
      for event in s.store:events "tenant1" do times[event.position] = event.time end
    end)
    after_each(s.teardown)

    local function positions(filter, limit)
      local list = {}
      for event in s.store:events("tenant1", filter) do
        list[#list + 1] = event.position
        if limit and #list == limit then break end
      end
      return list
    end

    local function ms(position) return engine.parseTime(times[position]) end

    it("gives the whole history in order", function()
      assert.same({ 0, 1, 2, 3, 4, 5, 6 }, positions())
      assert.same({ 0, 1, 2, 3, 4, 5, 6 }, positions {})
      assert.same({}, domain.events(s.store, "nobody"))
      assert.same({ "tenant1" }, s.store:tenants())
    end)

    it("gives it backwards", function()
      assert.same({ 6, 5, 4, 3, 2, 1, 0 }, positions { backwards = true })
    end)

    it("gives whole events, each a table of its own", function()
      local event = domain.events(s.store)[2]
      local context = ch:command(actor, "Nothing", { aggregateId = "x" })
      assert.equal(actor, context.actor)
      expect.exactly({
        name = "Added", version = 0, payload = { n = 2 }, position = 1, time = times[1], aggregateType = "Tally",
        aggregateId = "a", aggregateVersion = 1, command = "AddAll", actor = actor, commandId = event.commandId,
        correlationId = event.commandId,
      }, event)
      event.payload.n, event.actor.id = 100, "changed"
      local again = domain.events(s.store)
      assert.equal(2, again[2].payload.n)
      assert.equal("user1", again[2].actor.id)
      assert.equal("user1", again[1].actor.id)
      assert.are_not.equal(again[1].actor, again[2].actor)
    end)

    it("gives them from and to a position, also within a commit", function()
      assert.same({ 1, 2, 3 }, positions { from = 1, to = 3 })
      assert.same({ 5, 6 }, positions { from = 5 })
      assert.same({ 0, 1 }, positions { to = 1 })
      assert.same({ 2 }, positions { from = 2, to = 2 })
      assert.same({}, positions { from = 3, to = 2 })
      assert.same({}, positions { from = 7 })
      assert.same({}, positions { from = math.maxinteger })
      assert.same({ 0 }, positions { to = 0.0 })
    end)

    it("gives them from and to a position, backwards", function()
      assert.same({ 5, 4, 3, 2 }, positions { from = 5, to = 2, backwards = true })
      assert.same({ 1, 0 }, positions { from = 1, backwards = true })
      assert.same({ 6, 5 }, positions { to = 5, backwards = true })
      assert.same({ 6, 5, 4, 3, 2, 1, 0 }, positions { from = 1000, backwards = true })
      assert.same({}, positions { from = 1, to = 2, backwards = true })
    end)

    it("gives those of a time", function()
      for _, backwards in ipairs { false, true } do
        local function found(since, till)
          local list = positions { since = since, till = till, backwards = backwards }
          table.sort(list)
          return list
        end
        assert.same({ 4, 5, 6 }, found(times[4]))
        assert.same({ 4, 5, 6 }, found(ms(4)))
        assert.same({ 4, 5 }, found(times[4], ms(6) - 1))
        assert.same({ 6 }, found(ms(4) + 1))
        assert.same({ 0, 1, 2, 3 }, found(nil, ms(4) - 1))
        assert.same({ 0, 1, 2, 3, 4, 5 }, found(nil, times[5]))
        assert.same({}, found "2999-01-01T00:00:00Z")
        assert.same({}, found(nil, "2001-01-01T00:00:00Z"))
        assert.same({ 0, 1, 2, 3, 4, 5, 6 }, found("2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"))
      end
    end)

    it("gives those of a type, by its name or table", function()
      assert.same({ 0, 1, 2, 3, 6 }, positions { aggregateType = "Tally" })
      assert.same({ 4, 5 }, positions { aggregateType = { name = "Other" } })
      assert.same({ 6, 3, 2, 1, 0 }, positions { aggregateType = domain.Tally(), backwards = true })
      assert.same({}, positions { aggregateType = "tally" })
    end)

    it("gives those of one aggregate", function()
      assert.same({ 0, 1, 2, 6 }, positions { aggregateType = "Tally", aggregateId = "a" })
      assert.same({ 4, 5 }, positions { aggregateType = "Other", aggregateId = "a" })
      assert.same({ 6, 2, 1, 0 }, positions { aggregateType = "Tally", aggregateId = "a", backwards = true })
      assert.same({ 1, 2 }, positions { aggregateType = "Tally", aggregateId = "a", from = 1, to = 5 })
      assert.same({ 2, 1 },
        positions { aggregateType = "Tally", aggregateId = "a", from = 5, to = 1, backwards = true })
      assert.same({}, positions { aggregateType = "Tally", aggregateId = "none" })
    end)

    it("gives those of all aggregates with an id, where no type is given", function()
      assert.same({ 0, 1, 2, 4, 5, 6 }, positions { aggregateId = "a" })
      assert.same({ 6, 5, 4 }, positions { aggregateId = "a", backwards = true, limit = 3 })
      assert.same({ 2, 4 }, positions { aggregateId = "a", from = 2, to = 4 })
      assert.same({}, positions { aggregateId = "none" })
    end)

    it("gives those of some names", function()
      assert.same({ 4 }, positions { name = "Counted" })
      assert.same({ 0, 1, 2, 3, 5, 6 }, positions { name = { "Added" } })
      assert.same({ 0, 1, 2, 3, 4, 5, 6 }, positions { name = { "Counted", "Added" } })
      assert.same({ 5, 4 }, positions { name = { "Counted", "Added" }, aggregateType = "Other", backwards = true })
      assert.same({}, positions { name = "Add" })
    end)

    it("gives as many as limit", function()
      assert.same({ 0, 1 }, positions { limit = 2 })
      assert.same({ 6, 5 }, positions { limit = 2, backwards = true })
      assert.same({ 5, 6 }, positions { limit = 100, from = 5 })
      assert.same({ 4 }, positions { limit = 1, name = "Counted" })
      assert.same({}, positions { limit = 0 })
    end)

    it("ends for good, and can be left early, at any place", function()
      for n = 1, 7 do assert.equal(n, #positions(nil, n)) end
      local iterator = s.store:events("tenant1", { from = 6 })
      assert.equal(6, iterator().position)
      for _ = 1, 3 do assert.is_nil(iterator()) end
      ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      assert.is_nil(iterator())
    end)

    if s.persistent then
      it("lets go of its files at once when it is left by break or error", function()
        local function files() return #engine.listFolder "/proc/self/fd" end
        collectgarbage "stop"
        s.store:close() -- SQLite closes no file while another handle of the process holds a lock on it
        local before = files()
        local store = s.open()
        for event in store:events "tenant1" do
          if event then break end
        end
        pcall(function() for event in store:events "tenant1" do error(event) end end)
        assert.is_true(files() > before)
        store:close()
        local after = files()
        collectgarbage "restart"
        assert.equal(before, after)
      end)
    end

    it("lets go of the database when it is left by break, error or the collector", function()
      for _ = 1, 200 do
        for event in s.store:events "tenant1" do
          if event then break end
        end
        pcall(function() for event in s.store:events "tenant1" do error(event) end end)
        s.store:events "tenant1"()
      end
      collectgarbage()
      ch:command(actor, "Add", { aggregateId = "a", n = 1 })
      s.store:close()
      expect.error("StoreError", nil, s.store.events, s.store, "tenant1")
    end)

    it("may be used while commands are sent, and by many at once", function()
      local count = 0
      for event in s.store:events("tenant1", { to = 6 }) do
        count = count + 1
        ch:command(actor, "Add", { aggregateId = "c", n = event.position })
        for _ in s.store:events("tenant1", { limit = 2 }) do end
      end
      assert.equal(7, count)
      assert.equal(21, ch:load("tenant1", "Tally", "c").sum)
    end)

    it("reads a huge log in bounded memory", function()
      local all = {}
      for n = 1, 500 do all[n] = n end
      for _ = 1, 20 do
        ch:command(actor, "AddAll", { aggregateId = "huge", all = all, padding = ("x"):rep(100000) })
      end
      for _, backwards in ipairs { false, true } do
        collectgarbage()
        collectgarbage()
        local before, most, count = collectgarbage "count", 0, 0
        for _ in s.store:events("tenant1", { backwards = backwards }) do
          count = count + 1
          most = math.max(most, collectgarbage "count")
        end
        assert.equal(10007, count)
        assert.is_true(most - before < 20 * 1024, ("%.0f KB"):format(most - before))
      end
    end)

    it("says which part of a filter is wrong", function()
      local function refused(about, filter)
        expect.error("InvalidArgumentError", about, s.store.events, s.store, "tenant1", filter)
      end
      for _, filter in ipairs { 42, "x", true, print } do refused("filter", filter) end
      refused("filter", { form = 1 })
      refused("filter", { 1 })
      for _, field in ipairs { "from", "to", "limit" } do
        for _, value in ipairs { -1, 1.5, "1", true, {}, print, 0 / 0 } do refused(field, { [field] = value }) end
      end
      for _, field in ipairs { "since", "till" } do
        for _, value in ipairs { "", "x", 1.5, true, {}, print, "2026-02-30T00:00:00Z" } do
          refused(field, { [field] = value })
        end
      end
      for _, value in ipairs { 42, true, "a\0b", "\255", ("x"):rep(1 << 20) } do
        refused("aggregateType", { aggregateType = value })
        refused("aggregateId", { aggregateType = "Tally", aggregateId = value })
      end
      for _, value in ipairs { 42, true, { 42 }, { {} } } do refused("name", { name = value }) end
      expect.error("MissingArgumentError", "tenant", s.store.events, s.store)
      expect.error("InvalidArgumentError", "tenant", s.store.events, s.store, "Tenant")
    end)

    it("does not take a type without a name for all types", function()
      local ok, err = pcall(s.store.events, s.store, "tenant1", { aggregateType = {} })
      assert.is_false(ok)
      assert.equal("aggregateType", err.argument)
    end)
  end)
end
