-- What the commands share: how arguments are read, the store, the domain, the actor, and
-- how values are shown.

local Actor = require "tidelog.actor"
local CommandHandler = require "tidelog.command_handler"
local Domain = require "tidelog.domain"
local Err = require "tidelog.err"
local Store = require "tidelog.store"
local engine = require "tidelog.engine"

local Application = {}

-- ---- arguments: each converter gives the value, or nil and what is wrong ---------------

-- What is wrong with the command line itself, so that the exit status is 2.
local Usage = { __tostring = function(self) return self.message end }

--- Raises what is wrong with the command line.
function Application.usage(message, ...)
  error(setmetatable({ message = message:format(...) }, Usage), 0)
end

function Application.isUsage(problem)
  return getmetatable(problem) == Usage
end

-- A converter that accepts what a check does not raise an error for.
local function checked(check, ...)
  local more = table.pack(...)
  return function(text)
    local ok, problem = pcall(check, text, table.unpack(more))
    if ok then return text end
    return nil, problem.message
  end
end

Application.tenant = checked(engine.checkTenant)
Application.actorId = checked(engine.checkName, "actor")
Application.role = checked(engine.checkName, "role")

--- A version, a position or a number of events.
function Application.count(text)
  local value = text:match "^%d+$" and math.tointeger(tonumber(text))
  if value then return value end
  return nil, ("'%s' is not a whole number from 0 on"):format(text)
end

--- A time stays the text that it is.
function Application.time(text)
  if engine.parseTime(text) then return text end
  return nil, ("'%s' is no ISO 8601 time such as 2026-11-23T09:00:00Z"):format(text)
end

-- ---- the store and the domain ------------------------------------------------------------

--- The store, to be closed. `field`: which argument has its URI, default "store".
function Application.store(arguments, field)
  local ok, store = pcall(Store.open, arguments[field or "store"])
  if ok then return store end
  if Err.is(store) and store.argument == "uri" then
    Application.usage("%s: %s", field and field:upper() or "--store", store.message)
  end
  error(store, 0)
end

--- The store, where it is there already: looking creates no folder.
function Application.existingStore(arguments, field)
  local uri = arguments[field or "store"]
  local folder = uri:match "^sqlite:(.+)"
  if folder and not engine.listFolder(folder) and not io.open(folder) then
    error(Err.store(("there is no store %s yet: no command has written to it"):format(uri)), 0)
  end
  return Application.store(arguments, field)
end

function Application.actor(arguments)
  return Actor.new { id = arguments.actor, tenant = arguments.tenant, roles = arguments.role }
end

--- The store, opened by `open`, and a command handler of the domain's aggregates.
function Application.open(arguments, open)
  local domain = Domain.load(arguments.domain)
  local store = open(arguments)
  return store, CommandHandler.new(store, domain.aggregates)
end

--- A store's URI as it may be shown: without user and password, which end at the last @.
function Application.place(uri)
  return (uri:gsub("^(mongodb[^/]*//).*@", "%1"))
end

-- ---- showing -----------------------------------------------------------------------------

--- A number with its thousands apart: 1,234,567.
function Application.thousands(number)
  local text = tostring(number)
  local first = (#text - 1) % 3 + 1
  return text:sub(1, first) .. text:sub(first + 1):gsub("%d%d%d", ",%0")
end

--- How many there are of something: "1 event", "2 events".
function Application.counted(number, what)
  return ("%s %s%s"):format(Application.thousands(number), what, number == 1 and "" or "s")
end

local function checkOutput(ok, problem)
  if not ok then error("standard output cannot be written: " .. problem, 0) end
end

--- Prints a line; output that goes nowhere is an error.
function Application.print(line) checkOutput(io.stdout:write(line, "\n")) end

--- Lets what was printed be seen now.
function Application.flush() checkOutput(io.stdout:flush()) end

--- A table as JSON.
function Application.json(value)
  return engine.toJson(engine.encode(value, "value"), 0)
end

-- A number has the digits that JSON has, and what JSON has no number for its name.
local function number(value)
  if value ~= value then return "NaN" end
  if value == math.huge then return "Infinity" end
  if value == -math.huge then return "-Infinity" end
  return (Application.json({ v = value }):sub(6, -2))
end

--- A value of a state on one line, for tables of text.
function Application.text(value)
  if type(value) == "number" then return number(value) end
  if value == engine.null then return "null" end
  if type(value) ~= "table" then return tostring(value) end
  local ok, bytes = pcall(engine.encode, { v = value }, "value", "shown")
  return ok and engine.toJson(bytes, 0):sub(6, -2) or tostring(value)
end

return Application
