assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local engine = require "tidelog.engine"
local tidelog = require "tidelog"
local domain = require "tests.lua.support.domain"
local expect = require "tests.lua.support.expect"
local stores = require "tests.lua.support.stores"

local null, array = tidelog.null, tidelog.array

-- A table nested `levels` deep, and one whose lists are.
local function nested(levels)
  local value = {}
  for _ = 2, levels do value = { a = value } end
  return value
end

local function nested_lists(levels)
  local value = array {}
  for _ = 2, levels do value = { value } end
  return value
end

local exact = {
  ["integers at all borders"] = { 0, 1, -1, 127, 128, -128, 255, 256, 2 ^ 31 | 0, (2 ^ 31 | 0) - 1, -(2 ^ 31 | 0),
    -(2 ^ 31 | 0) - 1, (2 ^ 32 | 0), (2 ^ 53 | 0), (2 ^ 53 | 0) + 1, -(2 ^ 53 | 0) - 1, math.maxinteger,
    math.mininteger, math.maxinteger - 1 },
  ["floats"] = { 0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 2 ^ 53, 2 ^ 63, -2 ^ 63, 1e308, -1e308, 1.7976931348623157e308,
    2.2250738585072014e-308, 2.2250738585072011e-308, 4.9406564584124654e-324, -4.9406564584124654e-324,
    15.848484848484848, 31.6969696969697, 0.30000000000000004, 9007199254740993.0, math.pi, 1e21, 1e-7 },
  ["texts of every width of UTF-8"] = { "", "a", "ä", "€", "𝄞", "\0", "a\0b", "\0\0", "\u{7F}", "\u{80}", "\u{7FF}",
    "\u{800}", "\u{FFFF}", "\u{10000}", "\u{10FFFF}", "\u{D7FF}", "\u{E000}", "\u{FEFF}x", "a\nb\r\t\27", "$x", "a.b",
    ("long "):rep(10000) },
  ["booleans"] = { true, false },
  ["null"] = { null, { null, null }, { a = null } },
  ["empty tables and empty arrays"] = { {}, array {}, { {} }, { array {} }, { a = {}, b = array {} }, array(),
    array { 1 } },
  ["arrays of arrays"] = { { { 1, 2 }, { 3, { 4, {} } }, array {} } },
  ["lists of all kinds"] = { { 1, 1.0, "1", true, null, {}, array {}, { 1 }, { a = 1 } } },
  ["a long list"] = { (function() local list = {} for i = 1, 5000 do list[i] = i end return list end)() },
  ["many names"] = { (function() local t = {} for i = 1, 5000 do t["k" .. i] = i end return t end)() },
  ["odd names"] = { { [""] = 1, [" "] = 2, ["a.b"] = 3, ["$set"] = 4, ["$oid"] = "x", ["1"] = 5, ["ä"] = 6,
    ["__index"] = 7, ["_id"] = 8, name = 9, [("k"):rep(5000)] = 10 } },
  ["what looks like extended JSON"] = { { ["$oid"] = "5f" }, { ["$numberLong"] = "1" }, { ["$date"] = 0 } },
  ["nesting up to 64 levels"] = { nested(62), nested_lists(62) },
  ["one table in two places"] = { (function() local t = { 1 } return { t, t, { t } } end)() },
}

local function cyclic()
  local t = {}
  t.t = { t }
  return t
end

local function cyclic_list()
  local t = {}
  t[1] = t
  return t
end

-- What cannot be stored, and what stands behind the field's name in .argument.
local unstorable = {
  ["a function"] = { print },
  ["a Lua function"] = { function() end },
  ["a coroutine"] = { coroutine.create(print) },
  ["a userdata"] = { io.stdout },
  ["NaN"] = { 0 / 0 },
  ["infinity"] = { 1 / 0 },
  ["minus infinity"] = { -1 / 0 },
  ["a table that contains itself"] = { cyclic(), ".t[1]" },
  ["a list that contains itself"] = { cyclic_list(), "[1]" },
  ["a sparse list"] = { { 1, nil, 3 } },
  ["a list that begins at 0"] = { { [0] = 1, 2 } },
  ["a list that begins at 2"] = { { [2] = 1 } },
  ["a negative key"] = { { [-1] = 1 } },
  ["a huge key"] = { { [math.maxinteger] = 1 } },
  ["a float key"] = { { [1.5] = 1 } },
  ["a boolean key"] = { { [true] = 1 } },
  ["a table key"] = { { [{}] = 1 } },
  ["a mixed table"] = { { 1, a = 2 } },
  ["an array with a name"] = { array { a = 1 } },
  ["an array with a gap"] = { array { [2] = 1 } },
  ["a metatable"] = { setmetatable({}, {}) },
  ["a metatable with __index"] = { setmetatable({ a = 1 }, { __index = error, __pairs = error, __len = error }) },
  ["an actor's kind of disguise"] = { setmetatable({}, { __metatable = "read-only" }) },
  ["a store"] = { tidelog.open "memory:" },
  ["a byte that is no UTF-8"] = { "\255" },
  ["half a character"] = { "\xC3" },
  ["a character in too many bytes"] = { "\xC0\xAF" },
  ["a surrogate"] = { "\xED\xA0\x80" },
  ["a character beyond Unicode"] = { "\xF4\x90\x80\x80" },
  ["a name with a byte that is no UTF-8"] = { { ["a\255"] = 1 }, ".a\255" },
  ["a name with NUL"] = { { ["a\0b"] = 1 }, ".a" },
  ["something deep"] = { { a = { b = { { c = 0 / 0 } } } }, ".a.b[1].c" },
  ["something in a list of lists"] = { { { 1, 2 }, { 3, print } }, "[2][2]" },
}

