-- tidelog show PATH ID: the state of an aggregate, now or at any point in time.

local Application = require "tidelog.cli.application"
local Err = require "tidelog.err"
local Host = require "tidelog.host"
local engine = require "tidelog.engine"
local textTable = require "tidelog.text_table"

local Show = {}

function Show.configure(parser)
  parser:summary "Show the state of an aggregate, at any point in time."
  parser:argument("path", "The aggregate's path, for example calculators"):argname "PATH"
  parser:argument("id", "The aggregate's id"):argname "ID"
  parser:mutex(
    parser:option("--version", "As it was at this version"):target "at_version":argname "N"
      :convert(Application.count),
    parser:option("--at", "As it was at this time (ISO 8601)"):argname "TIME":convert(Application.time),
    parser:option("--position", "As it was when this position was the last"):argname "N":convert(Application.count))
end

local function limitOf(arguments)
  if arguments.at_version then return { version = arguments.at_version } end
  if arguments.at then return { time = arguments.at } end
  if arguments.position then return { position = arguments.position } end
  return nil
end

function Show.run(arguments)
  local _ <close>, handler = Application.open(arguments, Application.existingStore)
  local definition = Host.definition(handler, arguments.path)
  local state = handler:load(arguments.tenant, definition.Type, arguments.id, limitOf(arguments))
  if state.aggregateVersion < 0 then
    error(Err.invalidArgument("id", ("%s %s of tenant %s has no events%s"):format(definition.name,
      Err.show(arguments.id), arguments.tenant, limitOf(arguments) and " then" or "")), 0)
  end
  if arguments.json then
    Application.print(engine.toJson(Host.state(definition, state), 0))
    return 0
  end
  Application.print(("%s %s at version %d"):format(definition.name, arguments.id, state.aggregateVersion))
  local rows = {}
  for key, value in next, state do
    if key ~= "aggregateId" and key ~= "aggregateVersion" then
      rows[#rows + 1] = { tostring(key), Application.text(value) }
    end
  end
  table.sort(rows, function(a, b) return a[1] < b[1] end)
  Application.print(textTable({ { title = "field" }, { title = "value" } }, rows))
  return 0
end

return Show
