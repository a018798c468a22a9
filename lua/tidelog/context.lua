-- The context of one command: what the command was given, the events it pushes,
-- and the aggregate they are applied to.

local Aggregate = require "tidelog.aggregate"
local Err = require "tidelog.err"
local engine = require "tidelog.engine"

---@class tidelog.Context
---@field actor tidelog.Actor
---@field command string
---@field payload table           read-only
---@field aggregate table         the state; after the command, the caller's own
---@field aggregateId string
---@field aggregateType string
---@field expectedVersion? integer
---@field commandId string
---@field correlationId string
---@field causationId? string
---@field events table[]          pushed so far; with position and time once committed
---@field cached boolean          whether the aggregate came from the cache
---@field duplicate boolean       whether the commandId was known: nothing was written
---@field time string             ISO 8601, one moment for the whole command, recorded
local Context = {}

-- The key of what is the engine's own: no name that a user could meet.
local OWN = {}

-- `time` is made when it is asked for, and only then recorded.
local metatable = {
  __index = function(self, key)
    if key == "time" then
      local own = self[OWN]
      own.time = own.time or engine.now()
      local text = engine.formatTime(own.time)
      rawset(self, "time", text)
      return text
    end
    return Context[key]
  end,
  __name = "tidelog.Context",
}

---@param fields table   the public fields
---@param own table      what the engine goes by, whatever a command does to the public fields
function Context.new(fields, own)
  fields[OWN] = own
  return setmetatable(fields, metatable)
end

function Context.own(context)
  return context[OWN]
end

--- Makes it ready for (another) decision on a state.
function Context.begin(context, state, cached)
  local own = context[OWN]
  context.aggregate, context.events, context.cached = state, {}, cached
  own.state, own.base = state, state.aggregateVersion
  own.pushed, own.events, own.random, own.open, own.failed = {}, {}, nil, true, nil
  if own.time then own.time, context.time = nil, nil end
end

--- Nothing can be pushed any more.
function Context.finish(context)
  context[OWN].open = false
end

-- The engine's own part of a context; raises where `self` is none, as in context.push "X".
local function ownOf(self, method)
  local own = type(self) == "table" and rawget(self, OWN)
  if not own then
    error(Err.invalidArgument("self", ("self is a %s: call it as context:%s(...), with a colon"):format(
      type(self), method)))
  end
  return own
end

--- Applies an event to the aggregate at once; it is stored when the command is done.
---@param name string
---@param payload? table    default: the command's
---@param version? integer  of the payload's schema, default 0
function Context:push(name, payload, version)
  local own = ownOf(self, "push")
  if not own.open then
    error(Err.precondition("push was called outside of its command"))
  end
  local definition = own.definition
  version = Aggregate.checkEvent(definition, name, version)
  if payload == nil then payload = self.payload end
  local bytes = rawequal(payload, own.view) and own.payload or engine.encode(payload, "payload of " .. name)
  local ok, problem = pcall(Aggregate.apply, definition, own.state, name, version, bytes)
  if not ok then
    own.failed = { problem } -- a command that catches this must not commit half of its state
    error(problem, 0)
  end
  local event = { name = name, version = version, payload = engine.decode(bytes) }
  own.events[#own.events + 1] = event
  if type(self.events) == "table" then self.events[#self.events + 1] = event end
  local pushed = own.pushed
  local n = #pushed
  pushed[n + 1], pushed[n + 2], pushed[n + 3] = name, version, bytes
end

--- Loads another aggregate of the actor's tenant.
---@param Type table|string         the aggregate's table, or the name of a known one
---@param id string
---@param expectedVersion? integer  ConcurrencyError where it is at another version
---@return table aggregate          at version −1 where it has no events
function Context:load(Type, id, expectedVersion)
  local own = ownOf(self, "load")
  local state = own.handler:load(own.tenant, Type, id)
  if expectedVersion ~= nil then
    expectedVersion = engine.checkInteger(expectedVersion, "expectedVersion", -1)
    if state.aggregateVersion ~= expectedVersion then
      error(Err.concurrency(("%s '%s' is at version %d, not %d"):format(
        getmetatable(state).__name, id, state.aggregateVersion, expectedVersion)))
    end
  end
  return state
end

--- Like math.random, but recorded with the command: random() is a float in [0, 1),
--- random(m) an integer from 1 to m, random(m, n) one from m to n.
function Context:random(m, n)
  local own = ownOf(self, "random")
  local value = engine.random()
  own.random = own.random or {}
  own.random[#own.random + 1] = value
  if m == nil then return value end
  if n == nil then m, n = 1, m end
  m, n = engine.checkInteger(m, "m", math.mininteger), engine.checkInteger(n, "n", math.mininteger)
  local width = n - m
  if width < 0 or width >= 1 << 53 then
    error(Err.invalidArgument("n", ("random(%d, %d) has no numbers to choose from, or more than 2^53"):format(m, n)))
  end
  return m + math.floor(value * (width + 1))
end

return Context
