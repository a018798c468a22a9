assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local Adder = require "aggregates.adder"
local EventCounter = require "handlers.event_counter"
local Err = require "tidelog.err"
local without_engine = require "tests.lua.fixtures.without_engine"
local with_engine = require "tests.lua.fixtures.with_engine"

local function same_number(expected, actual)
  assert.equal(expected, actual)
  assert.equal(math.type(expected), math.type(actual))
end

local refused = {
  ['"1"'] = "1", ["nil"] = false, ["1.5"] = 1.5, ["inf"] = math.huge, ["-inf"] = -math.huge,
  ["true"] = true, ["a table"] = {}, ['""'] = "",
}

describe("Adder", function()
  local function run(commands)
    local adder = without_engine.new(Adder)
    for _, c in ipairs(commands) do
      adder = without_engine.command(Adder, adder, c[1], { number1 = c[2], number2 = c[3] })
    end
    return adder
  end

  it("is named, has a path and starts with 0", function()
    assert.equal("Adder", Adder.name)
    assert.equal("/adders", Adder.path)
    same_number(0, without_engine.new(Adder).sum)
  end)

  it("adds and subtracts two numbers at a time", function()
    same_number(3, run { { "AddNumbers", 1, 2 } }.sum)
    same_number(-7, run { { "AddNumbers", 1, 2 }, { "SubtractNumbers", 4, 6 } }.sum)
    same_number(0, run { { "AddNumbers", 5, -5 }, { "SubtractNumbers", 0, 0 } }.sum)
  end)

  it("pushes one event with the command's payload", function()
    local _, names = without_engine.command(Adder, without_engine.new(Adder), "AddNumbers",
      { number1 = 1, number2 = 2 })
    assert.same({ "NumbersAdded" }, names)
    _, names = without_engine.command(Adder, without_engine.new(Adder), "SubtractNumbers",
      { number1 = 1, number2 = 2 })
    assert.same({ "NumbersSubtracted" }, names)
  end)

  it("takes floats without a fraction, and leaves the sum as the arithmetic gives it", function()
    same_number(3.0, run { { "AddNumbers", 1, 2.0 } }.sum)
    same_number(1e300, run { { "AddNumbers", 1e300, 1 } }.sum)
    same_number(-0.0, run { { "AddNumbers", -0.0, 0 } }.sum)
    same_number(math.maxinteger, run { { "AddNumbers", math.maxinteger, 0 } }.sum)
  end)

  for _, command in ipairs { "AddNumbers", "SubtractNumbers" } do
    for _, argument in ipairs { "number1", "number2" } do
      for shown, value in pairs(refused) do
        it(("%s refuses %s for %s"):format(command, shown, argument), function()
          local payload = { number1 = 1, number2 = 2 }
          payload[argument] = value or nil
          local ok, err = pcall(without_engine.command, Adder, without_engine.new(Adder), command,
            payload)
          assert.is_false(ok)
          assert.is_true(Err.is(err, "InvalidArgumentError"), tostring(err))
          assert.equal(argument, err.argument)
          assert.equal(argument .. " must be an integer, not " .. shown, err.message)
        end)
      end

      it(("%s refuses NaN for %s"):format(command, argument), function()
        local payload = { number1 = 1, number2 = 2, [argument] = 0 / 0 }
        local ok, err = pcall(without_engine.command, Adder, without_engine.new(Adder), command,
          payload)
        assert.is_false(ok)
        assert.equal(argument, err.argument)
      end)
    end
  end

  for _, kind in ipairs(with_engine.stores) do
    describe("in the engine on " .. kind .. " #engine", function()
      local tidelog, store, close, handler, actor

      before_each(function()
        tidelog = require "tidelog"
        store, close = with_engine.open(kind)
        handler = tidelog.CommandHandler(store, { Adder }, tidelog.ConsoleTracer())
        actor = with_engine.actor()
      end)
      after_each(function() close() end)

      it("keeps its sum, and the kind of its number", function()
        local context = handler:command(actor, "AddNumbers",
          { number1 = 1, number2 = 2, aggregateId = "calc1" })
        same_number(3, context.aggregate.sum)
        assert.equal(0, context.aggregate.aggregateVersion)
        context = handler:command(actor, "SubtractNumbers",
          { number1 = 3, number2 = 4, aggregateId = "calc1",
            expectedVersion = context.aggregate.aggregateVersion })
        same_number(-4, context.aggregate.sum)
        assert.equal(1, context.aggregate.aggregateVersion)

        local again = tidelog.CommandHandler(store, { Adder })
        same_number(-4, again:load("tenant1", Adder, "calc1").sum)
        same_number(3, again:load("tenant1", Adder, "calc1", { version = 0 }).sum)

        context = again:command(actor, "AddNumbers",
          { number1 = 4.0, number2 = 0, aggregateId = "calc1" })
        same_number(0.0, context.aggregate.sum)
        again = tidelog.CommandHandler(store, { Adder })
        same_number(0.0, again:load("tenant1", Adder, "calc1").sum)
      end)

      it("refuses what is no integer and stores nothing", function()
        for _, value in ipairs { "1", 1.5, true } do
          local ok, err = pcall(handler.command, handler, actor, "AddNumbers",
            { number1 = value, number2 = 2, aggregateId = "calc1" })
          assert.is_false(ok)
          assert.equal("InvalidArgumentError", err.name)
          assert.equal("number1", err.argument)
        end
        assert.equal(0, with_engine.event_count(store, "tenant1"))
      end)

      it("has its events counted", function()
        local reader = tidelog.StreamReader(store)
        for _ = 1, 3 do
          handler:command(actor, "AddNumbers", { number1 = 1, number2 = 2 })
          handler:command(actor, "SubtractNumbers", { number1 = 1, number2 = 2 })
        end
        repeat
          local more, failures = reader:poll("tenant1", "thread1", { EventCounter })
          assert.same({}, failures)
        until not more
        local counter = store:documents("tenant1"):doc("/counters/counter1"):get()
        same_number(6, counter.eventCount)
      end)
    end)
  end
end)

describe("EventCounter", function()
  it("counts both events", function()
    local db = without_engine.documents()
    local counter = setmetatable({ db = db }, { __index = EventCounter })
    for _, name in ipairs { "NumbersAdded", "NumbersSubtracted", "NumbersAdded" } do
      EventCounter.events[name](counter, "tenant1", { name = name })
    end
    same_number(3, db.stored["/counters/counter1"].eventCount)
  end)

  it("is deaf to others", function()
    assert.is_nil(EventCounter.events.DigitPressed)
    assert.equal("EventCounter", EventCounter.name)
  end)
end)
