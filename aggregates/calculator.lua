-- A pocket calculator, one command a key. `left` and `right` are what was
-- typed, as text; `result` is the last result. It computes what a calculator
-- written in JavaScript with parseFloat and toString computes, to the last
-- digit: 5.23/.33*2= shows 31.6969696969697 and 0/0 shows NaN.

local Err = require "tidelog.err"

---@class Calculator
---@field left string      what is left of the operator; after a result, the result
---@field right? string    what is right of it, absent until a key was pressed
---@field operator? "+"|"-"|"*"|"/"
---@field result number
local Calculator = { name = "Calculator", path = "/calculators" }

-- JavaScript's Number.parseFloat: the longest beginning of `text` that is a
-- decimal number, always as a float. tonumber alone would refuse "1.2.3" and
-- "5.5." as a whole, read "0x10" and make integers of some. It gets the digits
-- without their point, which it would look for as the locale writes it.
local function parse_float(text)
  local sign, rest = text:match "^([+-]?)(.*)$"
  if rest:find "^Infinity" then return sign == "-" and -math.huge or math.huge end
  local whole, fraction, tail = rest:match "^(%d*)%.?(%d*)(.*)$"
  if whole == "" and fraction == "" then return 0 / 0 end
  -- Beyond 99999 every exponent gives zero or infinity, and stays printable.
  local exponent = tonumber(tail:match "^[eE]([+-]?%d+)") or 0
  exponent = math.max(-99999, math.min(99999, exponent)) - #fraction
  return tonumber(sign .. whole .. fraction .. "e" .. exponent)
end

-- The fewest decimal digits that only `number` is read from, and the nearest
-- to it of these, as an integer with a power of ten. Below a power of two the
-- doubles lie closer together than above it: there the nearest decimal of some
-- length may belong to the double below while the next decimal is still right.
local function shortest_decimal(number)
  for length = 1, 17 do
    local first, others, exponent = ("%." .. length - 1 .. "e"):format(number)
      :match "^(%d)%D*(%d*)e([+-]%d+)$"
    local digits, power = math.tointeger(first .. others), math.tointeger(exponent) - length + 1
    for candidate = digits, digits + 1 do
      if tonumber(candidate .. "e" .. power) == number then return tostring(candidate), power end
    end
  end
end

-- JavaScript's Number.prototype.toString. Lua's tostring has 14 digits, a ".0"
-- and a sign on zero.
local function to_string(number)
  if number ~= number then return "NaN" end
  if number == 0 then return "0" end
  if number < 0 then return "-" .. to_string(-number) end
  if number == math.huge then return "Infinity" end

  local digits, power = shortest_decimal(number)
  local point = #digits + power -- how many digits stand before the decimal point
  if point > 21 or point < -5 then
    local fraction = #digits > 1 and "." .. digits:sub(2) or ""
    return ("%s%se%+d"):format(digits:sub(1, 1), fraction, point - 1)
  elseif power >= 0 then
    return digits .. ("0"):rep(power)
  elseif point > 0 then
    return digits:sub(1, point) .. "." .. digits:sub(point + 1)
  else
    return "0." .. ("0"):rep(-point) .. digits
  end
end

local operators = {
  ["+"] = function(left, right) return left + right end,
  ["-"] = function(left, right) return left - right end,
  ["*"] = function(left, right) return left * right end,
  ["/"] = function(left, right) return left / right end,
}

-- The key that is no key, in the words of who pressed it.
local function invalid(field, value, rule)
  return Err.invalidArgument(field, ("%s %s is not %s"):format(field, Err.show(value), rule))
end

-- JavaScript takes an empty text for a missing one.
local function is_missing(text)
  return text == nil or text == ""
end

function Calculator:init()
  self.left, self.result = "0", 0
end

Calculator.commands = {
  PressDigit = function(_, context)
    local digit = context.payload.digit
    if not tostring(digit):match "^%d$" then error(invalid("digit", digit, "one of 0 to 9")) end
    context:push "DigitPressed"
  end,

  PressDot = function(_, context)
    context:push "DotPressed"
  end,

  PressOperator = function(_, context)
    local operator = context.payload.operator
    if not operators[operator] then error(invalid("operator", operator, "one of + - * /")) end
    context:push "OperatorPressed"
  end,

  PressEquals = function(_, context)
    context:push "EqualsPressed"
  end,
}

Calculator.events = {
  DigitPressed = function(self, event)
    self:append(event.payload.digit)
  end,

  DotPressed = function(self)
    self:append "."
  end,

  -- An operator is also an equals sign, from the second one on.
  OperatorPressed = function(self, event)
    if self.operator then self:compute() end
    self.operator = event.payload.operator
    self.right = nil
  end,

  -- Right and operator stay, so that === repeats the last step.
  EqualsPressed = function(self)
    self:compute()
  end,
}

---@param key string|integer
function Calculator:append(key)
  local side = self.operator and "right" or "left"
  self[side] = (self[side] or "") .. key
end

-- Raises, and leaves everything as it was, where a part is missing. The event
-- is refused with it, so what is stored can always be computed again.
function Calculator:compute()
  if is_missing(self.left) then error(Err.precondition "missing left side") end
  if is_missing(self.right) then error(Err.precondition "missing right side") end
  if is_missing(self.operator) then error(Err.precondition "missing operator") end
  self.result = operators[self.operator](parse_float(self.left), parse_float(self.right))
  self.left = to_string(self.result)
end

return Calculator
