-- The tidelog command: reads the command line and runs one of tidelog.cli.*.
-- Exit status: 0; 1 where a command was refused or a check failed; 2 for wrong usage.

local Err = require "tidelog.err"
local argparse = require "argparse"
local engine = require "tidelog.engine"

-- Each has configure(command parser) and run(arguments) → exit status.
local COMMANDS = { "command", "events", "show", "check", "run" }

local function parserOf()
  local parser = argparse("tidelog", "Tidelog: an event-sourcing engine with domain logic in Lua.",
    "Each option can also be set by an environment variable: TIDELOG_STORE, TIDELOG_TENANT,\n"
    .. "TIDELOG_ACTOR, TIDELOG_ROLE (several: separated by commas), TIDELOG_DOMAIN, TIDELOG_JSON=1.\n"
    .. "Exit status: 0; 1 for a refused command or a failed check; 2 for wrong usage.")
  parser:help_max_width(90)
  parser:command_target "verb"
  parser:require_command(true)
  parser:option("--store", "Where the events are: sqlite:FOLDER or memory:", os.getenv "TIDELOG_STORE" or "sqlite:data")
    :argname "URI"
  parser:option("--tenant", "The tenant", os.getenv "TIDELOG_TENANT" or "default"):argname "T"
  parser:option("--actor", "Who sends commands", os.getenv "TIDELOG_ACTOR" or os.getenv "USER" or "tidelog")
    :argname "ID"
  parser:option("--role", "A role of the actor; may be repeated"):argname "R":count "*"
  parser:option("--domain", "The folder with aggregates/ and handlers/", os.getenv "TIDELOG_DOMAIN" or ".")
    :argname "DIR"
  parser:flag("--json", "Print JSON"):default(os.getenv "TIDELOG_JSON" == "1" or nil)
  parser:flag("--version", "Print the version and exit"):action(function()
    print("tidelog " .. engine.version)
    os.exit(0, true)
  end)
  -- argparse would print the whole usage and exit with its own status
  function parser.error(_, message)
    error(Err.invalidArgument("usage", message .. " (see tidelog --help)"), 0)
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

-- An error is one line on stderr.
local function complain(problem)
  io.stderr:write("tidelog: ", (tostring(problem):gsub("%s*\n%s*", " ")), "\n")
end

---@param given string[] the command line, the command's own name at 0
---@return integer exit status
return function(given)
  local ok, arguments = pcall(function() return parserOf():parse(given) end)
  if not ok then
    complain(Err.is(arguments) and arguments.message or arguments)
    return 2
  end
  arguments.role = rolesOf(arguments)
  local done, status = pcall(require("tidelog.cli." .. arguments.verb).run, arguments)
  if not done then
    complain(status)
    return 1
  end
  return status or 0
end
