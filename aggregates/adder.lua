-- The smallest aggregate: a sum to which two integers at a time are added.

local Err = require "tidelog.err"

---@class Adder
---@field sum number
local Adder = { name = "Adder", path = "/adders" }

function Adder:init()
  self.sum = 0
end

-- 2.0 is an integer too, as in JSON, which knows only one kind of number;
-- infinities and NaN have no remainder.
local function check_integer(payload, argument)
  local value = payload[argument]
  if math.type(value) and value % 1 == 0 then return end
  local shown = tostring(value)
  if type(value) == "string" then shown = '"' .. value .. '"' end
  if type(value) == "table" then shown = "a table" end
  error(Err.invalidArgument(argument, ("%s must be an integer, not %s"):format(argument, shown)))
end

local function check_numbers(payload)
  check_integer(payload, "number1")
  check_integer(payload, "number2")
end

Adder.commands = {
  AddNumbers = function(_, context)
    check_numbers(context.payload)
    context:push "NumbersAdded"
  end,

  SubtractNumbers = function(_, context)
    check_numbers(context.payload)
    context:push "NumbersSubtracted"
  end,
}

Adder.events = {
  NumbersAdded = function(self, event)
    self.sum = self.sum + (event.payload.number1 + event.payload.number2)
  end,

  NumbersSubtracted = function(self, event)
    self.sum = self.sum - (event.payload.number1 + event.payload.number2)
  end,
}

return Adder
