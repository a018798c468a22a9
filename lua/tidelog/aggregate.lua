-- Aggregates: what a user's table means, checked once, and the state of one
-- aggregate from its snapshot and its events.

local Err = require "tidelog.err"
local codeHash = require "tidelog.code_hash"
local engine = require "tidelog.engine"

local Aggregate = {}

local SNAPSHOT_EVERY = 100

---@class tidelog.Definition  what the engine knows of an aggregate's table
---@field Type table
---@field name string
---@field path string
---@field commands table<string, { handle: function, roles?: table, payload?: table }>
---@field events table<string, function>
---@field upcast? table
---@field ignore? table<string, boolean>
---@field every? integer      events between two snapshots; nil: no snapshots
---@field stateCode string    hash of what makes the state: stamps snapshots
---@field code string         hash of everything: stamps commits
---@field metatable table     of the instances

local function invalid(argument, message, ...)
  error(Err.invalidArgument(argument, message:format(...)))
end

-- All string keys of a table and of the tables that it inherits from.
local function names(t)
  local found = {}
  for _ = 1, 100 do
    if type(t) ~= "table" then break end
    for key in next, t do
      if type(key) == "string" then found[key] = true end
    end
    local metatable = getmetatable(t)
    t = type(metatable) == "table" and metatable.__index or nil
  end
  return next, found
end

