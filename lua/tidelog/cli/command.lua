-- tidelog command NAME field=text field:=json … : sends a command.

local Application = require "tidelog.cli.application"
local Err = require "tidelog.err"
local Host = require "tidelog.host"
local engine = require "tidelog.engine"

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

local function usage(message)
  error(Err.invalidArgument("field", message), 0)
end

local function readFields(fields)
  local payload = {}
  for _, field in ipairs(fields) do
    local key, colon, value = field:match "^([^=]-)(:?)=(.*)$"
    if not key or key == "" then
      usage(("'%s' is neither FIELD=TEXT nor FIELD:=JSON"):format(field))
    end
    if payload[key] ~= nil then usage(("the field %s is given twice"):format(key)) end
    if colon == ":" then
      local ok, read = pcall(engine.fromJson, value)
      if not ok then usage(("%s: %s"):format(key, read.message or tostring(read))) end
      value = read
    end
    payload[key] = value
  end
  return payload
end

local function printContext(context, definition)
  local state = context.aggregate
  print(("%s %s is at version %d%s"):format(definition.name, context.aggregateId, state.aggregateVersion,
    context.duplicate and " (the command was known: nothing was written)" or ""))
  for _, event in ipairs(context.events) do
    print(("  %d  %s  %s"):format(event.position, event.name, Application.text(event.payload)))
  end
end

function Command.run(arguments)
  local ok, payload = pcall(readFields, arguments.field)
  if not ok then
    io.stderr:write("tidelog: ", payload.message or tostring(payload), "\n")
    return 2
  end
  local _ <close>, handler = Application.open(arguments)
  local context = handler:command(Application.actor(arguments), arguments.name, payload)
  if arguments.json then print(Application.json(Host.answer(context)))
  else printContext(context, handler.definitions[context.aggregateType]) end
  return 0
end

return Command
