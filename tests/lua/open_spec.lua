assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

describe("tidelog.open", function()
  it("says which part of a bad URI is wrong", function()
    expect.error("MissingArgumentError", "uri", tidelog.open)
    expect.error("MissingArgumentError", "uri", tidelog.open, "")
    for _, uri in ipairs { 42, 1.5, true, {}, print } do
      expect.error("InvalidArgumentError", "uri", tidelog.open, uri)
    end
    for _, uri in ipairs { "x", ":", "memory", "memory:x", "MEMORY:", "sqlite", "sqlite:", "SQLITE:x", " memory:",
                           "oracle:x", "sqlite:a\0b", "\255:", ("x"):rep(1 << 20) } do
      expect.error("InvalidArgumentError", "uri", tidelog.open, uri)
    end
  end)

  it("never shows the password of a URI", function()
    for _, uri in ipairs { "postgres://user:s3cret@host/db", "mongodb//user:s3cret@host", "mongodb://user:s3cret@",
                           "mongodb+srv:/user:s3cret@host", "memory:user:s3cret@host", "://user:s3cret@host",
                           "user@s3cret", "s3cret" } do
      local err = expect.error("InvalidArgumentError", "uri", tidelog.open, uri)
      assert.is_nil(tostring(err):find("s3cret", 1, true), tostring(err))
    end
  end)

  it("refuses wrong and unknown options", function()
    for _, options in ipairs { 42, "x", true, print } do
      expect.error("InvalidArgumentError", "options", tidelog.open, "memory:", options)
    end
    expect.error("InvalidArgumentError", "options", tidelog.open, "memory:", { timeout = 1 })
    expect.error("InvalidArgumentError", "options", tidelog.open, "memory:", { 1 })
    for _, name in ipairs { "busyTimeout", "maxOpen" } do
      for _, value in ipairs { 0, -1, 1.5, "1", {}, true, math.huge, math.maxinteger } do
        expect.error("InvalidArgumentError", name, tidelog.open, "memory:", { [name] = value })
      end
      tidelog.open("memory:", { [name] = 1 }):close()
      tidelog.open("memory:", { [name] = 2.0 }):close()
    end
    tidelog.open("memory:", {}):close()
  end)

  it("refuses a folder that cannot be", function()
    local folder = stores.folder()
    expect.error("StoreError", nil, tidelog.open, "sqlite:" .. folder .. "/not/there")
    local file = assert(io.open(folder, "w"))
    file:close()
    expect.error("StoreError", nil, tidelog.open, "sqlite:" .. folder)
    os.remove(folder)
  end)
end)

