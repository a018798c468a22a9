-- tidelog mongodb setup | close-hole: what only a store on MongoDB needs.

local Application = require "tidelog.cli.application"
local engine = require "tidelog.engine"
local instructions = require "tidelog.cli.mongodb_setup"

local MongoDB = {}

function MongoDB.configure(parser)
  parser:summary "Set up a tenant on MongoDB, or mend it."
  parser:description "What only a store on MongoDB needs; docs/mongodb.md tells more."
  parser:command_target "action"
  parser:require_command(true)

  local setup = parser:command "setup"
  setup:summary "Make a tenant's collections and indexes."
  setup:description("Make a tenant's collections, indexes and mark in MongoDB, as its first write does, too.\n"
    .. "With --print nothing is connected to and nothing done: it prints what a team runs by hand,\n"
    .. "the indexes, a role and user with least privileges, Atlas' network and backup settings, and\n"
    .. "where to place tenants on a sharded cluster, as a script for mongosh.\n\n"
    .. "  tidelog --tenant tenant1 mongodb setup --print > setup.js")
  setup:flag("--print", "Only print the script")

  local hole = parser:command "close-hole"
  hole:summary "Let readers go on behind a hole in the order."
  hole:description("Close a hole in a tenant's order: positions that no commit has and a majority of the\n"
    .. "database's members does not know. It should never be: readers stop at one, and this is for\n"
    .. "when its commits are lost for ever. A tombstone takes their place, which the history shows,\n"
    .. "and which refuses a commit that would come late. It cannot be taken back.")
  hole:argument("position", "Where the hole begins, as the error says"):argname "POSITION":convert(Application.count)
  hole:option("--reason", "Why, for the history", "not given"):argname "TEXT"
  hole:flag("--yes", "Do not ask")
end

local function checkStore(arguments)
  if arguments.store:match "^mongodb://" or arguments.store:match "^mongodb%+srv://" then return end
  Application.usage("--store is %s, and this is for mongodb://… or mongodb+srv://…",
    arguments.store:match "^[^:]*:?" or "")
end

local function setup(arguments)
  checkStore(arguments)
  if arguments.print then
    Application.print(instructions(arguments.tenant, arguments.store:match "[?&]tidelogPrefix=([^&]*)" or ""))
    return 0
  end
  local store <close> = Application.store(arguments)
  engine.setup(store, arguments.tenant)
  local about = store:describe(arguments.tenant)
  Application.print(arguments.json and Application.json { tenant = arguments.tenant, database = about.database }
    or ("tenant %s is set up in the database %s on %s"):format(arguments.tenant, about.database, about.server))
  return 0
end

local function isSure(arguments)
  if arguments.yes then return true end
  if not engine.isTerminal() then Application.usage "there is nobody to ask: say --yes" end
  io.stderr:write(("Close the hole at position %d of tenant %s for ever? [y/N] "):format(arguments.position,
    arguments.tenant))
  return (io.read "l" or ""):match "^[yY]" ~= nil
end

local function closeHole(arguments)
  checkStore(arguments)
  if not isSure(arguments) then return 1 end
  local store <close> = Application.store(arguments)
  local events = engine.closeHole(store, arguments.tenant, arguments.position, arguments.actor, arguments.reason)
  Application.print(arguments.json
    and Application.json { tenant = arguments.tenant, position = arguments.position, events = events }
    or ("the hole at position %d of tenant %s is closed: %s lost"):format(arguments.position, arguments.tenant,
      Application.counted(events, "event")))
  return 0
end

function MongoDB.run(arguments)
  return (arguments.action == "setup" and setup or closeHole)(arguments)
end

return MongoDB
