assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local Err = require "tidelog.err"
local tracer_module = require "tidelog.tracer"
local text_table = require "tidelog.text_table"

local with_engine = require "tests.lua.fixtures.with_engine"

local ConsoleTracer = tracer_module.ConsoleTracer

-- A file to write to that keeps what it was given.
local function memory_file()
  local file = { text = "" }
  function file:write(...)
    for _, part in ipairs { ... } do self.text = self.text .. part end
    return self
  end
  return file
end

local function command(elapsed, names, err)
  local events = {}
  for i, name in ipairs(names) do events[i] = { name = name } end
  return {
    method = "command", elapsed = elapsed, error = err,
    context = { aggregateType = "Adder", command = "AddNumbers", events = events },
  }
end

describe("ConsoleTracer", function()
  local tracer
  before_each(function() tracer = ConsoleTracer() end)

  local function trace(record)
    tracer:trace(function() return record end)
  end

  it("counts a command's event", function()
    trace(command(2.5, { "NumbersAdded" }))
    trace(command(0.5, { "NumbersAdded" }))
    assert.same({
      command = { Adder = { ["AddNumbers-NumbersAdded"] = { time = 3.0, count = 2 } } },
    }, tracer.stats)
  end)

  it("spreads the time over several events", function()
    trace(command(3, { "A", "B", "A" }))
    assert.same({ ["AddNumbers-A"] = { time = 2.0, count = 2 },
                  ["AddNumbers-B"] = { time = 1.0, count = 1 } }, tracer.stats.command.Adder)
  end)

  it("counts a commit as it does a command, apart from it", function()
    local record = command(1, { "NumbersAdded" })
    record.method = "commitEvents"
    trace(record)
    assert.same({
      commitEvents = { Adder = { ["AddNumbers-NumbersAdded"] = { time = 1.0, count = 1 } } },
    }, tracer.stats)
  end)

  it("counts a failed command once, under its error", function()
    trace(command(1, {}, Err.invalidArgument "number1"))
    trace(command(1, { "A", "B" }, Err.concurrency()))
    trace(command(1, {}, "a string"))
    trace(command(1, {}, { 1, 2 }))
    assert.same({
      ["AddNumbers-InvalidArgumentError"] = { time = 1.0, count = 1, errors = 1 },
      ["AddNumbers-ConcurrencyError"] = { time = 1.0, count = 1, errors = 1 },
      ["AddNumbers-error"] = { time = 2.0, count = 2, errors = 2 },
    }, tracer.stats.command.Adder)
  end)

  it("counts a command without an event", function()
    trace(command(1, {}))
    assert.same({ ["AddNumbers-(no event)"] = { time = 1.0, count = 1 } },
      tracer.stats.command.Adder)
  end)

  it("counts what a handler was given", function()
    local event = { aggregateType = "Adder", command = "AddNumbers", name = "NumbersAdded" }
    trace { method = "handle", event = event, handler = "EventCounter", elapsed = 1,
            lease = { thread = "thread1" } }
    trace { method = "handle", event = event, elapsed = 2, error = "failed" }
    assert.same({
      handle = { Adder = { ["AddNumbers-NumbersAdded"] = { time = 3.0, count = 2, errors = 1 } } },
    }, tracer.stats)
  end)

  it("counts loads under the aggregate, and polls and cursors under the thread", function()
    trace { method = "loadAggregate", elapsed = 1,
            context = { aggregateType = "Adder", command = "AddNumbers", events = {} } }
    trace { method = "pollStream", elapsed = 2, lease = { thread = "thread1" },
            context = { tenant = "tenant1", thread = "thread1" } }
    trace { method = "commitCursors", elapsed = 3, lease = { thread = "thread1" } }
    assert.same({
      loadAggregate = { Adder = { AddNumbers = { time = 1.0, count = 1 } } },
      pollStream = { thread1 = { tenant1 = { time = 2.0, count = 1 } } },
      commitCursors = { thread1 = { ["-"] = { time = 3.0, count = 1 } } },
    }, tracer.stats)
  end)

  it("raises nothing, whatever it is given", function()
    local hostile = setmetatable({}, { __index = function() error "no" end,
                                       __tostring = function() error "no" end })
    local strange = { {}, 1, "x", true, hostile, io.stdout, print, 0 / 0 }
    local methods = { "command", "commitEvents", "loadAggregate", "pollStream", "handle",
                      "commitCursors", "something else", 7, hostile }
    for _, verbose in ipairs { false, true } do
      tracer = ConsoleTracer { verbose = verbose, out = memory_file() }
      for _, value in ipairs(strange) do
        trace(value)
        for _, method in ipairs(methods) do
          for _, field in ipairs { "context", "lease", "handler", "event", "error", "elapsed" } do
            trace { method = method, elapsed = 1, [field] = value }
            trace { method = method, context = { events = value, aggregateType = value },
                    [field] = value }
            trace { method = method, context = { events = { value }, command = value } }
          end
        end
      end
      trace(nil)
      tracer:trace(function() error "no record" end)
      tracer:trace(nil)
      assert.equal("string", type(tostring(tracer)))
    end
  end)

  it("still counts a record that lacks nearly everything", function()
    trace { method = "command" }
    trace { method = "handle" }
    trace { method = "command", context = {} }
    assert.same({
      command = { ["?"] = { ["-"] = { time = 0.0, count = 1 },
                            ["?-(no event)"] = { time = 0.0, count = 1 } } },
      handle = { ["?"] = { ["-"] = { time = 0.0, count = 1 } } },
    }, tracer.stats)
  end)

  it("prints an aligned, sorted table", function()
    trace(command(2, { "NumbersAdded" }))
    trace(command(1, {}, Err.invalidArgument "number1"))
    trace { method = "commitEvents", elapsed = 12.3456,
            context = { aggregateType = "Calculator", command = "PressDot",
                        events = { { name = "DotPressed" } } } }
    trace(command(1, { "NumbersAdded" }))
    local expected = table.concat({
      "method        aggregate   command-event                    count  errors  total ms  mean µs",
      "------------  ----------  -------------------------------  -----  ------  --------  -------",
      "command       Adder       AddNumbers-InvalidArgumentError      1       1     1.000   1000.0",
      "command       Adder       AddNumbers-NumbersAdded              2             3.000   1500.0",
      "commitEvents  Calculator  PressDot-DotPressed                  1            12.346  12345.6",
    }, "\n")
    assert.equal(expected, tostring(tracer))

    local file = memory_file()
    tracer:print(file)
    assert.equal(expected .. "\n", file.text)
  end)

  it("is silent until it is asked to print, and prints to `out`", function()
    local out = memory_file()
    tracer = ConsoleTracer { out = out }
    trace(command(1, { "NumbersAdded" }))
    assert.equal("", out.text)
    tracer:print()
    assert.equal(tostring(tracer) .. "\n", out.text)
  end)

  it("prints each record as a line where it is verbose", function()
    local out = memory_file()
    tracer = ConsoleTracer { verbose = true, out = out }
    trace(command(1.5, { "A", "B" }))
    trace(command(0.25, {}, Err.precondition "two\nlines"))
    assert.equal("command Adder AddNumbers-A,AddNumbers-B 1.500 ms\n"
      .. "command Adder AddNumbers-PreconditionError 0.250 ms PreconditionError: two lines\n",
      out.text)
    assert.equal(2, tracer.stats.command.Adder["AddNumbers-A"].count
      + tracer.stats.command.Adder["AddNumbers-B"].count)
  end)
end)

