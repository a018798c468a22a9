-- tidelog events: the history as a table, or as JSON, an event a line; and what is appended.

local Application = require "tidelog.cli.application"
local Host = require "tidelog.host"
local engine = require "tidelog.engine"
local textTable = require "tidelog.text_table"

local Events = {}

local PAGE = 1000  -- events that are laid out as one table
local WAIT = 60000 -- ms that the store is asked to wait at once

function Events.configure(parser)
  parser:summary "Show the history."
  parser:description "Show the history as a table, or with --json as JSON, an event a line."
  parser:option("--from", "First position; backwards the last one"):argname "N":convert(Application.count)
  parser:option("--to", "Last position; backwards the first one"):argname "N":convert(Application.count)
  parser:option("--since", "Events at this time (ISO 8601) or later"):argname "TIME":convert(Application.time)
  parser:option("--till", "Events at this time or earlier"):argname "TIME":convert(Application.time)
  parser:option("--type", "Events of this aggregate type"):argname "TYPE"
  parser:option("--id", "Events of the aggregate with this id; quick with --type"):argname "ID"
  parser:option("--name", "Events with this name; may be repeated"):argname "EVENT":count "*"
  parser:option("--limit", "Events at most"):argname "N":convert(Application.count)
  parser:flag("--backwards", "The newest first")
  parser:flag("--follow", "Go on with what is appended, until --limit or an interruption")
end

local COLUMNS = {
  { title = "position", align = "right" }, { title = "time" }, { title = "aggregate" },
  { title = "version", align = "right" }, { title = "event" }, { title = "payload" }, { title = "command" },
  { title = "actor" },
}

-- Prints events as they come: JSON at once, a table page by page.
local function newPrinter(asJson)
  local printer = { shown = 0 }
  local rows, titles = {}, true

  function printer.flush()
    if #rows > 0 then Application.print(textTable(COLUMNS, rows, not titles)) end
    rows = {}
  end

  function printer.add(event)
    printer.shown = printer.shown + 1
    if asJson then
      Application.print(engine.toJson(Host.event(event), 0))
      return
    end
    rows[#rows + 1] = { event.position, event.time, event.aggregateType .. " " .. event.aggregateId,
                        event.aggregateVersion, event.name, Application.json(event.payload), event.command,
                        event.actor.id }
    if #rows == PAGE then printer.flush() end
  end

  -- What comes later has no titles of its own.
  function printer.follow()
    printer.flush()
    Application.flush()
    titles = titles and printer.shown == 0
  end

  return printer
end

local function filterOf(arguments)
  return {
    from = arguments.from, to = arguments.to, since = arguments.since, till = arguments.till,
    aggregateType = arguments.type, aggregateId = arguments.id, limit = arguments.limit,
    name = #arguments.name > 0 and arguments.name or nil, backwards = arguments.backwards,
  }
end

-- Shows what is there, then what is appended, until the limit is reached.
local function follow(store, arguments, printer)
  local filter, limit = filterOf(arguments), arguments.limit or math.maxinteger
  local from = filter.from or 0
  filter.limit = nil
  while printer.shown < limit do
    local head = store:wait(arguments.tenant, from, WAIT)
    if head > from then
      filter.from, filter.to = from, head - 1
      for event in store:events(arguments.tenant, filter) do
        if not arguments.type or event.aggregateType == arguments.type then printer.add(event) end
        if printer.shown >= limit then break end
      end
      printer.follow()
      from = head
      filter.aggregateType = nil -- the few new events are not looked for in the aggregate's whole history
    end
  end
end

function Events.run(arguments)
  local unending = arguments.backwards and "--backwards" or arguments.to and "--to" or arguments.till and "--till"
  if arguments.follow and unending then
    Application.usage("--follow goes on with what comes, so that %s cannot be used with it", unending)
  end
  local store <close> = Application.existingStore(arguments)
  local printer = newPrinter(arguments.json)
  if arguments.follow then
    follow(store, arguments, printer)
    return 0
  end
  for event in store:events(arguments.tenant, filterOf(arguments)) do printer.add(event) end
  printer.flush()
  if printer.shown == 0 and not arguments.json then
    local none = store:head(arguments.tenant) == 0 and "has no events" or "has no such events"
    local place = Application.place(arguments.store)
    io.stderr:write(("tidelog: tenant %s %s in %s\n"):format(arguments.tenant, none, place))
  end
  return 0
end

return Events
