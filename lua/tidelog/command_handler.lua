-- The command flow, from top to bottom: accept → decide → commit → remember.

local Actor = require "tidelog.actor"
local Aggregate = require "tidelog.aggregate"
local Cache = require "tidelog.cache"
local Context = require "tidelog.context"
local Err = require "tidelog.err"
local Store = require "tidelog.store"
local Trace = require "tidelog.trace"
local Options = require "tidelog.options"
local checkReceiver = require "tidelog.receiver"
local engine = require "tidelog.engine"
local readTime = require "tidelog.time"

---@class tidelog.CommandHandler
local CommandHandler = {}
CommandHandler.__index = CommandHandler
CommandHandler.__name = "tidelog.CommandHandler"

local ATTEMPTS = 30      -- decisions of one command, when other writers are first
local CACHE_SIZE = 1000  -- aggregates
local PATIENT_AFTER = 12 -- attempts without a pause: who just lost is the next to find the file free

---@class tidelog.CommandHandlerOptions
---@field cacheSize? integer  aggregates kept in memory, default 1000; 0: none
---@field attempts? integer   decisions of one command on conflicts, default 30

local checkHandlerOptions = Options { "cacheSize", "attempts" }
local checkCommandOptions = Options { "commandId", "correlationId", "causationId" }

local function readOptions(options)
  options = checkHandlerOptions(options)
  return {
    cacheSize = options.cacheSize == nil and CACHE_SIZE or engine.checkInteger(options.cacheSize, "cacheSize", 0),
    attempts = options.attempts == nil and ATTEMPTS or engine.checkInteger(options.attempts, "attempts", 1),
  }
end

--- Makes a handler of the aggregates' commands; checks every aggregate at once.
---@param store tidelog.Store
---@param aggregates table[]
---@param tracer? table
---@param options? tidelog.CommandHandlerOptions
---@return tidelog.CommandHandler
function CommandHandler.new(store, aggregates, tracer, options)
  Store.check(store)
  if aggregates == nil then error(Err.missingArgument "aggregates") end
  if type(aggregates) ~= "table" then
    error(Err.invalidArgument("aggregates", "aggregates is a " .. type(aggregates) .. ", not a list of tables"))
  end
  if #aggregates == 0 and next(aggregates) ~= nil then
    error(Err.invalidArgument("aggregates", "aggregates is a table with names, not a list: { aggregate }"))
  end
  options = readOptions(options)
  local self = setmetatable({
    store = store, tracer = Trace.check(tracer), attempts = options.attempts,
    cache = Cache.new(options.cacheSize),
    definitions = {}, -- by name
    commands = {},    -- name → definition
  }, CommandHandler)
  for i, Type in ipairs(aggregates) do
    -- In { require "aggregates.adder" } stands also require's second value, the file's name.
    if type(Type) == "string" and i > 1 and i == #aggregates then break end
    local definition = Aggregate.define(Type)
    if self.definitions[definition.name] then
      error(Err.invalidArgument("aggregates", ("two aggregates have the name %s"):format(definition.name)))
    end
    self.definitions[definition.name] = definition
    for command in pairs(definition.commands) do
      local other = self.commands[command]
      if other then
        error(Err.invalidArgument("aggregates",
          ("the command %s is in both %s and %s"):format(command, other.name, definition.name)))
      end
      self.commands[command] = definition
    end
  end
  return self
end

-- ---- accept: what is wrong with a command is said before anything is read ----------

local function acceptRoles(actor, known, name, command)
  if not command.roles then return end
  for _, role in ipairs(command.roles) do
    if known.roles[role] then return end
  end
  error(Err.accessDenied(("%s needs one of the roles %s, which the actor %s does not have"):format(
    name, table.concat(command.roles, ", "), actor.id)))
end

local function acceptOptions(options)
  options = checkCommandOptions(options)
  for key, value in pairs(options) do engine.checkName(value, key) end
  return options
end

