assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

-- Readers on a database without transactions: documents are written before the cursors, and
-- a reader may die in between. Such a store is made here of one that has transactions, by
-- taking its calls apart.

local engine = require "tidelog.engine"
local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local stores = require "tests.lua.support.stores"

local REAL = { lease = engine.lease, getDocument = engine.getDocument, commitCursors = engine.commitCursors }

for _, s in ipairs(stores.all()) do
  describe("StreamReader without transactions on " .. s.name, function()
    local ch, reader, marks, lookups, dies, said
    local actor = domain.actor()

    before_each(function()
      s.setup()
      ch, reader = tidelog.CommandHandler(s.store, { domain.Tally() }), tidelog.StreamReader(s.store)
      marks, lookups, dies, said = {}, 0, nil, {}

      function engine.lease(...)
        local token, expires, cursors = REAL.lease(...)
        return token, expires, cursors, true
      end

      function engine.getDocument(store, tenant, path, writer)
        if writer then lookups = lookups + 1 end
        local of = marks[path]
        return (REAL.getDocument(store, tenant, path)), of and writer and of[writer] or 0
      end

      -- Each path by itself, and dies behind so many of them; the cursors last.
      function engine.commitCursors(store, tenant, thread, owner, token, cursors, documents, release)
        local left, paths = dies, {}
        for i = 1, #documents, 4 do
          local path, body, writer, position = table.unpack(documents, i, i + 3)
          if not paths[path] then
            if left == 0 then error(tidelog.Err.store "the power was cut", 0) end
            left, paths[path] = left and left - 1, true
          end
          engine.putDocuments(store, tenant, { path, body, false, 0 })
          marks[path] = marks[path] or {}
          marks[path][writer] = position
        end
        if left then error(tidelog.Err.store "the power was cut", 0) end
        return REAL.commitCursors(store, tenant, thread, owner, token, cursors, {}, release)
      end

      function _G.warn(...) said[#said + 1] = table.concat { ... } end -- luacheck: ignore
    end)

    local warn = _G.warn
    after_each(function()
      for name, call in pairs(REAL) do engine[name] = call end
      _G.warn = warn -- luacheck: ignore
      s.teardown()
    end)

    local function fill(count)
      for n = 1, count do ch:command(actor, "Add", { aggregateId = "a", n = n }) end
    end

    -- Adds each event's n to the documents at these paths.
    local function adder(name, ...)
      local handler, paths = { name = name }, { ... }
      handler.events = { Added = function(self, _, event)
        for _, path in ipairs(paths) do
          local document = self.db:doc(path)
          local sum = document:get() or { n = 0, count = 0 }
          document:set { n = sum.n + event.payload.n, count = sum.count + 1 }
        end
      end }
      return handler
    end

    local function doc(path) return s.store:documents("tenant1"):doc(path):get() end

    -- Polls; a reader that dies leaves its lease to its successor.
    local function poll(handlers, options)
      local ok, more, failures = pcall(reader.poll, reader, "tenant1", "thread1", handlers, options)
      return ok, more, failures
    end

    it("applies each event once to each document, wherever it dies between documents and cursors", function()
      fill(10)
      local handlers = { adder("h", "/a", "/b", "/c"), adder("other", "/b") }
      for count = 0, 3 do
        dies = count
        assert.is_false(poll(handlers, { limit = 4 }))
        assert.is_false(poll(handlers, { limit = 2 + count }))
      end
      dies = nil
      repeat
        local ok, more = poll(handlers, { limit = 3 })
        assert.is_true(ok)
      until not more
      assert.same({ n = 55, count = 10 }, doc "/a")
      assert.same({ n = 110, count = 20 }, doc "/b")
      assert.same({ n = 55, count = 10 }, doc "/c")
    end)

    it("does not write a deleted document again for what it was deleted behind", function()
      fill(3)
      local handler = { name = "h", events = { Added = function(self, _, event)
        local document = self.db:doc "/last"
        if event.payload.n == 3 then document:delete() else document:set { n = event.payload.n } end
      end } }
      dies = 1
      assert.is_false(poll { handler })
      assert.is_nil(doc "/last")
      dies = nil
      assert.is_true(poll({ handler }, { limit = 2 }))
      assert.is_nil(doc "/last")
      assert.is_true(poll { handler })
      assert.is_nil(doc "/last")
      fill(1)
      assert.is_true(poll { handler })
      assert.same({ n = 1 }, doc "/last")
    end)

    it("shows what is stored, and lets a document that a handler did not get to be written", function()
      fill(2)
      local seen = {}
      local handler = { name = "h", events = { Added = function(self, _, event)
        seen[#seen + 1] = self.db:doc("/a"):get() or false
        self.db:doc("/a"):set { n = event.payload.n }
        self.db:doc("/b/" .. event.payload.n):set { n = event.payload.n }
      end } }
      dies = 1
      assert.is_false(poll { handler })
      marks["/a"], marks["/b/1"], marks["/b/2"] = { ["thread1/h"] = 2 }, nil, nil -- only this one was written
      engine.putDocuments(s.store, "tenant1", { "/a", engine.encode({ n = 2 }, "document"), false, 0, "/b/1", false,
                                                false, 0, "/b/2", false, false, 0 })
      dies, seen = nil, {}
      assert.is_true(poll { handler })
      assert.same({ { n = 2 }, { n = 2 } }, seen)
      assert.same({ { n = 2 }, { n = 1 }, { n = 2 } }, { doc "/a", doc "/b/1", doc "/b/2" })
    end)

    it("marks a document for every handler that wrote it, behind the last event it wrote it for", function()
      fill(4)
      local first = { name = "first", events = { Added = function(self, _, event)
        if event.payload.n <= 2 then self.db:doc("/d"):set { by = "first" } end
      end } }
      local second = { name = "second", events = { Added = function(self, _, event)
        self.db:doc("/d"):set { by = "second" }
        if event.payload.n == 4 then error "fails" end
      end } }
      assert.is_true(poll { first, second })
      assert.same({ ["/d"] = { ["thread1/first"] = 2, ["thread1/second"] = 3 } }, marks)
      assert.same({ by = "second" }, doc "/d")
    end)

    it("asks once a document and writer how far it is", function()
      fill(10)
      poll { adder("h", "/a", "/b"), adder("other", "/b") }
      assert.equal(3, lookups)
    end)

    it("says so once for each reader, and to its tracer each time", function()
      fill(3)
      local records = {}
      reader = tidelog.StreamReader(s.store, { trace = function(_, build)
        local record = build()
        if record.method == "pollStream" then records[#records + 1] = record.documents end
      end })
      for _ = 1, 3 do poll({ adder("h", "/a") }, { limit = 1 }) end
      assert.equal(1, #said)
      assert.is_truthy(said[1]:find("tidelog: the database has no transactions: ", 1, true), said[1])
      assert.same({ "forward only", "forward only", "forward only" }, records)
    end)

    it("does none of this where documents are committed with the cursors", function()
      fill(3)
      engine.lease = REAL.lease
      local documents
      function engine.commitCursors(...)
        documents = select(7, ...)
        return REAL.commitCursors(...)
      end
      local record
      reader = tidelog.StreamReader(s.store, { trace = function(_, build)
        local built = build()
        if built.method == "pollStream" then record = built end
      end })
      assert.is_true(poll { adder("h", "/a"), adder("other", "/a") })
      assert.equal(0, lookups)
      assert.same({}, said)
      assert.equal("with cursors", record.documents)
      assert.equal(4, #documents)
      assert.is_false(documents[3])
      assert.same({ n = 12, count = 6 }, doc "/a")
    end)
  end)
end
