-- The demo: `tidelog run examples/demo.lua FOLDER` writes on its first start and, started
-- again on the same folder, shows what is there. ./dev demo does both.

local tidelog = require "tidelog"

local folder = arg[1] or "demo-data"
local store <close> = tidelog.open("sqlite:" .. folder)
local tracer = tidelog.ConsoleTracer()
local ch = tidelog.CommandHandler(store, { require "aggregates.adder", (require "aggregates.calculator") }, tracer)
local sr = tidelog.StreamReader(store, tracer)
local actor = tidelog.Actor { id = "user1", name = "actor 1", tenant = "tenant1", roles = { "manager", "user" } }
local handlers = { (require "handlers.event_counter") }

local terminal = os.execute "test -t 1"

local function title(text, ...)
  print((terminal and "\n\27[1m%s\27[0m" or "\n%s"):format(text:format(...)))
end

local function press(context, keys)
  for key in keys:gmatch "%S" do
    local payload = { aggregateId = context.aggregateId, expectedVersion = context.aggregate.aggregateVersion }
    if key:match "%d" then
      payload.digit = key
      context = ch:command(actor, "PressDigit", payload)
    elseif key == "." then
      context = ch:command(actor, "PressDot", payload)
    elseif key == "=" then
      context = ch:command(actor, "PressEquals", payload)
    else
      payload.operator = key
      context = ch:command(actor, "PressOperator", payload)
    end
    print(("  pressed %s   version %d   left %-4s operator %s  right %-4s result %s"):format(key,
      context.aggregate.aggregateVersion, context.aggregate.left, context.aggregate.operator or " ",
      context.aggregate.right or "", context.aggregate.result))
  end
  return context
end

local function poll()
  local more, failures
  repeat
    more, failures = sr:poll("tenant1", "thread1", handlers)
    assert(#failures == 0, failures[1] and tostring(failures[1].error))
  until not more
end

local function counterText()
  local counter = store:documents("tenant1"):doc("/counters/counter1"):get()
  return ("/counters/counter1 = { eventCount = %d }"):format(counter.eventCount)
end

local function firstStart()
  title("1. The adder: two commands, two events, one sum")
  local context = ch:command(actor, "AddNumbers", { number1 = 1, number2 = 2, aggregateId = "calc1" })
  context = ch:command(actor, "AddNumbers", { number1 = 3, number2 = 4, aggregateId = "calc1",
                                              expectedVersion = context.aggregate.aggregateVersion })
  print(("  1 + 2, then + 3 + 4: sum = %s at version %d"):format(context.aggregate.sum,
    context.aggregate.aggregateVersion))

  title("2. EventCounter: a handler that counts into a document")
  poll()
  print("  " .. counterText())

  title("3. The calculator: each key one command, one event")
  press({ aggregateId = "c1", aggregate = { aggregateVersion = -1 } }, "1+2-3*5=")

  title("4. What is wrong is refused, and nothing is stored")
  local ok, problem = pcall(ch.command, ch, actor, "PressDigit", { aggregateId = "c1", digit = "x" })
  print("  pressed x:  " .. tostring(not ok and problem))
  ok, problem = pcall(ch.command, ch, actor, "PressDot", { aggregateId = "c1", expectedVersion = 3 })
  print("  a stale expectedVersion:  " .. tostring(not ok and problem))
end

local function secondStart()
  title("5. A second process on the same files: the history")
  local textTable = require "tidelog.text_table"
  local rows = {}
  for event in store:events "tenant1" do
    local fields = {}
    for name, value in pairs(event.payload) do fields[#fields + 1] = name .. " = " .. tostring(value) end
    table.sort(fields)
    rows[#rows + 1] = { event.position, event.time, event.aggregateType, event.aggregateId, event.aggregateVersion,
                        event.command, event.name, table.concat(fields, ", ") }
  end
  print(textTable({ { title = "position", align = "right" }, { title = "time" }, { title = "aggregate" },
                    { title = "id" }, { title = "version", align = "right" }, { title = "command" },
                    { title = "event" }, { title = "payload" } }, rows))

  title("6. Any point in time")
  for _, version in ipairs { 2, 4, 7 } do
    local c = ch:load("tenant1", "Calculator", "c1", { version = version })
    print(("  c1 at version %d:  left %s  operator %s  right %s  result %s"):format(version, c.left,
      c.operator or "-", c.right or "-", c.result))
  end

  title("7. Both go on where they were")
  press({ aggregateId = "c1", aggregate = ch:load("tenant1", "Calculator", "c1") }, "+7=")
  local context = ch:command(actor, "SubtractNumbers", { number1 = 1, number2 = 1, aggregateId = "calc1" })
  print(("  the adder, - (1 + 1): sum = %s at version %d"):format(context.aggregate.sum,
    context.aggregate.aggregateVersion))

  title("8. The counter document, after the reader went on, too")
  poll()
  print("  " .. counterText())
  local checked = store:check "tenant1"
  print(("  checked: %d commits, %d events, every hash of the chain is right"):format(checked.commits, checked.events))

  title("9. The tracer's statistics of this process")
  tracer:print()

  title("The data lies in %s/tenant1.db. Look into it:", folder)
  print("  eval \"$(./dev env)\"     # where tidelog is not installed")
  print(("  tidelog --store sqlite:%s --tenant tenant1 events"):format(folder))
  print(("  tidelog --store sqlite:%s --tenant tenant1 show calculators c1 --version 4"):format(folder))
end

if store:head "tenant1" == 0 then firstStart() else secondStart() end
