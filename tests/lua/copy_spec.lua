assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local engine = require "tidelog.engine"
local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

local TENANT = "tenant1"

-- From each kind of store to each.
for _, s in ipairs(stores.all()) do
  for _, t in ipairs(stores.all()) do
    describe(("tidelog.copy from %s to %s"):format(s.name, t.name), function()
      local actor = domain.actor()
      local ch, reader

      before_each(function()
        s.setup()
        t.setup()
        ch, reader = tidelog.CommandHandler(s.store, { domain.Tally() }), tidelog.StreamReader(s.store)
      end)
      after_each(function()
        s.teardown()
        t.teardown()
      end)

      local function add(count, store)
        local handler = store and tidelog.CommandHandler(store, { domain.Tally() }) or ch
        for n = 1, count do
          handler:command(actor, "AddAll", { aggregateId = "a" .. n % 3, commandId = "c" .. n .. engine.id(),
                                             all = { n, n + 1 } })
        end
      end

      local counter = { name = "counter", events = { Added = function(self, _, event)
        local document = self.db:doc("/counts/" .. event.aggregateId)
        local count = (document:get() or { n = 0 }).n
        document:set { n = count + 1 }
      end } }

      local function poll(store, thread, limit)
        local sr = store == s.store and reader or tidelog.StreamReader(store)
        return sr:poll(TENANT, thread or "thread1", { counter }, { limit = limit })
      end

      local function content(store)
        local all = { events = domain.events(store, TENANT), documents = {}, cursors = {} }
        for _, document in ipairs(store:documents(TENANT):list()) do all.documents[document.path] = document:get() end
        for _, thread in ipairs(store:threads(TENANT)) do all.cursors[thread.name] = thread.cursors end
        return all
      end

      local function isCopied()
        local position, time, hash = engine.head(s.store, TENANT)
        assert.same({ position, time, hash }, { engine.head(t.store, TENANT) })
        expect.exactly(content(s.store), content(t.store))
        assert.equal(position, t.store:check(TENANT).events)
        for _, thread in ipairs(s.store:threads(TENANT)) do assert.is_nil(thread.owner) end
      end

      local function copy(options) return tidelog.copy(s.store, t.store, TENANT, options) end

      local function refused(name, part)
        local err = expect.error(name, nil, copy, { wait = 50 })
        assert.is_truthy(err.message:find(part, 1, true), err.message)
        for _, thread in ipairs(s.store:threads(TENANT)) do
          assert.is_falsy(thread.owner and thread.owner:find "^tidelog copy", "a lease was left")
        end
        return err
      end

      it("gives an identical log, the documents and the threads", function()
        add(10)
        poll(s.store)
        poll(s.store, "thread2", 3)
        s.store:documents(TENANT):doc("/by/hand"):set { list = { 1, 2.0, tidelog.null } }
        local result = copy()
        isCopied()
        assert.same({ TENANT, 20, 20, 10, 4, 4, 0, 2 },
          { result.tenant, result.events, result.copiedEvents, result.copiedCommits, result.documents,
            result.copiedDocuments, result.removedDocuments, result.threads })
        assert.is_truthy(result.hash:match("^" .. ("%x"):rep(64) .. "$"))
      end)

      it("is one that commands and readers go on with", function()
        add(5)
        poll(s.store, nil, 7)
        local token = s.store:threads(TENANT)[1].token
        copy()
        assert.is_true(t.store:threads(TENANT)[1].token >= token)
        add(2, t.store)
        repeat until not poll(t.store)
        assert.same({ ["/counts/a0"] = { n = 2 }, ["/counts/a1"] = { n = 6 }, ["/counts/a2"] = { n = 6 } },
          content(t.store).documents)
        -- a command that was sent before it is known there
        local first = domain.events(s.store, TENANT)[1]
        local again = tidelog.CommandHandler(t.store, { domain.Tally() }):command(actor, "AddAll",
          { aggregateId = first.aggregateId, commandId = first.commandId, all = { 1 } })
        assert.is_true(again.duplicate)
      end)

      it("carries over what has come since, and takes away what is gone", function()
        add(3)
        poll(s.store)
        s.store:documents(TENANT):doc("/gone"):set {}
        s.store:documents(TENANT):doc("/z"):set { old = true }
        copy()
        add(4)
        poll(s.store)
        s.store:documents(TENANT):doc("/gone"):delete()
        s.store:documents(TENANT):doc("/z"):set { old = false }
        t.store:documents(TENANT):doc("/only/there"):set {}
        local result = copy()
        isCopied()
        assert.same({ 14, 8, 4, 2 }, { result.events, result.copiedEvents, result.copiedCommits,
                                       result.removedDocuments })
        result = copy()
        isCopied()
        assert.same({ 14, 0, 0, 0 }, { result.events, result.copiedEvents, result.copiedDocuments,
                                       result.removedDocuments })
      end)

      it("goes there and back", function()
        add(3)
        poll(s.store)
        copy()
        add(3, t.store)
        poll(t.store)
        tidelog.copy(t.store, s.store, TENANT)
        isCopied()
      end)

      it("begins a thread anew that only the target has: its documents are gone", function()
        add(3)
        copy()
        poll(t.store, "elsewhere")
        copy()
        assert.same({ elsewhere = {} }, content(t.store).cursors)
        poll(s.store, "elsewhere")
        poll(t.store, "elsewhere")
        expect.exactly(content(s.store).documents, content(t.store).documents)
      end)

      it("refuses a target with another history, or one that is ahead, and leaves it as it is", function()
        add(2)
        add(2, t.store)
        t.store:documents(TENANT):doc("/mine"):set {}
        local before = expect.text(content(t.store))
        refused("PreconditionError", "another history")
        add(1)
        refused("PreconditionError", "another history")
        add(2, t.store)
        local _, _, hash = engine.head(t.store, TENANT)
        refused("PreconditionError", "ahead of the source")
        assert.equal(hash, select(3, engine.head(t.store, TENANT)))
        assert.not_equal(before, expect.text(content(t.store)))
      end)

      it("refuses a target whose end is in the middle of a commit", function()
        add(2)
        tidelog.CommandHandler(t.store, { domain.Tally() }):command(actor, "Add", { n = 1 })
        refused("PreconditionError", "another history")
      end)

      it("refuses to copy nothing", function()
        refused("PreconditionError", "has nothing in the source")
        assert.same({}, t.store:tenants())
      end)

      it("says whose lease is in its way, in the source and in the target", function()
        add(2)
        poll(s.store)
        engine.lease(s.store, TENANT, "thread1", "reader 7", 60000)
        refused("ConcurrencyError", "'thread1' of the source is leased by 'reader 7'")
        assert.same({}, t.store:tenants())
        local other = s.another()
        local token = engine.lease(other, TENANT, "thread1", "reader 7", 60000)
        engine.commitCursors(other, TENANT, "thread1", "reader 7", token, nil, {}, true)
        copy()
        engine.lease(t.store, TENANT, "thread1", "reader 8", 60000)
        refused("ConcurrencyError", "'thread1' of the target is leased by 'reader 8'")
      end)

      it("waits for a reader to end its poll, and lets none poll meanwhile", function()
        add(2)
        poll(s.store)
        engine.lease(s.store, TENANT, "thread1", "a reader", 60)
        local seen = {}
        copy { progress = function(state)
          seen[#seen + 1] = state
          assert.same({ false, {} }, { poll(s.store) })
        end }
        isCopied()
        assert.same({ TENANT, 4, 4 }, { seen[#seen].tenant, seen[#seen].position, seen[#seen].head })
      end)

      it("catches up with commands that come meanwhile, and with threads that begin", function()
        add(2)
        poll(s.store)
        local count = 0
        copy { progress = function()
          count = count + 1
          if count <= 3 then add(1) end
          if count == 3 then poll(s.store, "new") end
        end }
        isCopied()
        assert.is_true(s.store:head(TENANT) > 4)
      end)

      it("takes over where the last one was stopped, wherever that was", function()
        add(20)
        poll(s.store)
        for path = 1, 5 do s.store:documents(TENANT):doc("/d/" .. path):set { n = path } end
        for _, name in ipairs { "import", "putDocuments", "putThread" } do
          local call = engine[name]
          for fails = 1, 3 do
            local calls = 0
            engine[name] = function(...)
              calls = calls + 1
              if calls == fails then error(tidelog.Err.store "the power was cut", 0) end
              if name ~= "import" then return call(...) end
              local store, tenant, scan = ...
              return call(store, tenant, scan, 3, 1 << 20)
            end
            pcall(copy)
            engine[name] = call
          end
        end
        copy()
        isCopied()
      end)

      it("notices that it lost a lease meanwhile, and says to copy again", function()
        add(2)
        poll(s.store)
        local put = engine.putThread
        engine.putThread = function(store, tenant, name, ...)
          -- as if it had been stopped for so long that a reader came in between
          local owner = s.store:threads(TENANT)[1].owner
          engine.lease(s.store, tenant, name, owner, 60000)
          return put(store, tenant, name, ...)
        end
        local ok, err = pcall(copy)
        engine.putThread = put
        assert.is_false(ok)
        assert.equal("ConcurrencyError", err.name)
        assert.is_truthy(err.message:find("was lost meanwhile: copy again", 1, true), err.message)
        copy()
        isCopied()
      end)

      it("goes on though its predecessor still has the leases", function()
        add(2)
        poll(s.store)
        local commit = engine.commitCursors
        engine.commitCursors = function() error "it was killed" end
        copy()
        engine.commitCursors = commit
        assert.is_truthy(s.store:threads(TENANT)[1].owner:find "^tidelog copy")
        copy()
        isCopied()
      end)

      it("refuses the store itself, and arguments that are none", function()
        add(1)
        expect.error("InvalidArgumentError", "to", tidelog.copy, s.store, s.store, TENANT)
        if s.persistent then
          expect.error("InvalidArgumentError", "to", tidelog.copy, s.store, s.another(), TENANT)
        end
        expect.error("InvalidArgumentError", "store", tidelog.copy, {}, t.store, TENANT)
        expect.error("InvalidArgumentError", "store", tidelog.copy, s.store, "sqlite:x", TENANT)
        expect.error("MissingArgumentError", "tenant", tidelog.copy, s.store, t.store)
        expect.error("InvalidArgumentError", "tenant", tidelog.copy, s.store, t.store, "T")
        expect.error("InvalidArgumentError", "options", tidelog.copy, s.store, t.store, TENANT, { all = true })
        expect.error("InvalidArgumentError", "progress", tidelog.copy, s.store, t.store, TENANT, { progress = 1 })
        expect.error("InvalidArgumentError", "wait", tidelog.copy, s.store, t.store, TENANT, { wait = -1 })
      end)

      it("carries the largest bodies, in groups of bounded size", function()
        local text = ("x"):rep(3 << 20)
        for n = 1, 6 do
          ch:command(actor, "Add", { aggregateId = "large", n = n, text = text })
          s.store:documents(TENANT):doc("/large/" .. n):set { n = n, text = text }
        end
        local states, groups = 0, 0
        local put = engine.putDocuments
        engine.putDocuments = function(...)
          groups = groups + 1
          return put(...)
        end
        local ok, problem = pcall(copy, { progress = function() states = states + 1 end })
        engine.putDocuments = put
        assert.is_true(ok, tostring(problem))
        assert.is_true(states >= 4, "only so many groups of commits: " .. states)
        assert.is_true(groups >= 3, "only so many groups of documents: " .. groups)
        isCopied()
      end)
    end)
  end
end

describe("tidelog.copy between databases without transactions", function()
  local engineDescribe, engineGet = engine.describe, engine.getDocument
  local a, b = stores.all()[1], stores.all()[2]
  local apart, reflects, written

  before_each(function()
    a.setup()
    b.setup()
    apart, reflects, written = {}, 0, {}
    function engine.describe(store, tenant)
      local about = engine.decode(engineDescribe(store, tenant))
      if apart[store] then about.documents = "forward only" end
      return engine.encode(about, "about")
    end
    function engine.getDocument(store, tenant, path, writer)
      return (engineGet(store, tenant, path)), apart[store] and writer and reflects or 0
    end
    tidelog.CommandHandler(a.store, { domain.Tally() }):command(domain.actor(), "AddAll", { all = { 1, 2, 3 } })
    tidelog.StreamReader(a.store):poll(TENANT, "t", { { name = "h", events = { Added = function(self)
      self.db:doc("/d"):set {}
    end } } }, { limit = 2 })
  end)
  after_each(function()
    engine.describe, engine.getDocument = engineDescribe, engineGet
    a.teardown()
    b.teardown()
  end)

  local function copy()
    local put = engine.putDocuments
    engine.putDocuments = function(store, tenant, documents)
      written = documents
      return put(store, tenant, documents)
    end
    local ok, result = pcall(tidelog.copy, a.store, b.store, TENANT)
    engine.putDocuments = put
    if not ok then error(result, 0) end
    return result
  end

  it("marks documents with what the cursors say", function()
    apart[b.store] = true
    copy()
    assert.same({ "/d", engine.encode({}, "document"), "t/h", 2 }, written)
    written = {}
    copy() -- the marks again, though the document is the same
    assert.equal(4, #written)
  end)

  it("carries the marks of documents that reflect more", function()
    apart[a.store], apart[b.store], reflects = true, true, 3
    copy()
    assert.same({ "/d", engine.encode({}, "document"), "t/h", 3 }, written)
  end)

  it("refuses documents that reflect more where the target cannot say so", function()
    apart[a.store], reflects = true, 3
    local err = expect.error("PreconditionError", nil, copy)
    assert.is_truthy(err.message:find("the document '/d' reflects the handler 't/h'", 1, true), err.message)
    reflects = 2
    copy()
  end)
end)