local function accept(self, actor, name, payload, options)
  local known = Actor.check(actor)
  if name == nil or name == "" then error(Err.missingArgument "command") end
  if payload == nil then payload = {} end
  if type(payload) ~= "table" then
    error(Err.invalidArgument("payload", "payload is a " .. type(payload) .. ", not a table"))
  end
  options = acceptOptions(options)
  local id, expected, commandId = payload.aggregateId, payload.expectedVersion, payload.commandId
  if commandId == nil then commandId = options.commandId end
  if expected ~= nil then expected = engine.checkInteger(expected, "expectedVersion", -1) end
  if id == nil and expected ~= nil then
    error(Err.missingArgument("aggregateId", "expectedVersion is given without aggregateId"))
  end
  if id == nil and commandId ~= nil then
    error(Err.missingArgument("aggregateId", "commandId is given without aggregateId: it is unique in its aggregate"))
  end
  if id ~= nil then engine.checkName(id, "aggregateId") end
  if commandId ~= nil then engine.checkName(commandId, "commandId") end
  local definition = self.commands[name]
  if not definition then
    error(Err.invalidArgument("command", ("command %s is in none of the aggregates"):format(Err.show(name))))
  end
  local command = definition.commands[name]
  acceptRoles(actor, known, name, command)
  local bytes = engine.encode(payload, "payload", "payload")
  local decoded = engine.decode(bytes)
  Aggregate.checkPayload(command, decoded)
  local own = {
    handler = self, definition = definition, handle = command.handle, name = name,
    tenant = actor.tenant, id = id or engine.id(), isNew = id == nil, expected = expected,
    actor = known.bytes, payload = bytes, view = engine.freeze(decoded),
    idempotent = commandId ~= nil, commandId = commandId or engine.id(), causationId = options.causationId,
  }
  own.correlationId = options.correlationId or own.commandId
  own.key = own.tenant .. "\0" .. definition.name .. "\0" .. own.id
  return Context.new({
    actor = actor, command = name, payload = own.view,
    aggregateId = own.id, aggregateType = definition.name, expectedVersion = expected,
    commandId = own.commandId, correlationId = own.correlationId, causationId = own.causationId,
    events = {}, cached = false, duplicate = false,
  }, own)
end

-- ---- decide: on a copy, so that a failure leaves no trace --------------------------

local function stale(own, version)
  return Err.concurrency(("%s '%s' is at version %d, not %d"):format(own.definition.name, own.id, version,
    own.expected))
end

-- The latest state that is known: only ever changed by committed events.
local function acquire(self, context, own)
  local state = not own.isNew and self.cache:get(own.key)
  if state then return state, true end
  local started = engine.clock()
  if own.isNew then
    state = Aggregate.new(own.definition, own.id)
  else
    state = Aggregate.load(self.store, own.tenant, own.definition, own.id)
    self.cache:put(own.key, state)
  end
  if self.tracer then
    Trace.offer(self.tracer, function()
      return { method = "loadAggregate", context = context, elapsed = engine.clock() - started }
    end)
  end
  return state, false
end

-- Brings a cached state up to the store's; when that fails, it is cached no longer.
local function catchUp(self, own, state)
  local ok, problem = pcall(Aggregate.catchUp, self.store, own.tenant, own.definition, state)
  if not ok then
    self.cache:drop(own.key)
    error(problem, 0)
  end
end

local function decide(context, own, state, cached)
  Context.begin(context, engine.copy(state), cached)
  local ok, problem = pcall(own.handle, own.state, context)
  Context.finish(context)
  if own.failed then return false, own.failed[1] end
  return ok, problem
end

-- ---- commit: one record, or nothing ------------------------------------------------

