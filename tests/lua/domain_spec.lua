assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local Domain = require "tidelog.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

-- Modules stay loaded as "aggregates.<name>", so each test's files have names of their own.
describe("a domain's folder", function()
  local folder

  local function write(path, text) stores.write(folder .. "/" .. path, text) end

  local function newFolder(name)
    folder = stores.folder() .. (name or "")
    assert(os.execute(("mkdir -p '%s/aggregates' '%s/handlers'"):format(folder, folder)))
  end

  before_each(function() newFolder() end)
  after_each(function()
    stores.remove(folder .. "/aggregates")
    stores.remove(folder .. "/handlers")
    stores.remove(folder)
  end)

  local function names(list)
    local all = {}
    for i, value in ipairs(list) do all[i] = value.name end
    return all
  end

  local function refused(message)
    local err = expect.error("InvalidArgumentError", "domain", Domain.load, folder)
    assert.is_truthy(err.message:find(message, 1, true), err.message)
  end

  it("gives its aggregates and handlers in the order of their files", function()
    write("aggregates/order_b.lua", "return { name = 'B' }")
    write("aggregates/order_a.lua", "return { name = 'A' }")
    write("handlers/order_h.lua", "return { name = 'H' }")
    local domain = Domain.load(folder)
    assert.same({ "A", "B" }, names(domain.aggregates))
    assert.same({ "H" }, names(domain.handlers))
  end)

  it("may lack handlers, but not aggregates", function()
    stores.remove(folder .. "/handlers")
    assert.same({ aggregates = {}, handlers = {} }, Domain.load(folder))
    stores.remove(folder .. "/aggregates")
    refused "has no readable folder aggregates: No such file or directory"
  end)

  it("must be readable: a file is no folder", function()
    stores.remove(folder .. "/handlers")
    write("handlers", "")
    refused "handlers cannot be read: Not a directory"
    os.remove(folder .. "/handlers")
  end)

  it("lets its files require each other", function()
    write("aggregates/each_base.lua", "return { name = 'Base' }")
    write("aggregates/each_more.lua", "return { name = 'More', base = require 'aggregates.each_base' }")
    write("handlers/each_other.lua", "return { name = 'Other', base = require 'aggregates.each_base' }")
    write("each_shared.lua", "return 'shared'")
    local domain = Domain.load(folder)
    assert.equal(domain.aggregates[1], domain.aggregates[2].base)
    assert.equal(domain.aggregates[1], domain.handlers[1].base)
    assert.equal("shared", require "each_shared")
  end)

  it("comes before what package.path has", function()
    assert.is_truthy(package.searchpath("aggregates.adder", package.path))
    write("aggregates/adder.lua", "return { name = 'Mine' }")
    local loaded = package.loaded["aggregates.adder"]
    package.loaded["aggregates.adder"] = nil
    local aggregates = Domain.load(folder).aggregates
    package.loaded["aggregates.adder"] = loaded
    assert.same({ "Mine" }, names(aggregates))
  end)

  for _, name in ipairs { "with space", "what?", "a;b", "100%", "ü" } do
    it(("may be called '%s'"):format(name), function()
      stores.remove(folder .. "/aggregates")
      stores.remove(folder .. "/handlers")
      stores.remove(folder)
      newFolder(" " .. name)
      local module = "called_" .. #name
      write("aggregates/" .. module .. ".lua", "return { name = 'Here' }")
      assert.same({ "Here" }, names(Domain.load(folder).aggregates))
    end)
  end

  it("may have other files, which are passed over", function()
    write("aggregates/.hidden.lua", "error 'hidden'")
    write("aggregates/notes.txt", "notes")
    write("aggregates/old.lua~", "error 'old'")
    assert.same({}, Domain.load(folder).aggregates)
  end)

  it("refuses a file that require cannot name, rather than passing it over", function()
    write("aggregates/adder.v2.lua", "return {}")
    refused "adder.v2.lua: a module's name has no dots"
  end)

  it("refuses files that do not return a table", function()
    write("aggregates/no_table.lua", "local Adder = {}")
    refused "aggregates/no_table.lua does not return a table"
  end)

  it("raises what its files raise, and where a syntax error is", function()
    write("aggregates/syntax.lua", "return {\n")
    local ok, problem = pcall(Domain.load, folder)
    assert.is_false(ok)
    assert.is_truthy(problem:find("aggregates/syntax.lua:2:", 1, true), problem)
    assert.is_nil(problem:find "\n")
    write("aggregates/syntax.lua", "error { mine = true }")
    ok, problem = pcall(Domain.load, folder)
    assert.same({ false, { mine = true } }, { ok, problem })
  end)

  it("has a name", function()
    expect.error("InvalidArgumentError", "domain", Domain.load, "")
  end)
end)