for _, s in ipairs(stores.all()) do
  describe("values on " .. s.name, function()
    local actor = domain.actor()
    local ch, Keeper

    before_each(function()
      s.setup()
      Keeper = {
        name = "Keeper",
        snapshot = { every = 1 },
        commands = {
          Keep = function(_, context) context:push "Kept" end,
          KeepInner = function(_, context) context:push("Kept", { v = context.payload.outer.v }) end,
          Push = function(_, context) context:push("Kept", context.payload) end,
        },
        events = { Kept = function(self, event) self.v = event.payload.v end },
      }
      ch = tidelog.CommandHandler(s.store, { Keeper }, nil, { cacheSize = 0 })
    end)
    after_each(s.teardown)

    for name, values in pairs(exact) do
      it("come back exactly: " .. name, function()
        local documents = s.store:documents "tenant1"
        for i, value in ipairs(values) do
          local id = "id" .. i
          local context = ch:command(actor, "Keep", { aggregateId = id, v = value })
          expect.exactly(value, context.payload.v)
          expect.exactly(value, context.events[1].payload.v)
          expect.exactly(value, context.aggregate.v)
          ch:command(actor, "KeepInner", { aggregateId = id, outer = { v = value } })
          expect.exactly(value, ch:load("tenant1", Keeper, id).v)                  -- from the snapshot
          expect.exactly(value, ch:load("tenant1", Keeper, id, { version = 0 }).v) -- from the event
          documents:doc("/" .. id):set { v = value }
        end
        local again = s.another()
        local n = 0
        for event in again:events "tenant1" do
          expect.exactly(values[n // 2 + 1], event.payload.v)
          n = n + 1
        end
        assert.equal(2 * #values, n)
        for i, value in ipairs(values) do
          expect.exactly({ v = value }, again:documents "tenant1":doc("/id" .. i):get())
        end
        s.store:check "tenant1"
      end)
    end

    it("come back exactly at the top of payloads and documents, too", function()
      local all = { i = 1, f = 1.0, z = -0.0, t = "a\0b", n = null, e = {}, a = array {}, [""] = "", ["a.b"] = true }
      local context = ch:command(actor, "Push", all)
      expect.exactly(all, context.payload)
      expect.exactly(all, domain.events(s.store)[1].payload)
      local doc = s.store:documents "tenant1":doc "/all"
      doc:set(all)
      expect.exactly(all, doc:get())
    end)

    it("are equal bytes where the tables are equal, whatever was put in first", function()
      local names = {}
      for i = 1, 200 do names[i] = "k" .. i * 7919 % 1000 end
      local first, second = {}, {}
      for i = 1, #names do
        first[names[i]] = i
        second[names[#names + 1 - i]] = #names + 1 - i
      end
      for i = 1, 5000 do second["x" .. i] = i end
      for i = 1, 5000 do second["x" .. i] = nil end
      assert.equal(engine.encode({ a = first }, "value"), engine.encode({ a = second }, "value"))
      local keys = {}
      for key in engine.encode(first, "value"):gmatch "\x10(k%d+)\0" do keys[#keys + 1] = key end
      assert.equal(200, #keys)
      for i = 2, #keys do assert.is_true(keys[i - 1] < keys[i]) end
    end)

    for name, case in pairs(unstorable) do
      it("are refused with the field's path, and nothing is written: " .. name, function()
        local value, rest = case[1], case[2] or ""
        local function refused(about, fn, ...)
          local err = expect.error("InvalidArgumentError", nil, fn, ...)
          assert.equal(about .. rest, err.argument)
        end
        refused("v", ch.command, ch, actor, "Keep", { aggregateId = "a", v = value })
        refused("list[2].v", ch.command, ch, actor, "Keep", { list = { 1, { v = value } } })
        Keeper.commands.Bad = function(_, context) context:push("Kept", { v = value }) end
        local Other = { name = "Other", events = Keeper.events, commands = { Bad = Keeper.commands.Bad } }
        local other = tidelog.CommandHandler(s.store, { Other })
        refused("v", other.command, other, actor, "Bad", { aggregateId = "a" })
        refused("v", tidelog.Actor, { id = "u", tenant = "tenant1", roles = {}, v = value })
        local doc = s.store:documents "tenant1":doc "/a"
        refused("v", doc.set, doc, { v = value })
        assert.is_nil(doc:get())
        assert.equal(0, s.store:head "tenant1")
        assert.equal(-1, ch:load("tenant1", Keeper, "a").aggregateVersion)
      end)
    end

    it("are refused with the table's name where the table itself cannot be stored", function()
      local doc = s.store:documents "tenant1":doc "/a"
      for _, value in ipairs { 42, "x", true, print, { 1, 2 }, array {}, setmetatable({}, {}), { [true] = 1 } } do
        expect.error("InvalidArgumentError", "document", doc.set, doc, value)
        expect.error("InvalidArgumentError", "payload", ch.command, ch, actor, "Keep", value)
      end
    end)

    it("may be nested 64 levels deep", function()
      local doc = s.store:documents "tenant1":doc "/a"
      for _, value in ipairs { nested(64), { v = nested_lists(63) } } do
        doc:set(value)
        expect.exactly(value, doc:get())
      end
    end)

    it("are refused beyond 64 levels, also of lists and far beyond", function()
      local doc = s.store:documents "tenant1":doc "/a"
      for _, value in ipairs { nested(65), { v = nested_lists(64) }, nested(1000), { v = nested_lists(100000) } } do
        expect.error("InvalidArgumentError", nil, doc.set, doc, value)
        expect.error("InvalidArgumentError", nil, ch.command, ch, actor, "Keep", value)
      end
      assert.is_nil(doc:get())
      assert.equal(0, s.store:head "tenant1")
      ch:command(actor, "Keep", nested(64))
      expect.exactly(nested(64), domain.events(s.store)[1].payload)
    end)

    it("that are too large are refused, and nothing is written", function()
      local doc = s.store:documents "tenant1":doc "/a"
      local function refused(fn, ...)
        local ok, err = pcall(fn, ...)
        assert.is_false(ok)
        expect.readable(err)
        assert.is_true(err.name == "LimitError" or err.name == "InvalidArgumentError", tostring(err))
      end
      local huge = ("x"):rep(17 * 1024 * 1024)
      local half = huge:sub(1, 9000000)
      for _, value in ipairs { { v = huge }, { [huge] = 1 }, { v = { huge } }, { a = half, b = half } } do
        refused(doc.set, doc, value)
        refused(ch.command, ch, actor, "Keep", value)
      end
      assert.is_nil(doc:get())
      assert.equal(0, s.store:head "tenant1")
      ch:command(actor, "Keep", { aggregateId = "a", v = half:sub(1, 4000000) })
      assert.equal(4000000, #ch:load("tenant1", Keeper, "a").v)
    end)

    it("may be deeply nested and shared in a thousand ways without taking for ever", function()
      -- one table in two places at each of 60 levels would be 2^60 tables: too large, and said so
      local value = { 1 }
      for _ = 1, 60 do value = { value, value } end
      local ok, err = pcall(ch.command, ch, actor, "Keep", { v = value })
      assert.is_false(ok)
      assert.equal("LimitError", err.name)
    end)
  end)
end

describe("a finalizer that runs while a value is encoded", function()
  local trap
  after_each(function() trap = nil end)

  -- Runs `finalize` at every collection until the test is done.
  local function set(finalize)
    local function arm()
      setmetatable({}, { __gc = function()
        if trap ~= arm then return end
        finalize()
        arm()
      end })
    end
    trap = arm
    arm()
  end

  -- Keys of this length are made anew by whoever pushes them.
  local function long(prefix, i) return prefix .. i .. ("k"):rep(60) end

  it("may store something itself", function()
    local store <close> = tidelog.open "memory:"
    local documents = store:documents "tenant1"
    local ran = 0
    for _, count in ipairs { 10, 40, 2000 } do
      local value = {}
      for i = 1, count do value[long("a", i)] = { [long("b", i)] = i } end
      local bytes = engine.encode(value, "value")
      set(function()
        ran = ran + 1
        documents:doc("/finalized"):set { ran = ran }
      end)
      for _ = 1, 40000 // count do
        if engine.encode(value, "value") ~= bytes then error "the bytes were mixed up" end
      end
      trap = nil
    end
    assert.is_true(ran > 0)
  end)

  it("may empty the value: then it is refused, or stored as it was", function()
    local value
    local emptied = 0
    set(function()
      emptied = emptied + 1
      for key in pairs(value or {}) do value[key] = nil end
    end)
    for round = 1, 200 do
      local mine = {}
      for i = 1, 300 do mine[long(round .. "_", i)] = "v" end
      value = mine
      local ok, result = pcall(engine.encode, mine, "value")
      value = nil
      if ok then engine.decode(result) else assert.equal("InvalidArgumentError", result.name) end
    end
    assert.is_true(emptied > 0)
  end)
end)

describe("tidelog.array", function()
  it("marks a table, and gives it back", function()
    local t = { 1 }
    assert.equal(t, array(t))
    assert.equal(t, array(array(t)))
    assert.same({}, array())
  end)

  it("takes nothing but a plain table", function()
    for _, value in ipairs { 42, "x", true, print, setmetatable({}, {}), domain.actor() } do
      expect.error("InvalidArgumentError", "array", array, value)
    end
  end)
end)

describe("tidelog.null", function()
  it("is cjson's", function()
    local ok, cjson = pcall(require, "cjson")
    if ok then assert.equal(cjson.null, null) end
    assert.are_not.equal(nil, null)
  end)
end)
