assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local tidelog = require "tidelog"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

for _, s in ipairs(stores.all()) do
  describe("documents on " .. s.name, function()
    local documents

    before_each(function()
      s.setup()
      documents = s.store:documents "tenant1"
    end)
    after_each(s.teardown)

    local function paths(prefix, from)
      local list = {}
      for i, doc in ipairs((from or documents):list(prefix)) do list[i] = doc.path end
      return list
    end

    it("are there once they are set, and gone once they are deleted", function()
      local doc = documents:doc "/counters/counter1"
      assert.is_nil(doc:get())
      doc:set { count = 1 }
      assert.same({ count = 1 }, doc:get())
      doc:set { other = 2 }
      assert.same({ other = 2 }, doc:get())
      doc:delete()
      assert.is_nil(doc:get())
      doc:delete()
      doc:set {}
      assert.same({}, doc:get())
    end)

    it("are the same through every handle", function()
      documents:doc("/a"):set { n = 1 }
      assert.same({ n = 1 }, documents:doc("/a"):get())
      assert.same({ n = 1 }, s.store:documents("tenant1"):doc("/a"):get())
      assert.same({ n = 1 }, s.another():documents("tenant1"):doc("/a"):get())
    end)

    it("are apart from each other and from other tenants", function()
      documents:doc("/a"):set { n = 1 }
      assert.is_nil(documents:doc("/A"):get())
      assert.is_nil(documents:doc("/a/"):get())
      assert.is_nil(documents:doc("//a"):get())
      assert.is_nil(s.store:documents("tenant2"):doc("/a"):get())
      assert.same({}, paths(nil, s.store:documents "tenant2"))
    end)

    it("are new tables at each get", function()
      local value = { list = { 1 } }
      local doc = documents:doc "/a"
      doc:set(value)
      value.list[1] = 2
      local first = doc:get()
      first.list[1], first.new = 3, true
      assert.same({ list = { 1 } }, doc:get())
    end)

    it("take the read-only tables of an actor or payload", function()
      local actor = tidelog.Actor { id = "u", tenant = "tenant1", roles = { "a" } }
      documents:doc("/a"):set(actor)
      assert.same({ id = "u", tenant = "tenant1", roles = { "a" } }, documents:doc("/a"):get())
      documents:doc("/a"):set { who = actor }
      assert.equal("u", documents:doc("/a"):get().who.id)
    end)

    it("are listed in the order of their paths, by prefix", function()
      assert.same({}, paths())
      for _, path in ipairs { "/b", "/a/2", "/a/10", "/a", "/a/1", "/ä", "/B", "/a%", "/a_", "/c d" } do
        documents:doc(path):set { path = path }
      end
      assert.same({ "/B", "/a", "/a%", "/a/1", "/a/10", "/a/2", "/a_", "/b", "/c d", "/ä" }, paths())
      assert.same(paths(), paths "/")
      assert.same({ "/a/1", "/a/10", "/a/2" }, paths "/a/")
      assert.same({ "/a/1", "/a/10" }, paths "/a/1")
      assert.same({ "/a%" }, paths "/a%")
      assert.same({ "/a_" }, paths "/a_")
      assert.same({}, paths "/x")
      for _, doc in ipairs(documents:list "/a") do assert.equal(doc.path, doc:get().path) end
      documents:doc("/a/10"):delete()
      assert.same({ "/a/1", "/a/2" }, paths "/a/")
    end)

    it("are listed all, also where they are thousands", function()
      local reader = tidelog.StreamReader(s.store)
      local ch = tidelog.CommandHandler(s.store, { require "tests.lua.support.domain".Tally() })
      ch:command(require "tests.lua.support.domain".actor(), "Add", { n = 1 })
      reader:poll("tenant1", "thread1", { { name = "many", events = { Added = function(self)
        for i = 1, 2500 do self.db:doc(("/many/%05d"):format(i)):set { i = i } end
      end } } })
      local list = paths "/many/"
      assert.equal(2500, #list)
      for i, path in ipairs(list) do assert.equal(("/many/%05d"):format(i), path) end
      assert.equal(1000, #paths "/many/01" )
      assert.same({ i = 2500 }, documents:doc("/many/02500"):get())
    end)

    it("have paths that begin with / and are plain text", function()
      for _, path in ipairs { "/a", "/a b", "/a/b/c", "/ä/日本", "/'", "/a\"b", "/%_", "/..", "/." } do
        documents:doc(path):set { p = path }
        assert.same({ p = path }, documents:doc(path):get())
      end
      expect.error("MissingArgumentError", "path", documents.doc, documents)
      expect.error("MissingArgumentError", "path", documents.doc, documents, "")
      for _, path in ipairs { "a", "/", 42, true, {}, print, "/a\0b", "/a\n", "/\255", "/" .. ("x"):rep(1 << 20) } do
        expect.error("InvalidArgumentError", "path", documents.doc, documents, path)
      end
    end)

    it("take any text that begins with / as a prefix", function()
      for _, prefix in ipairs { "/", "//", "/a%", "/" .. ("x"):rep(100) } do assert.same({}, paths(prefix)) end
      for _, prefix in ipairs { "", "a", 42, true, {}, print, "/a\0b", "/" .. ("x"):rep(1 << 20), "/\255" } do
        local ok, err = pcall(documents.list, documents, prefix)
        if not ok then -- what no path can have may also just find nothing
          expect.readable(err)
          assert.equal("prefix", err.argument)
        else
          assert.same({}, err)
        end
      end
      expect.error("InvalidArgumentError", "prefix", documents.list, documents, "a")
      expect.error("InvalidArgumentError", "prefix", documents.list, documents, {})
    end)

    it("need a value to be set", function()
      local doc = documents:doc "/a"
      expect.error("MissingArgumentError", "document", doc.set, doc)
      expect.error("InvalidArgumentError", "document", doc.set, doc, tidelog.null)
      assert.is_nil(doc:get())
    end)

    it("need a tenant", function()
      expect.error("MissingArgumentError", "tenant", s.store.documents, s.store)
      for _, tenant in ipairs { "Tenant", 42, true, {}, "../x", "a\0" } do
        expect.error("InvalidArgumentError", "tenant", s.store.documents, s.store, tenant)
      end
    end)

    it("make no tenant by being looked for", function()
      s.store:documents("tenant9"):doc("/a"):get()
      s.store:documents("tenant9"):list()
      assert.same({}, s.store:tenants())
    end)

    it("are kept also where their handle is spoiled", function()
      local doc = documents:doc "/a"
      doc:set { n = 1 }
      doc.path = "/b"
      assert.is_nil(doc:get())
      doc.path = 42
      assert.is_false(pcall(doc.get, doc))
      assert.is_false(pcall(doc.set, doc, { n = 2 }))
      doc.path = nil
      assert.is_false(pcall(doc.delete, doc))
      assert.same({ "/a" }, paths())
    end)
  end)
end
