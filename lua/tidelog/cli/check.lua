-- tidelog check: is the tenant's log whole?

local Application = require "tidelog.cli.application"
local Err = require "tidelog.err"

local Check = {}

function Check.configure(parser)
  parser:summary "Check that a tenant's log is whole."
  parser:description("Check a tenant's log: the database's own integrity, positions and versions without a\n"
    .. "gap, and the chain of hashes. Exit status 1 and the first problem where it is not whole,\n"
    .. "and where there is no such log.")
end

function Check.run(arguments)
  local store <close> = Application.existingStore(arguments)
  local result = store:check(arguments.tenant)
  if result.commits == 0 then
    local place = Application.place(arguments.store)
    error(Err.store(("tenant %s has no events in %s"):format(arguments.tenant, place)), 0)
  end
  if arguments.json then
    Application.print(Application.json(result))
  else
    Application.print(("tenant %s is whole: %d commits, %d events"):format(arguments.tenant, result.commits,
      result.events))
  end
  return 0
end

return Check
