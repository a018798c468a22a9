assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local Calculator = require "aggregates.calculator"
local Err = require "tidelog.err"
local without_engine = require "tests.lua.fixtures.without_engine"
local with_engine = require "tests.lua.fixtures.with_engine"

local fixtures = debug.getinfo(1, "S").source:match "^@(.*)[/\\]" .. "/fixtures/"

-- The command, with its payload, that a key stands for.
local function command_of(key)
  if key == "." then return "PressDot", {} end
  if key == "=" then return "PressEquals", {} end
  if key:find "%d" then return "PressDigit", { digit = key } end
  return "PressOperator", { operator = key }
end

local function press(calculator, keys)
  for key in keys:gmatch "." do
    calculator = without_engine.command(Calculator, calculator, command_of(key))
  end
  return calculator
end

local function calculate(keys)
  return press(without_engine.new(Calculator), keys)
end

-- All 64 bits, but one NaN.
local function bits(number)
  if number ~= number then return "NaN" end
  return ("%016x"):format((string.unpack("<i8", string.pack("<d", number))))
end

local function number_of(hex)
  return (string.unpack("<d", string.pack("<i8", math.tointeger("0x" .. hex))))
end

-- Calls fn(i, keys, steps) for each line of the fixture. A step is { key =, left =, right =,
-- operator =, bits =, computed =, refused = } with what is there after the key; the grammar is
-- explained in fixtures/calculator.js.
local function each_sequence(fn)
  local count = 0
  for line in io.lines(fixtures .. "calculator.txt") do
    count = count + 1
    local keys, outcomes = line:match "^(.-)\t(.*)$"
    local left, right, operator, result = "0", nil, nil, bits(0)
    local steps, at = {}, 1
    for key in keys:gmatch "." do
      local kind, computed, refused = outcomes:sub(at, at), false, nil
      if kind == "L" then
        left, at = left .. key, at + 1
      elseif kind == "R" then
        right, at = (right or "") .. key, at + 1
      elseif kind == "O" then
        right, operator, at = nil, key, at + 1
      elseif kind == "!" then
        refused, at = outcomes:match("^!([^;]+);()", at)
        refused = "missing " .. refused
      else
        computed = true
        left, result, at = outcomes:match("^=(%S+) (%w+);()", at)
        if key ~= "=" then right, operator = nil, key end
      end
      steps[#steps + 1] = {
        key = key, left = left, right = right, operator = operator, bits = result,
        computed = computed, refused = refused,
      }
    end
    assert(at == #outcomes + 1, "a line of the fixture is broken: " .. keys)
    fn(count, keys, steps)
  end
  return count
end

-- Fails with the keys so far; luassert's own message would not tell which.
local function check_step(calculator, err, step, typed)
  local function check(what, expected, actual)
    if expected == actual then return end
    error(("%s: %s is %s and not %s"):format(typed, what, tostring(actual), tostring(expected)), 0)
  end
  if Err.is(err, "PreconditionError") then err = err.message end
  check("the error", step.refused, err)
  check("left", step.left, calculator.left)
  check("right", step.right, calculator.right)
  check("operator", step.operator, calculator.operator)
  check("result", step.bits, bits(calculator.result))
  if step.computed then check("result's type", "float", math.type(calculator.result)) end
end

local examples = {
  { "1+2-3*5=", 0.0 },
  { "4*4+21-16*3=", 63.0 },
  { "4*4+21-16*3===", 567.0 },
  { "1.5+2.0-11.22+.33=", -7.39, 0.005 },
  { "5.23/.33*2=", 31.6969696969697 },
}

local function check_example(example, calculator)
  local _, expected, tolerance = table.unpack(example)
  assert.equal("float", math.type(calculator.result))
  if tolerance then
    assert.is_true(math.abs(calculator.result - expected) < tolerance)
  else
    assert.equal(bits(expected), bits(calculator.result))
  end
end

local bad_digits = { "x", "10", "", " 1", "1\n", "٣", {}, true, false, -1, 10, 1.5, "1.0" }
local bad_operators = { "x", "+-", "", "=", "%", "+\n", {}, true, false, 1, 1.5 }

describe("Calculator", function()
  it("is named, has a path and starts with 0", function()
    local calculator = without_engine.new(Calculator)
    assert.equal("Calculator", Calculator.name)
    assert.equal("/calculators", Calculator.path)
    assert.equal("0", calculator.left)
    assert.equal(0, calculator.result)
    assert.is_nil(calculator.right)
    assert.is_nil(calculator.operator)
  end)

  for _, example in ipairs(examples) do
    it("computes " .. example[1], function()
      check_example(example, calculate(example[1]))
    end)
  end

  it("shows the result as JavaScript would", function()
    assert.equal("31.6969696969697", calculate("5.23/.33*2=").left)
    assert.equal("15.84848484848485", calculate("5.23/.33*").left)
    assert.equal("0.30000000000000004", calculate("0.1+0.2=").left)
    assert.equal("-Infinity", calculate("0-1/0=").left)
    assert.equal("NaN", calculate("0/0=").left)
    assert.equal("1e+21", calculate("1000000000000000000000*1=").left)
    assert.equal("1e-7", calculate(".0000001*1=").left)
  end)

  it("removes the right side with an operator", function()
    assert.is_nil(rawget(calculate "1+2-", "right"))
  end)

  it("takes a digit that is an integer", function()
    local calculator = without_engine.command(Calculator, without_engine.new(Calculator),
      "PressDigit", { digit = 7 })
    assert.equal("07", calculator.left)
  end)

  describe("refuses", function()
    local function refuses(message, before, keys)
      local calculator = calculate(before)
      local ok, err = pcall(press, calculator, keys)
      assert.is_false(ok)
      assert.is_true(Err.is(err, "PreconditionError"), tostring(err))
      assert.equal(message, err.message)
    end

    it("= without a right side", function()
      refuses("missing right side", "+", "=")
      refuses("missing right side", "1+2-", "=")
    end)

    it("= at first, because of the right side, which is looked at before the operator", function()
      refuses("missing right side", "", "=")
      refuses("missing right side", "12", "=")
    end)

    it("a second operator without a right side", function()
      refuses("missing right side", "1+", "-")
    end)

    it("to compute without a left side or an operator, which keys cannot bring about", function()
      local function message(state)
        local _, err = pcall(Calculator.compute, state)
        return err.message
      end
      assert.equal("missing left side", message {})
      assert.equal("missing left side", message { right = "1", operator = "+" })
      assert.equal("missing right side", message { left = "1" })
      assert.equal("missing operator", message { left = "1", right = "1" })
      -- an empty text is false in JavaScript
      assert.equal("missing left side", message { left = "", right = "1", operator = "+" })
      assert.equal("missing right side", message { left = "1", right = "", operator = "+" })
      assert.equal("missing operator", message { left = "1", right = "1", operator = "" })
    end)

    it("with the value and the rule", function()
      local function message(command, payload)
        local _, err = pcall(without_engine.command, Calculator, calculate "1", command, payload)
        return err.message
      end
      assert.equal("digit '12' is not one of 0 to 9", message("PressDigit", { digit = "12" }))
      assert.equal("operator '%' is not one of + - * /", message("PressOperator", { operator = "%" }))
    end)

    local function refuses_argument(command, argument, value)
      local calculator = calculate "1+2"
      local ok, err = pcall(without_engine.command, Calculator, calculator, command,
        { [argument] = value })
      assert.is_false(ok, tostring(value))
      assert.is_true(Err.is(err, "InvalidArgumentError"), tostring(err))
      assert.equal(argument, err.argument)
    end

    it("what is not one digit", function()
      for _, value in ipairs(bad_digits) do refuses_argument("PressDigit", "digit", value) end
      refuses_argument("PressDigit", "digit", nil)
      refuses_argument("PressDigit", "digit", 0 / 0)
    end)

    it("what is not one operator", function()
      for _, value in ipairs(bad_operators) do
        refuses_argument("PressOperator", "operator", value)
      end
      refuses_argument("PressOperator", "operator", nil)
      refuses_argument("PressOperator", "operator", 0 / 0)
    end)
  end)

  it("does what JavaScript does, key by key and bit by bit", function()
    local keys_pressed = 0
    local count = each_sequence(function(_, keys, steps)
      local calculator = without_engine.new(Calculator)
      for i, step in ipairs(steps) do
        local ok, after = pcall(without_engine.command, Calculator, calculator,
          command_of(step.key))
        if ok then calculator = after end
        local err = nil
        if not ok then err = after end
        check_step(calculator, err, step, keys:sub(1, i))
        keys_pressed = keys_pressed + 1
      end
    end)
    assert.equal(2000, count)
    assert.is_true(keys_pressed > 20000)
  end)

  describe("against the node that is installed", function()
    local has_node = os.execute "command -v node >/dev/null 2>&1"

    local function node(arguments)
      return assert(io.popen(("node '%scalculator.js' %s"):format(fixtures, arguments)))
    end

    -- left * 1 reads left, changes nothing and writes it again.
    local function read_and_write(text)
      local calculator = { left = text, right = "1", operator = "*" }
      Calculator.compute(calculator)
      return calculator.result, calculator.left
    end

    if not has_node then
      it("node is not installed: the stored fixture is used", function()
        print "node is not installed: the stored fixture is used"
      end)
      return
    end

    it("has the fixture that it would make now", function()
      local pipe = node "sequences"
      local made = pipe:read "a"
      assert(pipe:close())
      local file <close> = assert(io.open(fixtures .. "calculator.txt"))
      assert.is_true(made == file:read "a", "calculator.txt is not what calculator.js makes")
    end)

    it("writes numbers as JavaScript does", function()
      local pipe, count = node "numbers 20000", 0
      for line in pipe:lines() do
        local hex, text = line:match "^(%x+)\t(%S+)$"
        local number = number_of(hex)
        local result, left = read_and_write(("%.17g"):format(number))
        if bits(result) ~= hex or left ~= text then
          error(("%s (%s) is written %s"):format(hex, text, left))
        end
        count = count + 1
      end
      assert(pipe:close())
      assert.is_true(count > 25000)
    end)

    it("reads texts as JavaScript does", function()
      local pipe, count = node "texts 20000", 0
      for line in pipe:lines() do
        local text, hex = line:match "^(.-)\t(%w+)$"
        local result = read_and_write(text)
        if bits(result) ~= hex then
          error(("%q is read %s and not %s"):format(text, bits(result), hex))
        end
        count = count + 1
      end
      assert(pipe:close())
      assert.equal(20000, count)
    end)
  end)

  for _, kind in ipairs(with_engine.stores) do
    describe("in the engine on " .. kind .. " #engine", function()
      local tidelog, store, close, handler, tracer, actor

      setup(function()
        tidelog = require "tidelog"
        tracer = tidelog.ConsoleTracer()
        store, close = with_engine.open(kind)
        handler = tidelog.CommandHandler(store, { Calculator }, tracer)
        actor = with_engine.actor()
      end)

      teardown(function()
        tracer:print()
        close()
      end)

      -- One command a key, each with the version that the one before led to.
      local function press_key(id, key, version)
        local command, payload = command_of(key)
        payload.aggregateId, payload.expectedVersion = id, version
        return handler:command(actor, command, payload)
      end

      local function press_all(id, keys)
        local context
        for key in keys:gmatch "." do
          context = press_key(id, key, context and context.aggregate.aggregateVersion)
        end
        return context
      end

      for i, example in ipairs(examples) do
        it("computes " .. example[1], function()
          local id = "example" .. i
          local context = press_all(id, example[1])
          check_example(example, context.aggregate)
          assert.equal(#example[1] - 1, context.aggregate.aggregateVersion)
          check_example(example, tidelog.CommandHandler(store, { Calculator })
            :load("tenant1", Calculator, id))
        end)
      end

      local function state(id)
        local calculator = handler:load("tenant1", Calculator, id)
        return { calculator.left, calculator.right or "", calculator.operator or "",
                 bits(calculator.result), calculator.aggregateVersion,
                 with_engine.event_count(store, "tenant1") }
      end

      local function refuses(id, version, command, payload)
        local before = state(id)
        payload.aggregateId, payload.expectedVersion = id, version
        local ok, err = pcall(handler.command, handler, actor, command, payload)
        assert.is_false(ok)
        assert.same(before, state(id))
        return err
      end

      it("stores nothing where something is missing", function()
        local version = press_all("missing", "+").aggregate.aggregateVersion
        assert.equal(0, version)
        for _, key in ipairs { "=", "-" } do
          for _, expected in ipairs { version, false } do
            local err = refuses("missing", expected or nil, command_of(key))
            assert.equal("PreconditionError", err.name)
            assert.equal("missing right side", err.message)
          end
        end
        local err = refuses("nothing yet", nil, "PressEquals", {})
        assert.equal("PreconditionError", err.name)
        assert.equal("missing right side", err.message)
        assert.equal("0", press_key("missing", "0", version).aggregate.right)
      end)

      it("stores nothing for bad digits and operators", function()
        press_all("bad", "1+2")
        local function refuses_argument(command, argument, value)
          local err = refuses("bad", 2, command, { [argument] = value })
          assert.equal("InvalidArgumentError", err.name)
          assert.equal(argument, err.argument)
        end
        for _, value in ipairs(bad_digits) do refuses_argument("PressDigit", "digit", value) end
        for _, value in ipairs(bad_operators) do
          refuses_argument("PressOperator", "operator", value)
        end
        refuses_argument("PressDigit", "digit", nil)
        refuses_argument("PressOperator", "operator", nil)
      end)

      it("does what JavaScript does, key by key and bit by bit", function()
        each_sequence(function(i, keys, steps)
          if (i > 150 and i % 20 ~= 0) or #keys > 60 then return end
          local id, version = "sequence" .. i, nil
          local calculator = without_engine.new(Calculator)
          for j, step in ipairs(steps) do
            local ok, context = pcall(press_key, id, step.key, version)
            local err = nil
            if ok then
              calculator = context.aggregate
              version = calculator.aggregateVersion
            else
              err = context
            end
            check_step(calculator, err, step, keys:sub(1, j))
          end
          if version then
            local last = steps[#steps]
            local loaded = tidelog.CommandHandler(store, { Calculator })
              :load("tenant1", Calculator, id)
            check_step(loaded, last.refused, last, keys .. " (loaded)")
          end
        end)
      end)
    end)
  end
end)
