assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local Actor = require "tidelog".Actor
local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

local function fields(changes)
  local all = { id = "user1", tenant = "tenant1", roles = { "user" } }
  for key, value in pairs(changes) do all[key] = value end
  return all
end

describe("Actor", function()
  it("has what it was given", function()
    local actor = Actor { id = "user1", name = "actor 1", tenant = "tenant1", roles = { "manager", "user" },
                          device = { kind = "phone", tags = { "a", "b" } }, score = 1.0 }
    assert.equal("user1", actor.id)
    assert.equal("actor 1", actor.name)
    assert.equal("tenant1", actor.tenant)
    assert.equal("manager", actor.roles[1])
    assert.equal(2, #actor.roles)
    assert.equal("b", actor.device.tags[2])
    assert.equal("float", math.type(actor.score))
    assert.is_nil(actor.unknown)
  end)

  for _, field in ipairs { "id", "tenant", "roles" } do
    it("needs " .. field, function()
      local given = fields {}
      given[field] = nil
      expect.error("MissingArgumentError", field, Actor, given)
    end)
  end

  it("needs fields at all", function()
    expect.error("MissingArgumentError", "actor", Actor)
    for _, value in ipairs { 42, "x", true, print } do expect.error("InvalidArgumentError", "actor", Actor, value) end
  end)

  it("takes no empty id or tenant", function()
    expect.error("MissingArgumentError", "id", Actor, fields { id = "" })
    expect.error("MissingArgumentError", "tenant", Actor, fields { tenant = "" })
  end)

  it("takes only tenants that every database can have", function()
    for _, tenant in ipairs { "a", "0", "tenant1", "a_b-c", "a-", "a_", "0-0", ("a"):rep(38) } do
      assert.equal(tenant, Actor(fields { tenant = tenant }).tenant)
    end
    for _, tenant in ipairs { "A", "Tenant", "_a", "-a", "a b", " a", "a ", "a.b", "a/b", "..", "../a", "a\\b", "a\0",
                              "a\n", "ä", "a\255", "a$", "a:b", "a*", ("a"):rep(39), ("a"):rep(1 << 20) } do
      expect.error("InvalidArgumentError", "tenant", Actor, fields { tenant = tenant })
    end
    for _, tenant in ipairs { 42, true, {}, print } do
      expect.error("InvalidArgumentError", "tenant", Actor, fields { tenant = tenant })
    end
  end)

  it("takes only names as its id", function()
    for _, id in ipairs { "1", "user@example.org", "Jürgen Müller", "a/b", "$x", "a.b" } do
      assert.equal(id, Actor(fields { id = id }).id)
    end
    for _, id in ipairs { 42, true, {}, "a\0b", "a\nb", "a\255", ("x"):rep(1 << 20) } do
      expect.error("InvalidArgumentError", "id", Actor, fields { id = id })
    end
  end)

  it("takes only a list of texts as roles", function()
    assert.equal(0, #Actor(fields { roles = {} }).roles)
    for _, roles in ipairs { "user", 42, true, { "" }, { 1 }, { "user", false }, { {} } } do
      expect.error("InvalidArgumentError", "roles", Actor, fields { roles = roles })
    end
  end)

  it("does not drop roles that are no list without a word", function()
    expect.error("InvalidArgumentError", "roles", Actor, fields { roles = { user = true } })
    expect.error("InvalidArgumentError", "roles", Actor, fields { roles = { "user", manager = true } })
    expect.error("InvalidArgumentError", "roles", Actor, fields { roles = { [2] = "user" } })
  end)

  it("takes only what can be stored, and names it", function()
    expect.error("InvalidArgumentError", "callback", Actor, fields { callback = print })
    expect.error("InvalidArgumentError", "device.ratio", Actor, fields { device = { ratio = 0 / 0 } })
    expect.error("InvalidArgumentError", "name", Actor, fields { name = "\255" })
    expect.error("InvalidArgumentError", "actor", Actor, fields { "positional" })
  end)

  it("is read-only, also in what it holds", function()
    local actor = Actor(fields { device = { tags = { "a" } } })
    expect.error("InvalidArgumentError", "tenant", function() actor.tenant = "tenant2" end)
    expect.error("InvalidArgumentError", "new", function() actor.new = 1 end)
    expect.error("InvalidArgumentError", nil, function() actor.roles[1] = "root" end)
    expect.error("InvalidArgumentError", nil, function() actor.roles[#actor.roles + 1] = "root" end)
    assert.is_false(pcall(table.insert, actor.roles, "root"))
    assert.is_false(pcall(table.sort, actor.device.tags, function() return true end) and actor.device.tags[1] ~= "a")
    expect.error("InvalidArgumentError", nil, function() actor.device.tags[1] = "b" end)
    assert.is_false(pcall(setmetatable, actor, {}))
    assert.equal("tenant1", actor.tenant)
    assert.equal(1, #actor.roles)
  end)

  it("has nothing to do with the table that it was made from", function()
    local given = fields { device = { tags = { "a" } } }
    local actor = Actor(given)
    given.tenant, given.roles[1], given.device.tags[1] = "tenant2", "root", "b"
    assert.equal("tenant1", actor.tenant)
    assert.equal("user", actor.roles[1])
    assert.equal("a", actor.device.tags[1])
    given.device.tags[2] = "c" -- the table is still the caller's
  end)

  it("can be looked through with pairs, ipairs and #", function()
    local found = {}
    for key, value in pairs(Actor(fields { name = "n" })) do found[key] = value end
    assert.equal("n", found.name)
    assert.equal("user", found.roles[1])
    local roles = {}
    for i, role in ipairs(Actor(fields { roles = { "a", "b" } }).roles) do roles[i] = role end
    assert.same({ "a", "b" }, roles)
    assert.same({ "a", "b" }, { table.unpack(Actor(fields { roles = { "a", "b" } }).roles) })
  end)

  it("can be made from an actor", function()
    local actor = Actor(Actor(fields { name = "n" }))
    assert.equal("n", actor.name)
    assert.equal("user", actor.roles[1])
  end)
end)

for _, s in ipairs(stores.all()) do
  describe("an actor on " .. s.name, function()
    before_each(s.setup)
    after_each(s.teardown)

    it("is what only tidelog.Actor makes", function()
      local ch = tidelog.CommandHandler(s.store, { domain.Tally() })
      expect.error("MissingArgumentError", "actor", ch.command, ch, nil, "Add", { n = 1 })
      for _, actor in ipairs { 42, "x", fields {}, setmetatable({}, { __index = domain.actor() }) } do
        expect.error("InvalidArgumentError", "actor", ch.command, ch, actor, "Add", { n = 1 })
      end
      assert.equal(0, s.store:head "tenant1")
    end)

    it("is stored whole with each event", function()
      local ch = tidelog.CommandHandler(s.store, { domain.Tally() })
      local actor = domain.actor { device = { tags = tidelog.array {}, kind = tidelog.null } }
      ch:command(actor, "Add", { n = 1 })
      expect.exactly(actor, domain.events(s.store)[1].actor)
    end)
  end)
end
