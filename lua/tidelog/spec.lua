-- Given, when, then: tests of domain logic, for busted or any other runner. What does not
-- hold raises an error that says what was expected and what was there.
--
--   spec(Calculator)
--     :given("DigitPressed", { digit = "1" })
--     :given("OperatorPressed", { operator = "+" })
--     :when("PressEquals")
--     :fails("PreconditionError", "missing right side")

local Actor = require "tidelog.actor"
local Aggregate = require "tidelog.aggregate"
local CommandHandler = require "tidelog.command_handler"
local Err = require "tidelog.err"
local Store = require "tidelog.store"
local checkReceiver = require "tidelog.receiver"
local engine = require "tidelog.engine"

local TENANT, ID = "spec", "1"

---@class tidelog.Spec
local Spec = {}
Spec.__index = Spec
Spec.__name = "tidelog.Spec"

-- Equal values are equal bytes, 1 and 1.0 are not.
local function bytes(value)
  return engine.encode({ value = value }, "value", "shown")
end

local function show(value)
  return (engine.toJson(bytes(value)):match '^{"value":(.*)}$') or "nil"
end

local function fail(message, ...)
  error(message:format(...), 0)
end

--- Something that has happened: an event in the aggregate's history.
---@param name string
---@param payload? table   default {}
---@param version? integer of the payload's schema, default 0
---@return tidelog.Spec
function Spec:given(name, payload, version)
  checkReceiver(self, Spec, "spec(Type):given(name, payload)")
  version = Aggregate.checkEvent(self.definition, name, version)
  local none, encoded = engine.encode({}, "payload"), engine.encode(payload or {}, "payload of " .. name)
  local body = engine.body("(given)", none, { name, version, encoded }, Actor.check(self.actor).bytes,
    self.definition.code, engine.id(), engine.id(), nil, false, nil, nil)
  engine.append(self.store, TENANT, self.definition.name, ID, self.count, 1, body)
  self.count = self.count + 1
  return self
end

--- Who sends the command; by default somebody without roles.
---@param roles string[]
---@return tidelog.Spec
function Spec:by(roles)
  checkReceiver(self, Spec, "spec(Type):by(roles)")
  self.actor = Actor.new { id = "spec", tenant = TENANT, roles = roles }
  return self
end

--- The command.
---@param command string
---@param payload? table
---@return tidelog.Spec
function Spec:when(command, payload)
  checkReceiver(self, Spec, "spec(Type):when(command, payload)")
  engine.checkName(command, "command")
  if payload ~= nil and type(payload) ~= "table" then
    error(Err.invalidArgument("payload", "payload is a " .. type(payload) .. ", not a table"))
  end
  local sent = {}
  for key, value in pairs(payload or {}) do sent[key] = value end
  sent.aggregateId = ID
  self.command = command
  local ok, result = pcall(self.handler.command, self.handler, self.actor, command, sent)
  self.context, self.problem = ok and result or nil, not ok and { result } or nil
  return self
end

local function needDone(self, call)
  checkReceiver(self, Spec, call)
  if not self.command then fail("when(command) comes before what is expected of it") end
  if self.problem then fail("%s failed: %s", self.command, Err.text(self.problem[1])) end
end

--- Exactly these events, in order: a name, or { name, payload }.
---@param ... string|table
---@return tidelog.Spec
function Spec:pushes(...)
  needDone(self, "spec(Type):pushes(...)")
  local expected, events = { ... }, self.context.events
  for i = 1, math.max(#expected, #events) do
    local want, event = expected[i], events[i]
    if type(want) == "string" then want = { want } end
    if want ~= nil and (type(want) ~= "table" or type(want[1]) ~= "string") then
      error(Err.invalidArgument("event", ("event %d to expect is neither a name nor { name, payload }"):format(i)))
    end
    if not want then fail("%s pushed one event more: %s %s", self.command, event.name, show(event.payload)) end
    if not event then fail("%s did not push event %d: %s", self.command, i, want[1]) end
    if event.name ~= want[1] then
      fail("event %d of %s is %s, not %s", i, self.command, event.name, want[1])
    end
    if want[2] ~= nil and bytes(event.payload) ~= bytes(want[2]) then
      fail("event %d of %s, %s, has the payload %s, not %s", i, self.command, event.name, show(event.payload),
        show(want[2]))
    end
  end
  return self
end

--- These fields of the state afterwards; tidelog.null stands for one that is absent.
---@param fields table
---@return tidelog.Spec
function Spec:state(fields)
  needDone(self, "spec(Type):state(fields)")
  if type(fields) ~= "table" then
    error(Err.invalidArgument("fields", "fields is a " .. type(fields) .. ", not a table"))
  end
  local state = self.handler:load(TENANT, self.definition.Type, ID)
  for name, want in pairs(fields) do
    local value = state[name]
    if value == nil then value = engine.null end
    if bytes(value) ~= bytes(want) then
      fail("%s is %s after %s, not %s", name, show(value), self.command, show(want))
    end
  end
  return self
end

--- The command is refused with an error of this name and, where it is given, message;
--- or with an error of the domain's own, whose text has the given one in it.
---@param name string
---@param message? string
---@return tidelog.Spec
function Spec:fails(name, message)
  checkReceiver(self, Spec, "spec(Type):fails(name, message)")
  if name == nil then error(Err.missingArgument "name") end
  if type(name) ~= "string" then
    error(Err.invalidArgument("name", "name is a " .. type(name) .. ", not a string"))
  end
  if not self.command then fail("when(command) comes before what is expected of it") end
  if not self.problem then fail("%s did not fail", self.command) end
  local problem = self.problem[1]
  if Err.is(problem) then
    if problem.name ~= name or message ~= nil and problem.message ~= message then
      fail("%s failed with %s, not with %s%s", self.command, Err.text(problem), name,
        message and ": " .. message or "")
    end
  elseif not Err.text(problem):find(message or name, 1, true) then
    fail("%s failed with %s, not with %s", self.command, Err.text(problem), message or name)
  end
  return self
end

--- Begins a test of an aggregate, in a memory of its own.
---@param Type table
---@return tidelog.Spec
return function(Type)
  local store = Store.open "memory:"
  return setmetatable({
    store = store, handler = CommandHandler.new(store, { Type }, nil, { cacheSize = 0 }),
    definition = Aggregate.define(Type), count = 0,
    actor = Actor.new { id = "spec", tenant = TENANT, roles = {} },
  }, Spec)
end
