-- tidelog command NAME field=text field:=json … : sends a command.

local Application = require "tidelog.cli.application"
local Err = require "tidelog.err"
local Host = require "tidelog.host"
local engine = require "tidelog.engine"
local textTable = require "tidelog.text_table"

local Command = {}

function Command.configure(parser)
  parser:summary "Send a command."
  parser:description("Send a command. FIELD=TEXT gives a string, FIELD:=JSON any value; aggregateId,\n"
    .. "expectedVersion and commandId are fields, too:\n\n"
    .. "  tidelog command PressDigit aggregateId=c1 digit=1\n"
    .. "  tidelog command AddNumbers aggregateId=a1 number1:=1 number2:=2 expectedVersion:=0")
  parser:argument("name", "The command's name"):argname "NAME"
  parser:argument("field", "The payload: FIELD=TEXT or FIELD:=JSON"):argname "FIELD":args "*"
end

local function readFields(fields)
  local payload = {}
  for _, field in ipairs(fields) do
    local key, colon, value = field:match "^([^=]-)(:?)=(.*)$"
    if not key or key == "" then
      Application.usage("'%s' is neither FIELD=TEXT nor FIELD:=JSON (see tidelog command --help)", field)
    end
    if payload[key] ~= nil then Application.usage("the field %s is given twice", key) end
    if colon == ":" then
      local ok, read = pcall(engine.fromJson, value)
      if not ok then Application.usage("%s: %s", key, read.message or tostring(read)) end
      value = read
    end
    payload[key] = value
  end
  if type(payload.expectedVersion) == "string" then
    Application.usage("expectedVersion is a number: expectedVersion:=%s", payload.expectedVersion)
  end
  return payload
end

-- The aggregate whose command it is.
local function definitionOf(handler, name, domain)
  local definition = handler.commands[name]
  if definition then return definition end
  local known = {}
  for command in pairs(handler.commands) do known[#known + 1] = command end
  table.sort(known)
  error(Err.invalidArgument("command", ("the domain '%s' has no command %s; there are: %s"):format(
    domain, Err.show(name), #known > 0 and table.concat(known, ", ") or "none")), 0)
end

local COLUMNS = {
  { title = "position", align = "right" }, { title = "version", align = "right" }, { title = "event" },
  { title = "payload" },
}

local function printContext(context, definition)
  local rows = {}
  for i, event in ipairs(context.events) do
    rows[i] = { event.position, event.aggregateVersion, event.name, Application.json(event.payload) }
  end
  local note = context.duplicate and " (this commandId was known: nothing was written)"
    or #rows == 0 and " (the command led to no event: nothing was written)" or ""
  Application.print(("%s %s is at version %d%s"):format(definition.name, context.aggregateId,
    context.aggregate.aggregateVersion, note))
  if #rows > 0 then Application.print(textTable(COLUMNS, rows)) end
end

function Command.run(arguments)
  local payload = readFields(arguments.field)
  local _ <close>, handler = Application.open(arguments, Application.store)
  local definition = definitionOf(handler, arguments.name, arguments.domain)
  local context = handler:command(Application.actor(arguments), arguments.name, payload)
  if arguments.json then
    Application.print(engine.toJson(Host.answer(context), 0))
  else
    printContext(context, definition)
  end
  return 0
end

return Command
