-- tidelog copy FROM TO: carries tenants over to another store.

local Application = require "tidelog.cli.application"
local Err = require "tidelog.err"
local Progress = require "tidelog.cli.progress"
local copy = require "tidelog.copy"
local engine = require "tidelog.engine"

local Copy = {}

function Copy.configure(parser)
  parser:summary "Copy a tenant, or all, to another store."
  parser:description("Copy a tenant from the store FROM to the store TO, whichever databases they are on: its\n"
    .. "events with their positions, times and hashes, its documents, and how far its threads have\n"
    .. "read. What TO has already must be the beginning of the same history. A copy that was\n"
    .. "stopped, at whatever moment, goes on when it is run again; run it again, too, to carry over\n"
    .. "what has come since. Meanwhile no reader reads FROM (their leases are taken), commands may\n"
    .. "go on there, and nobody may write to TO.\n\n"
    .. "  tidelog copy sqlite:data sqlite:backup\n"
    .. "  tidelog copy sqlite:data sqlite:backup --all")
  parser:argument("from", "The store to copy from: sqlite:FOLDER"):argname "FROM"
  parser:argument("to", "The store to copy to, which is made where it is not there"):argname "TO"
  parser:flag("--all", "All tenants, not only that of --tenant")
end

local function describe(result)
  local parts = {
    ("%s (%s copied)"):format(Application.counted(result.events, "event"),
      Application.thousands(result.copiedEvents)),
    ("%s (%s copied, %s removed)"):format(Application.counted(result.documents, "document"),
      Application.thousands(result.copiedDocuments), Application.thousands(result.removedDocuments)),
    Application.counted(result.threads, "thread"),
  }
  return ("tenant %s is the same in both: %s; head %s"):format(result.tenant, table.concat(parts, ", "),
    result.hash:sub(1, 16))
end

function Copy.run(arguments)
  local from <close> = Application.existingStore(arguments, "from")
  local tenants = arguments.all and from:tenants() or { arguments.tenant }
  if #tenants == 0 then
    error(Err.precondition(("there is no tenant in %s"):format(Application.place(arguments.from))), 0)
  end
  local to <close> = Application.store(arguments, "to")
  local show, clear
  if engine.isTerminal() then show, clear = Progress.new(io.stderr, engine.clock) end
  for _, tenant in ipairs(tenants) do
    local ok, result = pcall(copy, from, to, tenant, { progress = show })
    if clear then clear() end
    if not ok and Err.is(result) and result.argument == "to" then Application.usage("TO: %s", result.message) end
    if not ok then error(result, 0) end
    Application.print(arguments.json and Application.json(result) or describe(result))
  end
  return 0
end

return Copy
