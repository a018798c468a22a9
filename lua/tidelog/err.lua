-- The errors of Tidelog, as tables. A builder returns its error and raises
-- nothing: `error(Err.precondition "missing left side")` raises.
--
-- Plain Lua without the engine, so that domain code can be unit-tested with
-- this file alone. A builder accepts whatever it is given: an error about
-- something wrong must not be replaced by an error about its description.

---@alias tidelog.ErrorName
---| "InvalidArgumentError"
---| "MissingArgumentError"
---| "NotImplementedError"
---| "ConcurrencyError"
---| "PreconditionError"
---| "AccessDeniedError"
---| "LimitError"
---| "StoreError"

---@class tidelog.Error
---@field name tidelog.ErrorName
---@field message string
---@field argument? string   which argument: InvalidArgumentError, MissingArgumentError
---@field method? string     which method: NotImplementedError
---@field transient? boolean whether trying again may help: StoreError

---@class tidelog.Err
---@field metatable table what every error has for its metatable
local Err = {}

-- What to print for a value whose own __tostring may be broken.
local function text(value)
  if type(value) == "string" then return value end
  local ok, printed = pcall(tostring, value)
  return ok and printed or type(value)
end

local function one_line(value)
  return (text(value):gsub("%c+", " "))
end

Err.metatable = {
  __name = "tidelog.Error",
  __tostring = function(self)
    return one_line(rawget(self, "name")) .. ": " .. one_line(rawget(self, "message"))
  end,
  __concat = function(a, b) return text(a) .. text(b) end, -- "failed: " .. err
}

local function build(name, message, default)
  return setmetatable({ name = name, message = text(message == nil and default or message) },
    Err.metatable)
end

local function about(field, value, name, message, default)
  value = value == nil and "?" or text(value)
  local err = build(name, message, value .. default)
  err[field] = value
  return err
end

--- An argument has a value that it may not have.
---@param argument string the argument's name
---@param message? string
---@return tidelog.Error
function Err.invalidArgument(argument, message)
  return about("argument", argument, "InvalidArgumentError", message, " is not a valid argument")
end

--- An argument that is needed was not given.
---@param argument string the argument's name
---@param message? string
---@return tidelog.Error
function Err.missingArgument(argument, message)
  return about("argument", argument, "MissingArgumentError", message, " is missing")
end

--- Something that a type must bring along is not there.
---@param method string its name
---@param message? string
---@return tidelog.Error
function Err.notImplemented(method, message)
  return about("method", method, "NotImplementedError", message, " is not implemented")
end

--- The aggregate has moved on since the caller last saw it.
---@param message? string
---@return tidelog.Error
function Err.concurrency(message)
  return build("ConcurrencyError", message, "the aggregate was changed in the meantime")
end

--- The aggregate's state does not allow the command.
---@param message string kept as it is
---@return tidelog.Error
function Err.precondition(message)
  return build("PreconditionError", message, "a precondition does not hold")
end

--- The actor may not do this.
---@param message? string
---@return tidelog.Error
function Err.accessDenied(message)
  return build("AccessDeniedError", message, "the actor has none of the roles that this needs")
end

--- Domain code used more memory, instructions or whatever is limited than it may.
---@param message string
---@return tidelog.Error
function Err.limit(message)
  return build("LimitError", message, "a limit was exceeded")
end

--- The database failed or refused.
---@param message string
---@param transient? boolean true where trying again may help; default false
---@return tidelog.Error
function Err.store(message, transient)
  local err = build("StoreError", message, "the store failed")
  err.transient = transient and true or false
  return err
end

--- What to print for any value, also for one whose own __tostring raises.
---@param value any
---@return string
Err.text = text

local SHOWN = 64 -- bytes of a value that a message shows

--- A value as a message shows it: quoted, on one line, cut where it is long.
---@param value any
---@return string
function Err.show(value)
  local shown = one_line(value)
  if #shown > SHOWN then
    local cut = SHOWN
    while cut > 0 and (shown:byte(cut + 1) or 0) & 0xC0 == 0x80 do cut = cut - 1 end -- a whole character
    shown = shown:sub(1, cut) .. "..."
  end
  return type(value) == "string" and "'" .. shown .. "'" or shown
end

--- Whether a value is one of these errors, and, with a name, the one of that name.
---@param value any
---@param name? tidelog.ErrorName
---@return boolean
function Err.is(value, name)
  return type(value) == "table" and rawequal(getmetatable(value), Err.metatable)
    and (name == nil or rawget(value, "name") == name)
end

return Err
