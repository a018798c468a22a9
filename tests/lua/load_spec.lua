assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local engine = require "tidelog.engine"
local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

local function wait_for_the_clock()
  local now = engine.now()
  while engine.now() == now do engine.sleep(0.2) end
end

for _, s in ipairs(stores.all()) do
  for kind, snapshot in pairs { ["without snapshots"] = false, ["with one at each event"] = { every = 1 },
                                ["with some"] = { every = 3 } } do
    for _, cacheSize in ipairs { 0, 1000 } do
      describe(("load on %s %s, a cache of %d"):format(s.name, kind, cacheSize), function()
        local actor = domain.actor()
        local ch, Tally
        local times -- of each event of "a", by version

        before_each(function()
          s.setup()
          Tally = domain.Tally { snapshot = snapshot }
          ch, times = tidelog.CommandHandler(s.store, { Tally }, nil, { cacheSize = cacheSize }), {}
          local function add(all, id)
            local context = ch:command(actor, "AddAll", { aggregateId = id or "a", all = all })
            if not id then
              for _, event in ipairs(context.events) do times[event.aggregateVersion] = event.time end
            end
            wait_for_the_clock()
          end
          add { 1 }              -- a: version 0, position 0
          add({ 1000 }, "b")     --                       1
          add { 2, 4, 8 }        -- a: 1 to 3,         2 to 4
          add({ 1000 }, "b")     --                       5
          add { 16 }             -- a: 4,                 6
        end)
        after_each(s.teardown)

        local sums = { [-1] = 0, [0] = 1, [1] = 3, [2] = 7, [3] = 15, [4] = 31 }

        local function check(version, at)
          local tally = ch:load("tenant1", Tally, "a", at)
          assert.same({ sums[version], version, "a", version + 1 },
            { tally.sum, tally.aggregateVersion, tally.aggregateId, #tally.list })
          assert.equal("integer", math.type(tally.aggregateVersion))
        end

        it("gives the latest state", function()
          check(4)
          assert.equal(2000, ch:load("tenant1", Tally, "b").sum)
        end)

        it("gives the state at any version, also within a commit", function()
          for version = -1, 4 do check(version, { version = version }) end
          check(2, { version = 2.0 })
        end)

        it("gives the state at any position, also within a commit", function()
          for position, version in pairs { [0] = 0, 0, 1, 2, 3, 3, 4 } do check(version, { position = position }) end
        end)

        it("gives the state at any time: whole commits", function()
          check(-1, { time = "2001-01-01T00:00:00Z" })
          check(0, { time = times[0] })
          check(3, { time = times[1] })
          check(4, { time = times[4] })
          check(4, { time = "2999-12-31T23:59:59.999Z" })
          check(4, { time = "9999-01-01T00:00:00+02:00" })
        end)

        it("gives the state between two commits", function()
          local function ms(version) return engine.parseTime(times[version]) end
          check(-1, { time = ms(0) - 1 })
          check(0, { time = ms(0) })
          check(0, { time = ms(1) - 1 })
          check(3, { time = ms(1) })
          check(3, { time = ms(4) - 1 })
          check(4, { time = ms(4) })
          check(0, { time = engine.formatTime(ms(1) - 1) })
          check(-1, { time = 0 })
          check(-1, { time = -1 })
          check(4, { time = math.maxinteger })
        end)

        it("gives the same by the aggregate's name or path", function()
          assert.equal(31, ch:load("tenant1", "Tally", "a").sum)
          assert.equal(31, ch:load("tenant1", Tally.path or "/Tally", "a").sum)
          assert.equal(3, ch:load("tenant1", "Tally", "a", { version = 1 }).sum)
        end)

        it("gives the state of one that has no events as −1", function()
          for _, at in ipairs { false, { version = -1 }, { position = 0 }, { position = 6 }, { time = 0 } } do
            local tally = ch:load("tenant1", Tally, "unknown", at or nil)
            assert.same({ 0, -1, "unknown" }, { tally.sum, tally.aggregateVersion, tally.aggregateId })
          end
          assert.equal(-1, ch:load("tenant2", Tally, "a").aggregateVersion)
          assert.equal(-1, ch:load("tenant2", Tally, "a", { time = "2999-01-01T00:00:00Z" }).aggregateVersion)
          assert.same({ "tenant1" }, s.store:tenants())
        end)

        it("gives a table of the caller's own, with the aggregate's methods", function()
          function Tally:double() return self.sum * 2 end
          for _, at in ipairs { false, { version = 2 } } do
            local first, second = ch:load("tenant1", Tally, "a", at or nil), ch:load("tenant1", Tally, "a", at or nil)
            assert.are_not.equal(first, second)
            assert.are_not.equal(first.list, second.list)
            first.sum, first.list[1] = 0, 0
            assert.equal(1, second.list[1])
            assert.equal(second.sum * 2, second:double())
          end
        end)

        it("follows what other writers add", function()
          local other = tidelog.CommandHandler(s.another(), { Tally })
          check(4)
          other:command(actor, "Add", { aggregateId = "a", n = 32 })
          assert.equal(63, ch:load("tenant1", Tally, "a").sum)
          check(4, { version = 4 })
          check(4, { position = 6 })
          assert.equal(63, ch:load("tenant1", Tally, "a", { version = 5 }).sum)
        end)

        local function refused(name, about, ...) return expect.error(name, about, ch.load, ch, ...) end

        it("refuses a version or position that is not reached", function()
          for _, version in ipairs { 5, 6, math.maxinteger } do
            refused("InvalidArgumentError", "version", "tenant1", Tally, "a", { version = version })
          end
          refused("InvalidArgumentError", "version", "tenant1", Tally, "unknown", { version = 0 })
          for _, position in ipairs { 7, 8, math.maxinteger } do
            refused("InvalidArgumentError", "position", "tenant1", Tally, "a", { position = position })
          end
          refused("InvalidArgumentError", "position", "tenant2", Tally, "a", { position = 0 })
        end)

        it("refuses a point that is none", function()
          for _, at in ipairs { 42, "x", true, print, {}, { version = 1, position = 1 }, { 1 }, { versions = 1 },
                                { version = 1, x = 1 } } do
            refused("InvalidArgumentError", "at", "tenant1", Tally, "a", at)
          end
          for _, value in ipairs { -2, 1.5, "1", true, {}, 0 / 0, print } do
            refused("InvalidArgumentError", "version", "tenant1", Tally, "a", { version = value })
          end
          for _, value in ipairs { -1, 1.5, "1", true, {}, 0 / 0, print } do
            refused("InvalidArgumentError", "position", "tenant1", Tally, "a", { position = value })
          end
          for _, value in ipairs { "", "now", "2026", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z",
                                   "2026-11-23T09:00:00Z x", "2026-11-23T25:00:00Z", 1.5, true, {}, print,
                                   ("9"):rep(1 << 20), "2026-11-23T09:00:00Z\0" } do
            refused("InvalidArgumentError", "time", "tenant1", Tally, "a", { time = value })
          end
        end)

        it("refuses a tenant, type or id that is none", function()
          refused("MissingArgumentError", "tenant")
          refused("MissingArgumentError", "tenant", "", Tally, "a")
          refused("MissingArgumentError", "aggregateType", "tenant1")
          refused("MissingArgumentError", "aggregateId", "tenant1", Tally)
          refused("MissingArgumentError", "aggregateId", "tenant1", Tally, "")
          for _, tenant in ipairs { 42, "Tenant", "../x", {}, true, "a\0b" } do
            refused("InvalidArgumentError", "tenant", tenant, Tally, "a")
          end
          for _, Type in ipairs { 42, "Unknown", "", true, print } do
            refused("InvalidArgumentError", "aggregateType", "tenant1", Type, "a")
          end
          refused("NotImplementedError", "commands", "tenant1", {}, "a")
          for _, id in ipairs { 42, {}, true, "a\0b", "\255" } do
            refused("InvalidArgumentError", "aggregateId", "tenant1", Tally, id)
          end
        end)
      end)
    end
  end
end