local PAYLOAD_TYPES = {
  integer = function(value) return type(value) == "number" and math.tointeger(value) ~= nil end,
  number = function(value) return type(value) == "number" end,
  string = function(value) return type(value) == "string" end,
  boolean = function(value) return type(value) == "boolean" end,
  table = function(value) return type(value) == "table" end,
  array = function(value) return type(value) == "table" and (#value > 0 or engine.isArray(value)) end,
  any = function(value) return value ~= nil end,
}

local function checkPayloadSpec(where, spec)
  if spec == nil then return nil end
  if type(spec) ~= "table" then invalid(where, "%s is a %s, not a table", where, type(spec)) end
  local checked = {}
  for field, kind in pairs(spec) do
    local base = type(kind) == "string" and kind:match "^(%a+)%??$"
    if type(field) ~= "string" or not PAYLOAD_TYPES[base] then
      invalid(where, "%s has %s = %s, which is none of integer, number, string, boolean, table, array and any, "
        .. "with a '?' behind it where the field is optional", where, Err.show(field), Err.show(kind))
    end
    checked[#checked + 1] = { field = field, kind = base, optional = kind:sub(-1) == "?" }
  end
  table.sort(checked, function(a, b) return a.field < b.field end)
  return checked
end

local function checkCommand(typeName, name, command)
  local where = ("%s.commands.%s"):format(typeName, name)
  if type(command) == "function" then return { handle = command } end
  if type(command) ~= "table" then
    invalid(where, "%s is a %s, neither a function nor a table", where, type(command))
  end
  if type(command.handle) ~= "function" then
    error(Err.notImplemented("handle", where .. " has no function handle"))
  end
  for key in pairs(command) do
    if key ~= "handle" and key ~= "roles" and key ~= "payload" then -- a slip here could open it to everyone
      invalid(where, "%s has %s, which is none of handle, roles and payload", where, Err.show(key))
    end
  end
  local roles = command.roles
  if roles ~= nil and (type(roles) ~= "table" or #roles == 0 and next(roles) ~= nil) then
    invalid(where, "%s.roles is not a list of strings", where)
  end
  for i, role in ipairs(roles or {}) do
    if type(role) ~= "string" then invalid(where, "%s.roles[%d] is not a string", where, i) end
  end
  return {
    handle = command.handle,
    roles = roles and { table.unpack(roles) },
    payload = checkPayloadSpec(where .. ".payload", command.payload),
  }
end

local function checkUpcasters(typeName, upcast)
  if upcast == nil then return nil end
  if type(upcast) ~= "table" then invalid("upcast", "%s.upcast is a %s, not a table", typeName, type(upcast)) end
  for event, steps in pairs(upcast) do
    local where = ("%s.upcast.%s"):format(typeName, tostring(event))
    if type(steps) ~= "table" then invalid("upcast", "%s is a %s, not a table", where, type(steps)) end
    for version, step in pairs(steps) do
      if math.type(version) ~= "integer" or version < 0 or type(step) ~= "function" then
        invalid("upcast", "%s[%s] is not a function under a schema version from 0", where, tostring(version))
      end
    end
  end
  return upcast
end

local function checkSnapshot(typeName, snapshot)
  if snapshot == false then return nil end
  if snapshot == nil or snapshot == true then return SNAPSHOT_EVERY end
  if type(snapshot) ~= "table" then
    invalid("snapshot", "%s.snapshot is a %s, neither false nor { every = n }", typeName, type(snapshot))
  end
  if snapshot.every == nil then return SNAPSHOT_EVERY end
  return engine.checkInteger(snapshot.every, "snapshot.every", 1)
end

local function checkIgnored(typeName, ignore)
  if ignore == nil then return nil end
  if type(ignore) ~= "table" then invalid("ignore", "%s.ignore is a %s, not a list", typeName, type(ignore)) end
  local set = {}
  for key, value in pairs(ignore) do set[type(key) == "string" and value and key or value] = true end
  return set
end

local function define(Type)
  if type(Type) ~= "table" then invalid("aggregate", "an aggregate is a %s, not a table", type(Type)) end
  local name = Type.name
  local shown = type(name) == "string" and name or "the aggregate"
  for _, part in ipairs { "commands", "events" } do
    if type(Type[part]) ~= "table" then
      error(Err.notImplemented(part, ("%s has no table %s"):format(shown, part)))
    end
  end
  engine.checkName(name, "name")
  if name:find "^tidelog%." then
    invalid("name", "the aggregate's name '%s' begins with 'tidelog.', as only the engine's own do", name)
  end
  local path = Type.path == nil and "/" .. name or Type.path
  engine.checkPath(path)
  local init = Type.init
  if init ~= nil and type(init) ~= "function" then invalid("init", "%s.init is no function", name) end
  local definition = {
    Type = Type, name = name, path = path, init = init,
    commands = {}, events = Type.events,
    upcast = checkUpcasters(name, Type.upcast),
    ignore = checkIgnored(name, Type.ignore),
    every = checkSnapshot(name, Type.snapshot),
    metatable = { __index = Type, __name = name },
  }
  for command in names(Type.commands) do
    definition.commands[command] = checkCommand(name, command, Type.commands[command])
  end
  for event in names(Type.events) do
    if type(Type.events[event]) ~= "function" then
      invalid("events", "%s.events.%s is a %s, not a function", name, event, type(Type.events[event]))
    end
  end
  definition.code = codeHash(Type)
  definition.stateCode = codeHash(Type, { commands = true, path = true, snapshot = true })
  return definition
end

local defined = setmetatable({}, { __mode = "k" })

--- What an aggregate's table means; raises where the table is wrong. A table is
--- looked at once: it is not meant to change afterwards.
---@return tidelog.Definition
function Aggregate.define(Type)
  local definition = type(Type) == "table" and defined[Type] or nil
  if not definition then
    definition = define(Type)
    defined[Type] = definition
  end
  return definition
end

--- Raises InvalidArgumentError or MissingArgumentError where a payload does not have
--- the fields that the command declares.
function Aggregate.checkPayload(command, payload)
  for _, field in ipairs(command.payload or {}) do
    local value = payload[field.field]
    if value == nil or value == engine.null then
      if not field.optional then error(Err.missingArgument(field.field)) end
    elseif not PAYLOAD_TYPES[field.kind](value) then
      invalid(field.field, "%s %s is not of the type %s", field.field,
        type(value) == "table" and "(a table)" or Err.show(value), field.kind)
    end
  end
end

local MAX_INT32 = 0x7fffffff

--- Raises where a name is none, the aggregate has no function for the event (and does not
--- ignore it), or the version of its schema is none; nil stands for version 0.
---@return integer version
function Aggregate.checkEvent(definition, name, version)
  engine.checkName(name, "name")
  version = version == nil and 0 or engine.checkInteger(version, "version", 0, MAX_INT32)
  if not definition.events[name] and not (definition.ignore and definition.ignore[name]) then
    error(Err.notImplemented(name, ("%s has no function for its event %s"):format(definition.name, name)))
  end
  return version
end

--- An aggregate before its first event.
---@param definition tidelog.Definition
function Aggregate.new(definition, id)
  local state = setmetatable({}, definition.metatable)
  if definition.init then definition.init(state) end
  state.aggregateId, state.aggregateVersion = id, -1
  return state
end

-- What an event function raises while history is replayed is a fault of the domain code:
-- it says where, and is never taken for the command's own refusal.
local function failReplay(definition, state, problem)
  if Err.is(problem, "StoreError") or Err.is(problem, "NotImplementedError") or Err.is(problem, "LimitError") then
    error(problem, 0)
  end
  error(("%s '%s' cannot be replayed: the event at version %d failed: %s"):format(
    definition.name, state.aggregateId, state.aggregateVersion + 1, Err.text(problem)), 0)
end

--- Applies what the store has behind the state's version; `limit` may have a last
--- version, position or time. When it raises, the state is of no more use.
---@return boolean whether there was anything
function Aggregate.catchUp(store, tenant, definition, state, limit)
  local before = state.aggregateVersion
  local scan <close> = engine.scan(store, tenant, definition.name, state.aggregateId, before + 1)
  limit = limit or {}
  local ok, problem = pcall(engine.fold, scan, state, definition.events, definition.upcast, definition.ignore,
    limit.version, limit.position, limit.time)
  if not ok then failReplay(definition, state, problem) end
  return state.aggregateVersion > before
end

local function restore(store, tenant, definition, id, version)
  if not definition.every then return nil end
  local at, bytes = engine.getSnapshot(store, tenant, definition.name, id, definition.stateCode)
  if not at or (version and at > version) then return nil end
  local state = setmetatable(engine.decode(bytes, true), definition.metatable)
  state.aggregateId, state.aggregateVersion = id, at
  return state
end

--- The state of an aggregate now, or as far as `limit` says.
---@param limit? { version?: integer, position?: integer, time?: integer }
function Aggregate.load(store, tenant, definition, id, limit)
  local state
  if not limit or limit.version then
    state = restore(store, tenant, definition, id, limit and limit.version)
  end
  state = state or Aggregate.new(definition, id)
  Aggregate.catchUp(store, tenant, definition, state, limit)
  return state
end

--- Applies one new event to the state, from the bytes that will be stored: the event
--- function sees exactly what a replay will show it.
function Aggregate.apply(definition, state, name, schema, bytes)
  local payload, version = engine.decode(bytes), schema
  if definition.upcast then payload, version = engine.upcast(definition.upcast, name, schema, payload) end
  local apply, id, next = definition.events[name], state.aggregateId, state.aggregateVersion + 1
  if apply then apply(state, { name = name, version = version, payload = payload }) end
  state.aggregateId, state.aggregateVersion = id, next -- whatever the function did to them
end

--- Keeps a snapshot of the state. It is only a cache: a state that cannot be stored
--- exactly (functions, one table in two places) is simply not kept.
---@return boolean kept
---@return any problem
function Aggregate.keep(store, tenant, definition, state)
  local ok, bytes = pcall(engine.encode, state, "state", "state")
  if not ok then return false, bytes end
  return pcall(engine.putSnapshot, store, tenant, definition.name, state.aggregateId,
    state.aggregateVersion, definition.stateCode, bytes)
end

return Aggregate
