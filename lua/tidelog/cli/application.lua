-- What the commands share: the store, the domain, the actor, and how values are shown.

local Actor = require "tidelog.actor"
local CommandHandler = require "tidelog.command_handler"
local Domain = require "tidelog.domain"
local Store = require "tidelog.store"
local engine = require "tidelog.engine"

local Application = {}

--- The integer that a text of the command line is, or nil and what is wrong with it.
function Application.integer(text)
  local value = text:match "^-?%d+$" and math.tointeger(tonumber(text))
  if value then return value end
  return nil, ("'%s' is not an integer"):format(text)
end

function Application.store(arguments)
  return Store.open(arguments.store)
end

function Application.actor(arguments)
  return Actor.new { id = arguments.actor, tenant = arguments.tenant, roles = arguments.role }
end

--- The store and a command handler of the domain's aggregates. The store is to be closed.
function Application.open(arguments)
  local domain = Domain.load(arguments.domain)
  local store = Application.store(arguments)
  return store, CommandHandler.new(store, domain.aggregates)
end

--- A table as JSON; an aggregate's state may have more than a payload may.
function Application.json(value, indent)
  return engine.toJson(engine.encode(value, "value", "shown"), indent or 0)
end

--- A scalar or a nested table on one line, for tables of text.
function Application.text(value)
  if type(value) == "table" then return Application.json({ v = value }):match '^{"v":%s*(.*)}$' end
  if value == engine.null then return "null" end
  if type(value) == "string" then return value end
  if math.type(value) == "float" then return ("%.17g"):format(value) end
  return tostring(value)
end

return Application
