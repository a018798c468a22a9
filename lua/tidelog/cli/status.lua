-- tidelog status: what the store is, how long a tenant's log, and how far who has read it.

local Application = require "tidelog.cli.application"
local engine = require "tidelog.engine"
local textTable = require "tidelog.text_table"

local Status = {}

function Status.configure(parser)
  parser:summary "Show what the store is, and how far its readers are."
  parser:description("Show what the store is, where the tenant's log ends, and for each thread who reads it and\n"
    .. "how far its handlers are behind.")
end

-- Every handler of every thread, and a thread without one by itself.
local function rowsOf(threads, head)
  local rows = {}
  for _, thread in ipairs(threads) do
    local names = {}
    for name in pairs(thread.cursors) do names[#names + 1] = name end
    table.sort(names)
    for i = 1, math.max(1, #names) do
      local cursor = names[i] and thread.cursors[names[i]].position
      rows[#rows + 1] = {
        i == 1 and thread.name or nil, i == 1 and (thread.owner or "nobody") or nil, i == 1 and thread.expires or nil,
        names[i], cursor, cursor and head - cursor,
      }
    end
  end
  return rows
end

local COLUMNS = {
  { title = "thread" }, { title = "leased by" }, { title = "until" }, { title = "handler" },
  { title = "next", align = "right" }, { title = "behind", align = "right" },
}

local ORDER = { "store", "place", "server", "documents", "news" }

-- Field by field: those that every store has, then its own.
local function printStore(about)
  local rows, known = {}, {}
  for _, key in ipairs(ORDER) do
    rows[#rows + 1], known[key] = { key, Application.text(about[key]) }, true
  end
  local more = {}
  for key in pairs(about) do
    if not known[key] then more[#more + 1] = key end
  end
  table.sort(more)
  for _, key in ipairs(more) do rows[#rows + 1] = { key, Application.text(about[key]) } end
  Application.print(textTable({ { title = "field" }, { title = "value" } }, rows, true))
end

local function print(status)
  printStore(status.store)
  local last = status.time and (", the last one at " .. status.time) or ""
  Application.print(("\ntenant %s: %s%s"):format(status.tenant, Application.counted(status.events, "event"), last))
  if #status.threads == 0 then return end
  Application.print("\n" .. textTable(COLUMNS, rowsOf(status.threads, status.events)))
end

-- With what is computed for people, too: how far each handler is behind.
local function json(status)
  for _, thread in ipairs(status.threads) do
    for _, cursor in pairs(thread.cursors) do cursor.behind = status.events - cursor.position end
  end
  status.threads = engine.array(status.threads)
  return Application.json(status)
end

function Status.run(arguments)
  local store <close> = Application.existingStore(arguments)
  local tenant = arguments.tenant
  local threads = store:threads(tenant) -- before the head, so that none is beyond it
  local events, time = engine.head(store, tenant)
  local status = { tenant = tenant, store = store:describe(tenant), events = events, threads = threads,
                   time = events > 0 and engine.formatTime(time) or nil }
  if arguments.json then Application.print(json(status)) else print(status) end
  return 0
end

return Status
