-- The tidelog command: reads the command line and runs one of tidelog.cli.*.
-- Exit status: 0; 1 where a command was refused or a check failed; 2 for wrong usage.

local Application = require "tidelog.cli.application"
local Err = require "tidelog.err"
local argparse = require "argparse"
local engine = require "tidelog.engine"

-- Each has configure(command parser) and run(arguments) → exit status.
local COMMANDS = { "command", "events", "show", "status", "check", "copy", "mongodb", "run" }

-- An empty variable counts as none.
local function variable(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

local function parserOf()
  local parser = argparse("tidelog", "Tidelog: an event-sourcing engine with domain logic in Lua.",
    "The options can stand before or after the command, except for run, which leaves all that\n"
    .. "follows to its script. Each can also be set by an environment variable: TIDELOG_STORE,\n"
    .. "TIDELOG_TENANT, TIDELOG_ACTOR, TIDELOG_ROLE (several: separated by commas),\n"
    .. "TIDELOG_DOMAIN, TIDELOG_JSON=1.\n"
    .. "Exit status: 0; 1 for a refused command or a failed check; 2 for wrong usage.\n\n"
    .. "  tidelog command PressDigit aggregateId=c1 digit=1\n"
    .. "  tidelog events --backwards --limit 5\n"
    .. "  tidelog show calculators c1 --version 0")
  parser:help_max_width(90)
  parser:command_target "verb"
  parser:require_command(true)
  parser:option("--store", "Where the events are: sqlite:FOLDER, mongodb://…, mongodb+srv://… or memory:",
    variable "TIDELOG_STORE" or "sqlite:data"):argname "URI":show_default(not variable "TIDELOG_STORE")
  parser:option("--tenant", "The tenant", variable "TIDELOG_TENANT" or "default")
    :argname "T":convert(Application.tenant)
  parser:option("--actor", "Who sends commands", variable "TIDELOG_ACTOR" or variable "USER" or "tidelog")
    :argname "ID":convert(Application.actorId)
  parser:option("--role", "A role of the actor; may be repeated"):argname "R":count "*":convert(Application.role)
  parser:option("--domain", "The folder with aggregates/ and handlers/", variable "TIDELOG_DOMAIN" or ".")
    :argname "DIR"
  parser:flag("--json", "Print JSON"):default(variable "TIDELOG_JSON" == "1" or nil)
  parser:flag("--version", "Print the version and exit"):action(function()
    print("tidelog " .. engine.version)
    os.exit(0, true)
  end)
  -- argparse would print the whole usage and exit with its own status
  function parser.error(current, message)
    local name = current:get_usage():match "^Usage: (tidelog ?%l*)"
    Application.usage("%s (see %s --help)", message, (name:gsub(" $", "")))
  end
  for _, name in ipairs(COMMANDS) do
    require("tidelog.cli." .. name).configure(parser:command(name))
  end
  return parser
end

local function rolesOf(arguments)
  if #arguments.role > 0 then return arguments.role end
  local roles = {}
  for role in (os.getenv "TIDELOG_ROLE" or ""):gmatch "[^,%s]+" do roles[#roles + 1] = role end
  return roles
end

local function run(given)
  local arguments = parserOf():parse(given)
  arguments.role = rolesOf(arguments)
  return require("tidelog.cli." .. arguments.verb).run(arguments)
end

---@param given string[] the command line, the command's own name at 0
---@return integer exit status
return function(given)
  local ok, status = pcall(run, given)
  if ok then return status end
  io.stderr:write("tidelog: ", (Err.text(status):gsub("%c+%s*", " ")), "\n") -- an error is one line
  return Application.isUsage(status) and 2 or 1
end
