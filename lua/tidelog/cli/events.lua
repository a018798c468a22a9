-- tidelog events: the history as a table, or as JSON, an event a line.

local Application = require "tidelog.cli.application"
local Host = require "tidelog.host"
local engine = require "tidelog.engine"
local textTable = require "tidelog.text_table"

local Events = {}

local PAGE = 1000 -- events that are laid out as one table

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
end

local COLUMNS = {
  { title = "position", align = "right" }, { title = "time" }, { title = "aggregate" },
  { title = "version", align = "right" }, { title = "event" }, { title = "payload" }, { title = "command" },
  { title = "actor" },
}

function Events.run(arguments)
  local store <close> = Application.existingStore(arguments)
  local rows, shown = {}, 0
  local function flush()
    if #rows > 0 then Application.print(textTable(COLUMNS, rows)) end
    rows = {}
  end
  for event in store:events(arguments.tenant, {
    from = arguments.from, to = arguments.to, since = arguments.since, till = arguments.till,
    aggregateType = arguments.type, aggregateId = arguments.id, limit = arguments.limit,
    name = #arguments.name > 0 and arguments.name or nil, backwards = arguments.backwards,
  }) do
    shown = shown + 1
    if arguments.json then
      Application.print(engine.toJson(Host.event(event), 0))
    else
      rows[#rows + 1] = { event.position, event.time, event.aggregateType .. " " .. event.aggregateId,
                          event.aggregateVersion, event.name, Application.json(event.payload), event.command,
                          event.actor.id }
      if #rows == PAGE then flush() end
    end
  end
  flush()
  if shown == 0 and not arguments.json then
    local none = store:head(arguments.tenant) == 0 and "has no events" or "has no such events"
    io.stderr:write(("tidelog: tenant %s %s in %s\n"):format(arguments.tenant, none, arguments.store))
  end
  return 0
end

return Events