for _, s in ipairs(stores.all()) do
  describe("a store on " .. s.name, function()
    before_each(s.setup)
    after_each(s.teardown)

    local function fill(store, tenant)
      local ch = tidelog.CommandHandler(store, { domain.Tally() })
      for n = 1, 3 do
        ch:command(domain.actor { tenant = tenant }, "Add", { aggregateId = "a", n = n })
      end
      return ch
    end

    -- Everything that reaches the store, for a store that is closed.
    local function uses(store)
      local tenant, Tally = "tenant1", domain.Tally()
      local ch, reader = tidelog.CommandHandler(store, { Tally }), tidelog.StreamReader(store)
      local documents = store:documents(tenant)
      local document = documents:doc "/a"
      local iterator = store:events(tenant)
      iterator()
      return {
        ["store:head"] = function() store:head(tenant) end,
        ["store:check"] = function() store:check(tenant) end,
        ["store:tenants"] = function() store:tenants() end,
        ["store:events"] = function() store:events(tenant) end,
        ["an iterator that had begun"] = iterator,
        ["store:documents"] = function() store:documents(tenant) end,
        ["documents:list"] = function() documents:list() end,
        ["document:get"] = function() document:get() end,
        ["document:set"] = function() document:set { a = 1 } end,
        ["document:delete"] = function() document:delete() end,
        ["ch:command"] = function() ch:command(domain.actor(), "Add", { aggregateId = "a", n = 1 }) end,
        ["ch:command with a new aggregate"] = function() ch:command(domain.actor(), "Add", { n = 1 }) end,
        ["ch:command with a commandId"] = function()
          ch:command(domain.actor(), "Add", { aggregateId = "a", commandId = "c", n = 1 })
        end,
        ["ch:load"] = function() ch:load(tenant, Tally, "a") end,
        ["ch:load at a version"] = function() ch:load(tenant, Tally, "a", { version = 0 }) end,
        ["ch:load at a position"] = function() ch:load(tenant, Tally, "a", { position = 0 }) end,
        ["sr:poll"] = function()
          reader:poll(tenant, "thread1", { { name = "h", events = { Added = print } } })
        end,
        ["sr:poll on a new tenant"] = function()
          reader:poll("tenant2", "thread1", { { name = "h", events = { Added = print } } })
        end,
      }
    end

    it("refuses every use after close with a StoreError that says so", function()
      fill(s.store, "tenant1")
      local all = uses(s.store)
      s.store:close()
      for name, use in pairs(all) do
        local err = expect.error("StoreError", nil, use)
        assert.equal("the store is closed", err.message, name)
        assert.is_false(err.transient, name)
      end
    end)

    it("refuses a command that closes its store, and keeps what was there", function()
      local Tally = domain.Tally { commands = { Close = function(_, context)
        s.store:close()
        context:push "Added"
      end } }
      local ch = tidelog.CommandHandler(s.store, { Tally })
      ch:command(domain.actor(), "Add", { aggregateId = "a", n = 1 })
      expect.error("StoreError", nil, ch.command, ch, domain.actor(), "Close", { aggregateId = "a", n = 1 })
      if s.persistent then assert.equal(1, s.open():head "tenant1") end
    end)

    it("may be closed twice", function()
      s.store:close()
      s.store:close()
      assert.equal("tidelog.Store (closed)", tostring(s.store))
    end)

    it("says what it is, but not where", function()
      assert.equal("tidelog.Store (" .. s.name:sub(1, -2) .. ")", tostring(s.store))
    end)

    it("closes itself at the end of a <close> variable's scope", function()
      local kept
      do
        local store <close> = s.open()
        kept = store
        assert.equal(0, store:head "tenant1")
      end
      expect.error("StoreError", nil, kept.head, kept, "tenant1")
    end)

    it("closes itself also when that scope raises", function()
      local kept
      pcall(function()
        local store <close> = s.open()
        kept = store
        error "out"
      end)
      expect.error("StoreError", nil, kept.head, kept, "tenant1")
    end)

    it("is kept from the collector by whatever still uses it", function()
      local function leave(what)
        local store = s.open()
        fill(store, "tenant1")
        return what(store)
      end
      local ch = leave(function(store) return tidelog.CommandHandler(store, { domain.Tally() }) end)
      local reader = leave(function(store) return tidelog.StreamReader(store) end)
      local document = leave(function(store) return store:documents "tenant1":doc "/a" end)
      local iterator = leave(function(store) return store:events "tenant1" end)
      collectgarbage()
      collectgarbage()
      assert.equal("number", type(ch:load("tenant1", "Tally", "a").sum))
      reader:poll("tenant1", "thread1", { { name = "h", events = {} } })
      document:set { a = 1 }
      for n = 1, 3 do
        collectgarbage()
        assert.equal(n, iterator().payload.n)
      end
    end)

    it("is collected with everything that hangs on it, in any order", function()
      for _ = 1, 20 do
        local store = s.persistent and tidelog.open(s.uri) or tidelog.open "memory:"
        fill(store, "tenant1")
        local iterator = store:events "tenant1"
        iterator()
        local _ = { store, store:documents "tenant1", iterator }
        if math.random() < 0.5 then store:close() end
      end
      collectgarbage()
      collectgarbage()
      assert.equal(0, s.store:head "tenant2")
    end)

    it("has a metatable that nobody can take", function()
      assert.equal("string", type(getmetatable(s.store)))
      assert.is_false(pcall(setmetatable, s.store, {}))
    end)

    it("refuses a self that is no store", function()
      for _, name in ipairs { "close", "head", "check", "tenants", "events", "documents" } do
        for _, self in ipairs { 42, "x", {}, true, io.stdout, tidelog.StreamReader(s.store) } do
          expect.error("InvalidArgumentError", "store", s.store[name], self, "tenant1")
        end
        expect.error("MissingArgumentError", "store", s.store[name], nil, "tenant1")
      end
    end)

    it("keeps two stores apart, also with the same actor and types", function()
      local other = tidelog.open "memory:"
      local Tally, actor = domain.Tally(), domain.actor()
      local here = tidelog.CommandHandler(s.store, { Tally })
      local there = tidelog.CommandHandler(other, { Tally })
      here:command(actor, "Add", { aggregateId = "a", n = 1 })
      local context = there:command(actor, "Add", { aggregateId = "a", n = 10 })
      assert.equal(10, context.aggregate.sum)
      there:command(actor, "Add", { aggregateId = "a", n = 10 })
      assert.equal(1, here:load("tenant1", Tally, "a").sum)
      assert.equal(1, s.store:head "tenant1")
      assert.equal(2, other:head "tenant1")
      s.store:documents("tenant1"):doc("/a"):set { here = true }
      assert.is_nil(other:documents("tenant1"):doc("/a"):get())
      other:close()
      assert.equal(2, here:command(actor, "Add", { aggregateId = "a", n = 1 }).aggregate.sum)
    end)

    it("lists its tenants, and checks them", function()
      assert.same({}, s.store:tenants())
      fill(s.store, "tenant2")
      fill(s.store, "tenant1")
      assert.same({ "tenant1", "tenant2" }, s.store:tenants())
      assert.equal(3, s.store:head "tenant1")
      assert.same({ commits = 3, events = 3 }, s.store:check "tenant1")
      assert.same({ commits = 0, events = 0 }, s.store:check "nobody")
      assert.equal(0, s.store:head "nobody")
      assert.same({ "tenant1", "tenant2" }, s.store:tenants())
    end)

    it("keeps tenants apart", function()
      fill(s.store, "tenant1")
      local ch = fill(s.store, "tenant2")
      ch:command(domain.actor { tenant = "tenant2" }, "Add", { aggregateId = "a", n = 100 })
      assert.equal(6, ch:load("tenant1", "Tally", "a").sum)
      assert.equal(106, ch:load("tenant2", "Tally", "a").sum)
      assert.equal(-1, ch:load("tenant3", "Tally", "a").aggregateVersion)
    end)

    if s.persistent then
      it("has everything again when it is opened again", function()
        fill(s.store, "tenant1")
        s.store:documents("tenant1"):doc("/a"):set { kept = true }
        s.store:close()
        local again = s.open()
        assert.equal(6, tidelog.CommandHandler(again, { domain.Tally() }):load("tenant1", "Tally", "a").sum)
        assert.same({ kept = true }, again:documents("tenant1"):doc("/a"):get())
      end)

      it("goes on with more tenants than may be open at once", function()
        local store = s.open { maxOpen = 1 }
        for i = 1, 5 do fill(store, "tenant" .. i) end
        local iterators = {}
        for i = 1, 5 do iterators[i] = store:events("tenant" .. i) end
        for n = 1, 3 do
          for i = 1, 5 do assert.equal(n, iterators[i]().payload.n) end
        end
      end)
    else
      it("is a new one at each open", function()
        fill(s.store, "tenant1")
        assert.equal(0, s.open():head "tenant1")
      end)
    end
  end)
end
