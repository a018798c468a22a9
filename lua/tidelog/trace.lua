-- Calling a tracer. A tracer only looks on: what it raises is warned about, and
-- never makes a command that was committed look as if it had failed.

local Err = require "tidelog.err"

local Trace = {}

--- Raises where a value is no tracer; nil is fine.
function Trace.check(tracer)
  if tracer ~= nil and (type(tracer) ~= "table" or type(tracer.trace) ~= "function") then
    error(Err.invalidArgument("tracer", "tracer is not a table with a function trace"))
  end
  return tracer
end

--- The `error` of a record: what was raised, or its name where that is nil or false.
---@param ok boolean
---@param problem any
function Trace.failure(ok, problem)
  if ok then return nil end
  return problem or tostring(problem)
end

--- Offers a record to the tracer, which calls `build` only if it wants it.
---@param tracer table
---@param build fun(): table
function Trace.offer(tracer, build)
  local ok, problem = pcall(tracer.trace, tracer, build)
  if not ok then warn("tidelog: the tracer raised an error: ", Err.text(problem)) end
end

return Trace
