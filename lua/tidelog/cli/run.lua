-- tidelog run SCRIPT: runs a Lua script that can require "tidelog".

local Domain = require "tidelog.domain"
local Err = require "tidelog.err"

local Run = {}

function Run.configure(parser)
  parser:summary "Run a Lua script that can require \"tidelog\"."
  parser:description("Run a Lua 5.4 script that can require \"tidelog\" and the domain's modules, for example\n"
    .. "\"aggregates.adder\". All that stands behind it is the script's own.")
  parser:argument("script", "The script's file"):argname "SCRIPT":action(function(arguments, name, script)
    if script == "--help" or script == "-h" then -- the script's own options are not read
      print(parser:get_help())
      os.exit(0, true)
    end
    arguments[name] = script
  end)
  parser:argument("rest", "Its arguments, in ... and the global table arg"):argname "ARGUMENT":args "*"
  parser:handle_options(false)
end

-- What a script raised; text gets the way that led to it, without what lies below the script.
local function describe(raised)
  if type(raised) ~= "string" then return Err.text(raised) end
  return (debug.traceback(raised, 2):gsub("\n\t%[C%]: in function 'xpcall'.*", ""))
end

function Run.run(arguments)
  Domain.search(arguments.domain)
  local chunk, problem = loadfile(arguments.script)
  if not chunk then error(problem, 0) end
  _G.arg = { [0] = arguments.script, table.unpack(arguments.rest) }
  local ok, raised = xpcall(chunk, describe, table.unpack(arguments.rest))
  if ok then return 0 end
  io.stderr:write("tidelog: ", raised, "\n")
  return 1
end

return Run
