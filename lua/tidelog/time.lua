-- Reading a moment that a user gives.

local Err = require "tidelog.err"
local engine = require "tidelog.engine"

--- Milliseconds since 1970 from ISO 8601 text, or from such milliseconds.
---@param value any
---@param argument string for the error
---@return integer
return function(value, argument)
  if math.type(value) == "integer" then return value end
  local ms = type(value) == "string" and engine.parseTime(value) or nil
  if not ms then
    error(Err.invalidArgument(argument,
      ("%s %s is neither an ISO 8601 time such as 2026-11-23T09:00:00Z nor whole milliseconds since 1970"):format(
        argument, Err.show(value))))
  end
  return ms
end
