-- tidelog.spec: given, when, then.

assert(_VERSION == "Lua 5.4", _VERSION)

local expect = require "tests.lua.support.expect"
local spec = require "tidelog.spec"
local tidelog = require "tidelog"
local Adder = require "aggregates.adder"
local Calculator = require "aggregates.calculator"

describe("A spec", function()
  it("gives events, sends a command, and looks at what it pushed and the state", function()
    spec(Calculator)
      :given("DigitPressed", { digit = "1" })
      :given("OperatorPressed", { operator = "+" })
      :given("DigitPressed", { digit = "2" })
      :when("PressEquals")
      :pushes("EqualsPressed")
      :state { result = 3.0, left = "3", operator = "+" }
  end)

  it("expects refusals by name and message, and that an absent field is null", function()
    spec(Calculator)
      :given("OperatorPressed", { operator = "+" })
      :when("PressEquals")
      :fails("PreconditionError", "missing right side")
    spec(Calculator):when("PressDigit", { digit = "1" }):state { right = tidelog.null, left = "01" }
  end)

  it("sends the command with roles", function()
    local Safe = {
      name = "Safe",
      commands = { Open = { roles = { "owner" }, handle = function(_, context) context:push "Opened" end } },
      events = { Opened = function(self) self.open = true end },
    }
    spec(Safe):when("Open"):fails "AccessDeniedError"
    spec(Safe):by({ "owner" }):when("Open"):pushes("Opened"):state { open = true }
  end)

  it("expects errors of the domain's own by a part of their text", function()
    local Broken = { name = "Broken", commands = { Go = function() error "out of order" end }, events = {} }
    spec(Broken):when("Go"):fails "out of order"
  end)

  local wrong = {
    { "the other event", function(s) s:pushes "NumbersSubtracted" end, "is NumbersAdded, not NumbersSubtracted" },
    { "an event too many", function(s) s:pushes("NumbersAdded", "NumbersAdded") end, "did not push event 2" },
    { "no event", function(s) s:pushes() end, "one event more: NumbersAdded" },
    { "another payload", function(s) s:pushes { "NumbersAdded", { number1 = 1, number2 = 2.0 } } end,
      '"number2":2}, not {"number1":1,"number2":2.0}' },
    { "another state", function(s) s:state { sum = 4 } end, "sum is 3 after AddNumbers, not 4" },
    { "a refusal", function(s) s:fails "PreconditionError" end, "AddNumbers did not fail" },
  }
  for _, case in ipairs(wrong) do
    it("says so where " .. case[1] .. " was expected", function()
      local ok, problem = pcall(case[2], spec(Adder):when("AddNumbers", { number1 = 1, number2 = 2 }))
      assert.is_false(ok)
      assert.truthy(tostring(problem):find(case[3], 1, true), tostring(problem))
    end)
  end

  it("says so where a refusal was not expected, or another one, or nothing was sent", function()
    local function refused() return spec(Adder):when("AddNumbers", { number1 = "x" }) end
    assert.error_matches(function() refused():pushes "NumbersAdded" end, "AddNumbers failed: InvalidArgumentError")
    assert.error_matches(function() refused():fails "PreconditionError" end, "not with PreconditionError")
    assert.error_matches(function() spec(Adder):pushes "NumbersAdded" end, "when%(command%) comes before")
    local ok, problem = pcall(function() spec(Adder):given("Nonsense") end)
    assert.is_false(ok)
    assert.equal("NotImplementedError", problem.name)
  end)

  it("says which of its own arguments is wrong", function()
    local function refused(name, about, method, ...)
      local s = spec(Adder):when("AddNumbers", { number1 = 1, number2 = 2 })
      expect.error(name, about, s[method], s, ...)
    end
    refused("MissingArgumentError", "name", "given")
    refused("InvalidArgumentError", "version", "given", "NumbersAdded", {}, "x")
    refused("InvalidArgumentError", "roles", "by", "manager")
    refused("MissingArgumentError", "command", "when")
    refused("InvalidArgumentError", "payload", "when", "AddNumbers", 5)
    refused("InvalidArgumentError", "event", "pushes", 5)
    refused("InvalidArgumentError", "event", "pushes", {})
    refused("InvalidArgumentError", "fields", "state")
    refused("MissingArgumentError", "name", "fails")
    refused("InvalidArgumentError", "name", "fails", 5)
    for _, method in ipairs { "given", "by", "when", "pushes", "state", "fails" } do
      expect.error("InvalidArgumentError", "self", spec(Adder)[method], "NumbersAdded")
    end
  end)
end)
