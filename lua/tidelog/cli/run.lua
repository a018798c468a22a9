-- tidelog run SCRIPT: runs a Lua script that can require "tidelog".

local Run = {}

function Run.configure(parser)
  parser:summary "Run a Lua script that can require \"tidelog\"."
  parser:argument("script", "The script's file"):argname "SCRIPT"
  parser:argument("rest", "Its arguments, in the global table arg"):argname "ARGUMENT":args "*"
  parser:handle_options(false)
end

function Run.run(arguments)
  local here = arguments.domain .. "/?.lua;"
  package.path = here .. package.path
  local chunk, problem = loadfile(arguments.script)
  if not chunk then
    io.stderr:write("tidelog: ", problem, "\n")
    return 1
  end
  _G.arg = { [0] = arguments.script, table.unpack(arguments.rest) }
  local ok, raised = xpcall(chunk, function(value)
    if type(value) == "string" then return debug.traceback(value, 2) end
    return value
  end, table.unpack(arguments.rest))
  if not ok then
    io.stderr:write("tidelog: ", tostring(raised), "\n")
    return 1
  end
  return 0
end

return Run
