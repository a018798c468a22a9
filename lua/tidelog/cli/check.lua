-- tidelog check: is the tenant's log whole?

local Application = require "tidelog.cli.application"

local Check = {}

function Check.configure(parser)
  parser:summary "Check that a tenant's log is whole."
  parser:description("Check a tenant's log: the database's own integrity, positions and versions without a\n"
    .. "gap, and the chain of hashes. Exit status 1 and the first problem where it is not whole.")
end

function Check.run(arguments)
  local store <close> = Application.store(arguments)
  local result = store:check(arguments.tenant)
  if arguments.json then
    print(Application.json(result))
  else
    print(("tenant %s is whole: %d commits, %d events"):format(arguments.tenant, result.commits, result.events))
  end
  return 0
end

return Check
