-- The engine as a host application sees it: what tidelog.h's functions call. Values
-- come and go as BSON.

local Actor = require "tidelog.actor"
local CommandHandler = require "tidelog.command_handler"
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

--- What is told about a command that was done.
---@param context tidelog.Context
function Host.answer(context)
  local events = engine.array {}
  for i, event in ipairs(context.events) do
    events[i] = { name = event.name, version = event.version, payload = event.payload, position = event.position,
                  time = event.time, aggregateVersion = event.aggregateVersion }
  end
  return {
    aggregateType = context.aggregateType, aggregateId = context.aggregateId,
    aggregateVersion = context.aggregate.aggregateVersion, command = context.command,
    commandId = context.commandId, duplicate = context.duplicate, events = events,
  }
end

--- The payload is BSON, or nil. Returns the answer as BSON.
function Host.command(host, actor, name, payload)
  local context = host.commands:command(Actor.new(actor), name, payload and engine.decode(payload))
  return engine.encode(Host.answer(context), "answer")
end

--- The definition of the aggregate that is named by its name or its path, with or without
--- the first slash.
function Host.definition(handler, name)
  local paths = {}
  for _, definition in pairs(handler.definitions) do
    if definition.name == name or definition.path == name or definition.path == "/" .. name then
      return definition
    end
    paths[#paths + 1] = definition.path:sub(2)
  end
  table.sort(paths)
  error(Err.invalidArgument("aggregate", ("%s is the name or path of no aggregate; there are: %s"):format(
    Err.show(name), table.concat(paths, ", "))), 0)
end

--- A state as the table that is shown.
function Host.describe(definition, state)
  local fields = {}
  for key, value in next, state do fields[key] = value end
  fields.aggregateId, fields.aggregateVersion = nil, nil
  return { aggregateType = definition.name, aggregateId = state.aggregateId,
           aggregateVersion = state.aggregateVersion, state = fields }
end

function Host.load(host, tenant, name, id, kind, value)
  local definition = Host.definition(host.commands, name)
  local state = host.commands:load(tenant, definition.Type, id, kind and { [kind] = value })
  return engine.encode(Host.describe(definition, state), "state", "shown")
end

--- Returns a function that gives the next event as BSON or nil, and one that closes.
function Host.read(host, tenant, filter)
  local next, _, _, scan = History.events(host.store, tenant, filter and engine.decode(filter))
  return function()
    local event = next()
    return event and engine.encode(event, "event")
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
