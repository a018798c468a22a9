-- The engine as a host application sees it: what tidelog.h's functions call. Values
-- come and go as BSON.

local Actor = require "tidelog.actor"
local CommandHandler = require "tidelog.command_handler"
local Context = require "tidelog.context"
local Documents = require "tidelog.documents"
local Domain = require "tidelog.domain"
local Err = require "tidelog.err"
local History = require "tidelog.history"
local Store = require "tidelog.store"
local StreamReader = require "tidelog.stream_reader"
local engine = require "tidelog.engine"

local Host = {}

---@param options { uri: string, domain: string, busyTimeout?: integer, cacheSize?: integer }
function Host.open(options)
  local domain = Domain.load(options.domain)
  local store = Store.open(options.uri, { busyTimeout = options.busyTimeout })
  return {
    store = store,
    commands = CommandHandler.new(store, domain.aggregates, nil, { cacheSize = options.cacheSize }),
    reader = StreamReader.new(store),
    handlers = domain.handlers,
  }
end

function Host.close(host)
  host.store:close()
end

-- ---- what is told, as BSON ---------------------------------------------------------

-- A payload may be as deep and as large as the engine encodes at all. So it is put into
-- what stands around it as bytes: no command is committed that cannot be answered.
local DOCUMENT, ARRAY = "\3", "\4"

local function joined(entries)
  return string.pack("<i4", #entries + 5) .. entries .. "\0"
end

local function entry(kind, key, bytes)
  return kind .. key .. "\0" .. bytes
end

-- The fields' document with more entries at its end.
local function with(fields, entries)
  return joined(engine.encode(fields, "answer"):sub(5, -2) .. entries)
end

--- What is told about a command that was done.
---@param context tidelog.Context
---@return string
function Host.answer(context)
  local events = {}
  local pushed = not context.duplicate and Context.own(context).pushed or {} -- as they are stored
  for i, event in ipairs(context.events) do
    events[i] = entry(DOCUMENT, tostring(i - 1), with({
      name = event.name, version = event.version, position = event.position, time = event.time,
      aggregateVersion = event.aggregateVersion,
    }, entry(DOCUMENT, "payload", pushed[3 * i] or engine.encode(event.payload, "payload"))))
  end
  return with({
    aggregateType = context.aggregateType, aggregateId = context.aggregateId,
    aggregateVersion = context.aggregate.aggregateVersion, command = context.command,
    commandId = context.commandId, duplicate = context.duplicate,
  }, entry(ARRAY, "events", joined(table.concat(events))))
end

--- An event of the history.
---@return string
function Host.event(event)
  local fields = {}
  for key, value in next, event do fields[key] = value end
  fields.actor, fields.payload = nil, nil
  return with(fields, entry(DOCUMENT, "actor", engine.encode(event.actor, "actor"))
    .. entry(DOCUMENT, "payload", engine.encode(event.payload, "payload")))
end

--- A state as it is shown.
---@return string
function Host.state(definition, state)
  local fields = {}
  for key, value in next, state do fields[key] = value end
  fields.aggregateId, fields.aggregateVersion = nil, nil
  return with({
    aggregateType = definition.name, aggregateId = state.aggregateId, aggregateVersion = state.aggregateVersion,
  }, entry(DOCUMENT, "state", engine.encode(fields, "state", "shown")))
end

-- ---- tidelog.h's functions -----------------------------------------------------------

--- The payload is BSON, or nil. Returns the answer as BSON.
function Host.command(host, actor, name, payload)
  local context = host.commands:command(Actor.new(actor), name, payload and engine.decode(payload))
  return Host.answer(context)
end

--- The definition of the aggregate that is named by its name or its path.
function Host.definition(handler, name)
  local definition, other = CommandHandler.lookUp(handler, name)
  if other then
    error(Err.invalidArgument("aggregate", ("%s is the path of both %s and %s: give the name instead"):format(
      Err.show(name), definition.name, other.name)), 0)
  end
  if definition then return definition end
  local paths = {}
  for _, known in pairs(handler.definitions) do paths[#paths + 1] = known.path:gsub("^/", "") end
  table.sort(paths)
  error(Err.invalidArgument("aggregate", ("%s is the name or path of no aggregate; there are: %s"):format(
    Err.show(name), #paths > 0 and table.concat(paths, ", ") or "none")), 0)
end

function Host.load(host, tenant, name, id, kind, value)
  local definition = Host.definition(host.commands, name)
  local state = host.commands:load(tenant, definition.Type, id, kind and { [kind] = value })
  return Host.state(definition, state)
end

--- Returns a function that gives the next event as BSON or nil, and one that closes.
function Host.read(host, tenant, filter)
  local next, _, _, scan = History.events(host.store, tenant, filter and engine.decode(filter))
  return function()
    local event = next()
    return event and Host.event(event)
  end, function() engine.closeScan(scan) end
end

function Host.poll(host, tenant, thread, limit)
  local more, failures = host.reader:poll(tenant, thread, host.handlers, { limit = limit })
  local first = failures[1]
  local message = first and ("the handler %s failed at position %d (%s): %s"):format(first.handler,
    first.event.position, first.event.name, Err.text(first.error))
  return more, message
end

function Host.document(host, tenant, path)
  local value = Documents.ofStore(host.store, tenant):doc(path):get()
  return value and engine.encode(value, "document")
end

return Host