describe("ConsoleTracer in the engine #engine", function()
  local function counts(tracer)
    local flat = {}
    for method, aggregates in pairs(tracer.stats) do
      for aggregate, entries in pairs(aggregates) do
        for key, entry in pairs(entries) do
          assert.equal("float", math.type(entry.time))
          assert.is_true(entry.time >= 0 and entry.time < 60000)
          flat[("%s %s %s"):format(method, aggregate, key)] = { entry.count, entry.errors }
        end
      end
    end
    return flat
  end

  it("sees commands, loads, commits, polls, handlers and cursors", function()
    local tidelog = require "tidelog"
    local Adder = require "aggregates.adder"
    local store, close = with_engine.open "memory:"
    local tracer = tidelog.ConsoleTracer()
    local handler = tidelog.CommandHandler(store, { Adder }, tracer)
    local reader = tidelog.StreamReader(store, tracer)
    local actor = with_engine.actor()

    handler:command(actor, "AddNumbers", { number1 = 1, number2 = 2, aggregateId = "calc1" })
    pcall(handler.command, handler, actor, "AddNumbers", { number1 = 1, aggregateId = "calc1" })
    pcall(handler.command, handler, actor, "AddNumbers",
      { number1 = 1, number2 = 2, aggregateId = "calc1", expectedVersion = 7 })
    reader:poll("tenant1", "thread1", {
      { name = "Good", events = { NumbersAdded = function() end } },
      { name = "Bad", events = { NumbersAdded = function() error "bad" end } },
    })

    local seen = counts(tracer)
    for key, expected in pairs {
      ["command Adder AddNumbers-NumbersAdded"] = { 1 },
      ["command Adder AddNumbers-InvalidArgumentError"] = { 1, 1 },
      ["command Adder AddNumbers-ConcurrencyError"] = { 1, 1 },
      ["commitEvents Adder AddNumbers-NumbersAdded"] = { 1 },
      ["handle Adder AddNumbers-NumbersAdded"] = { 2, 1 },
      ["pollStream thread1 tenant1"] = { 1 },
      ["commitCursors thread1 tenant1"] = { 1 },
    } do
      assert.same(expected, seen[key], key)
    end
    assert.is_true(seen["loadAggregate Adder AddNumbers"][1] >= 1)
    for key in pairs(seen) do assert.is_nil(key:find("?", 1, true), key) end
    close()
  end)
end)

describe("text_table", function()
  local columns = { { title = "name" }, { title = "n", align = "right" } }

  it("aligns letters, not bytes", function()
    assert.equal("name   n\n----  --\nµµ     1\nabc   12",
      text_table(columns, { { "µµ", 1 }, { "abc", 12 } }))
  end)

  it("keeps a row on its line, and prints nothing for nil", function()
    assert.equal("name  n\n----  -\na b\n      1",
      text_table(columns, { { "a\nb" }, { nil, 1 } }))
  end)

  it("prints the titles of an empty table, and text that is no UTF-8", function()
    assert.equal("name  n\n----  -", text_table(columns, {}))
    assert.equal("name  n\n----  -\n\xff     1", text_table(columns, { { "\xff", 1 } }))
  end)
end)