local function commit(self, context, own)
  local started = engine.clock()
  local body = engine.body(own.name, own.payload, own.pushed, own.actor, own.definition.code,
    own.commandId, own.correlationId, own.causationId, own.idempotent, own.time, own.random)
  local outcome, position, time = engine.append(self.store, own.tenant, own.definition.name, own.id, own.base + 1,
    #own.pushed // 3, body, own.idempotent and own.commandId or nil)
  if outcome == "appended" then
    local text = engine.formatTime(time)
    context.events, context.aggregate = own.events, own.state -- whatever the command did to them
    for i, event in ipairs(own.events) do
      event.position, event.time = position + i - 1, text
      event.aggregateType, event.aggregateId = own.definition.name, own.id
      event.aggregateVersion = own.base + i
      event.command, event.actor = own.name, context.actor
      event.commandId, event.correlationId, event.causationId = own.commandId, own.correlationId, own.causationId
    end
  end
  return outcome, started
end

-- ---- remember: the cache and the snapshot, after the commit ------------------------

local function applyAgain(self, own, state)
  if state.aggregateVersion ~= own.base then -- it was moved on while the command was decided
    return pcall(Aggregate.catchUp, self.store, own.tenant, own.definition, state)
  end
  local pushed = own.pushed
  for i = 1, #pushed, 3 do
    local ok, problem = pcall(Aggregate.apply, own.definition, state, pushed[i], pushed[i + 1], pushed[i + 2])
    if not ok then return false, problem end
  end
  return true
end

local function remember(self, own, state)
  local definition = own.definition
  local every = definition.every
  if self.cache.size == 0 and not every then return end
  local ok, problem = applyAgain(self, own, state)
  if not ok then -- the command is committed all the same: the next one loads the state anew
    self.cache:drop(own.key)
    warn("tidelog: the events of ", own.name, " failed when they were applied again: ", Err.text(problem))
    return
  end
  self.cache:put(own.key, state)
  if every and (state.aggregateVersion + 1) // every > (own.base + 1) // every then
    Aggregate.keep(self.store, own.tenant, definition, state)
  end
end

-- The first submission of a command id that comes again: its events, nothing written.
local function answerDuplicate(self, context, own, version)
  local scan <close> = engine.scan(self.store, own.tenant, own.definition.name, own.id, version, false, 1)
  local events = {}
  while engine.step(scan) do events[#events + 1] = engine.event(scan) end
  context.events, context.duplicate, context.cached = events, true, false
  context.aggregate = Aggregate.load(self.store, own.tenant, own.definition, own.id,
    { version = version + #events - 1 })
  return context
end

local function knownVersion(self, own)
  if not own.idempotent then return nil end
  local _, version = engine.findCommand(self.store, own.tenant, own.definition.name, own.id, own.commandId)
  return version
end

-- ---- the loop: until it is committed, refused, or has met too many other writers ---

local function pause(attempt)
  if attempt <= PATIENT_AFTER then return end
  engine.sleep(engine.random() * math.min(2 ^ (attempt - PATIENT_AFTER) / 8, 10))
end

local function run(self, context, own)
  local first = knownVersion(self, own)
  if first then return answerDuplicate(self, context, own, first) end
  for attempt = 1, self.attempts do
    pause(attempt)
    local state, cached = acquire(self, context, own)
    if own.expected and cached and state.aggregateVersion ~= own.expected then catchUp(self, own, state) end
    if own.expected and state.aggregateVersion ~= own.expected then error(stale(own, state.aggregateVersion), 0) end
    local ok, problem = decide(context, own, state, cached)
    local outcome, started
    if ok and #own.pushed > 0 then
      outcome, started = commit(self, context, own)
      if outcome == "appended" then
        remember(self, own, state)
        if self.tracer then
          Trace.offer(self.tracer, function()
            return { method = "commitEvents", context = context, events = context.events,
                     elapsed = engine.clock() - started }
          end)
        end
        return context
      elseif outcome == "duplicate" then
        return answerDuplicate(self, context, own, knownVersion(self, own))
      end
    end
    -- Another writer was first, or nothing is to be written: then what was decided holds
    -- only if it was decided on the latest state.
    if outcome or cached then catchUp(self, own, state) end
    local moved = state.aggregateVersion ~= own.base
    if moved and own.expected then error(stale(own, state.aggregateVersion), 0) end
    if not moved and outcome then self.cache:drop(own.key) end -- the file was put back to an older one: load again
    if not moved and not outcome then
      if not ok then error(problem, 0) end
      return context
    end
  end
  error(Err.concurrency(("%s on %s '%s' met other writers in all of %d attempts"):format(
    own.name, own.definition.name, own.id, self.attempts)), 0)
end

--- Runs a command and returns its context; raises where it is refused, and then nothing
--- was written. Without expectedVersion it is decided on the latest version, again when
--- another writer was first; with it a ConcurrencyError says so.
---@param actor tidelog.Actor
---@param name string
---@param payload? table  aggregateId, expectedVersion and commandId are taken out
---@param options? { commandId?: string, correlationId?: string, causationId?: string }
---@return tidelog.Context
function CommandHandler:command(actor, name, payload, options)
  checkReceiver(self, CommandHandler, "ch:command(actor, name, payload)")
  local started = engine.clock()
  local ok, context = pcall(accept, self, actor, name, payload, options)
  local problem
  if ok then
    ok, problem = pcall(run, self, context, Context.own(context))
    Context.finish(context)
  else -- refused before there is a context: the record says what was asked for
    local definition = self.commands[name == nil and "" or name]
    problem, context = context, { actor = actor, command = name, payload = payload,
                                  aggregateType = definition and definition.name }
  end
  if self.tracer then
    Trace.offer(self.tracer, function()
      return { method = "command", context = context, error = Trace.failure(ok, problem),
               elapsed = engine.clock() - started }
    end)
  end
  if not ok then error(problem, 0) end
  return context
end

-- ---- load ---------------------------------------------------------------------------

--- The definition of a handler's aggregate by its name, or by its path with or without the
--- first slash; a second result where another aggregate has that path, too.
---@param self tidelog.CommandHandler
---@param name any
function CommandHandler.lookUp(self, name)
  if self.definitions[name] then return self.definitions[name] end
  local found, other
  for _, definition in pairs(self.definitions) do
    if definition.path == name or definition.path == "/" .. tostring(name) then
      found, other = definition, found
    end
  end
  return found, other
end

local function definitionOf(self, Type)
  if Type == nil then error(Err.missingArgument "aggregateType") end
  if type(Type) == "table" then return Aggregate.define(Type) end
  local definition, other
  if type(Type) == "string" then definition, other = CommandHandler.lookUp(self, Type) end
  if definition and not other then return definition end
  error(Err.invalidArgument("aggregateType", (other
    and "aggregateType %s is the path of several aggregates: give the name instead"
    or "aggregateType %s is neither an aggregate's table nor the name or path of one"):format(Err.show(Type))))
end

local function readLimit(at)
  if at == nil then return nil end
  if type(at) ~= "table" then
    error(Err.invalidArgument("at", "at is a " .. type(at) .. ", not a table with version, position or time"))
  end
  local key, value = next(at)
  if key == nil or next(at, key) ~= nil or (key ~= "version" and key ~= "position" and key ~= "time") then
    error(Err.invalidArgument("at", "at does not have exactly one of version, position and time"))
  end
  if key == "time" then return { time = readTime(value, key) } end
  return { [key] = engine.checkInteger(value, key, key == "version" and -1 or 0) }
end

--- The state of an aggregate, now or at any point in time. One without events (then) is
--- at version −1. The table is the caller's own.
---@param tenant string
---@param Type table|string
---@param id string
---@param at? { version?: integer, position?: integer, time?: string|integer }
---@return table aggregate
function CommandHandler:load(tenant, Type, id, at)
  checkReceiver(self, CommandHandler, "ch:load(tenant, Type, id, at)")
  engine.checkTenant(tenant)
  local definition = definitionOf(self, Type)
  engine.checkName(id, "aggregateId")
  local limit = readLimit(at)
  if limit and limit.position then
    local head = engine.head(self.store, tenant)
    if limit.position >= head then
      error(Err.invalidArgument("position",
        ("position %d is not reached: the next event of %s will be %d"):format(limit.position, tenant, head)))
    end
  end
  local state
  local own = { definition = definition, tenant = tenant, key = tenant .. "\0" .. definition.name .. "\0" .. id }
  local cached = not limit and self.definitions[definition.name] == definition and self.cache:get(own.key)
  if cached then
    catchUp(self, own, cached)
    state = engine.copy(cached)
  else
    state = Aggregate.load(self.store, tenant, definition, id, limit)
  end
  if limit and limit.version and state.aggregateVersion < limit.version then
    error(Err.invalidArgument("version",
      ("version %d is not reached: %s '%s' is at version %d"):format(limit.version, definition.name, id,
        state.aggregateVersion)))
  end
  return state
end

return CommandHandler
