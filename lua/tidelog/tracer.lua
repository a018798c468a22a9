-- Where the time goes. The engine calls `tracer:trace(fn)` around what it
-- does; `fn()` makes the record, so a tracer that wants none costs nothing.
-- Whatever is wrong with a record, a tracer raises nothing: it watches
-- commands, and must not be what makes one fail.

local Options = require "tidelog.options"
local text_table = require "tidelog.text_table"

---@class tidelog.TraceRecord
---@field method "command"|"loadAggregate"|"commitEvents"|"pollStream"|"handle"|"commitCursors"
---@field context? tidelog.Context|{ tenant: string, thread: string } a command's, or a poll's
---@field lease? table    with `thread`
---@field documents? "with cursors"|"forward only" a poll's: how they are committed
---@field handler? string its name
---@field event? tidelog.Event
---@field error? any
---@field elapsed number milliseconds

---@class tidelog.Tracer
---@field trace fun(self: tidelog.Tracer, fn: fun(): tidelog.TraceRecord)

---@class tidelog.TraceEntry
---@field time number     milliseconds, all together
---@field count integer
---@field errors? integer how many of them failed, where any did

---@class tidelog.ConsoleTracer: tidelog.Tracer
---@field stats table<string, table<string, table<string, tidelog.TraceEntry>>>
---@field package verbose boolean
---@field package out? file*
local ConsoleTracer = {}
ConsoleTracer.__index = ConsoleTracer
ConsoleTracer.__name = "tidelog.ConsoleTracer"

-- A field of what may be anything.
local function index(value, key) return value[key] end
local function get(value, key)
  if type(value) ~= "table" and type(value) ~= "userdata" then return nil end
  local ok, found = pcall(index, value, key)
  if ok then return found end
end

-- The first of these that can name something.
local function word(...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if type(value) == "string" or math.type(value) then return tostring(value) end
  end
  return "?"
end

local function error_text(err)
  local ok, text = pcall(tostring, err)
  return ok and text or type(err)
end

-- What a record is about: the aggregate's name (or the reader's thread with the
-- tenant), and one key for each event that shares the record's time.
---@return string, string[]
local function subject(record)
  local context, event = get(record, "context"), get(record, "event")
  local command = get(context, "command")

  if event ~= nil then
    return word(get(event, "aggregateType")),
      { word(get(event, "command")) .. "-" .. word(get(event, "name")) }
  elseif context == nil or get(context, "thread") ~= nil then
    local thread = word(get(get(record, "lease"), "thread"), get(context, "thread"))
    return thread, { word(get(context, "tenant"), "-") }
  end

  local aggregate = word(get(context, "aggregateType"), get(get(context, "aggregate"), "name"))
  if record.method ~= "command" and record.method ~= "commitEvents" then
    return aggregate, { word(command) }
  end

  local keys, err = {}, record.error
  if err ~= nil then
    return aggregate, { word(command) .. "-" .. word(get(err, "name"), "error") }
  end
  local events = get(context, "events")
  local pushed = get(events, 1)
  while pushed ~= nil do
    keys[#keys + 1] = word(command) .. "-" .. word(get(pushed, "name"))
    pushed = get(events, #keys + 1)
  end
  if #keys == 0 then keys[1] = word(command) .. "-(no event)" end
  return aggregate, keys
end

local function entry_of(stats, method, aggregate, key)
  local by_method = stats[method] or {}
  local by_aggregate = by_method[aggregate] or {}
  local entry = by_aggregate[key] or { time = 0, count = 0 }
  stats[method], by_method[aggregate], by_aggregate[key] = by_method, by_aggregate, entry
  return entry
end

local function count(self, fn)
  local record = fn()
  if type(record) ~= "table" then return end

  local method, elapsed = word(record.method), tonumber(record.elapsed) or 0
  local aggregate, keys = subject(record)
  for _, key in ipairs(keys) do
    local entry = entry_of(self.stats, method, aggregate, key)
    entry.time = entry.time + elapsed / #keys
    entry.count = entry.count + 1
    if record.error ~= nil then entry.errors = (entry.errors or 0) + 1 end
  end

  if self.verbose then
    local line = ("%s %s %s %.3f ms"):format(method, aggregate, table.concat(keys, ","), elapsed)
    if record.error ~= nil then line = line .. " " .. error_text(record.error) end
    local out = self.out or io.stdout
    out:write((line:gsub("%c+", " ")), "\n")
  end
end

--- Counts the record that `fn` makes.
---@param fn fun(): tidelog.TraceRecord
function ConsoleTracer:trace(fn)
  pcall(count, self, fn)
end

local function sorted_keys(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

local columns = {
  { title = "method" },
  { title = "aggregate" },
  { title = "command-event" },
  { title = "count", align = "right" },
  { title = "errors", align = "right" },
  { title = "total ms", align = "right" },
  { title = "mean µs", align = "right" },
}

---@return string
function ConsoleTracer:__tostring()
  local rows = {}
  for _, method in ipairs(sorted_keys(self.stats)) do
    for _, aggregate in ipairs(sorted_keys(self.stats[method])) do
      local entries = self.stats[method][aggregate]
      for _, key in ipairs(sorted_keys(entries)) do
        local entry = entries[key]
        rows[#rows + 1] = {
          method, aggregate, key, entry.count, entry.errors,
          ("%.3f"):format(entry.time), ("%.1f"):format(entry.time * 1000 / entry.count),
        }
      end
    end
  end
  return text_table(columns, rows)
end

--- Prints the statistics as a table: to `file`, else to the tracer's `out`, else to the standard
--- output.
---@param file? file*
function ConsoleTracer:print(file)
  file = file or self.out or io.stdout
  file:write(tostring(self), "\n")
end

---@class tidelog.ConsoleTracerOptions
---@field verbose? boolean print each record as it comes, in a line; default false
---@field out? file*       where to print; default the standard output

local tracer = {}

local checkOptions = Options { "verbose", "out" }

--- A tracer that keeps `stats[method][aggregateName]["Command-Event"]` and prints them as a table.
--- Commands and commits count once for each of their events, with its share of the time, or once
--- under the name of their error; polls and cursors count under the name of their thread.
---@param options? tidelog.ConsoleTracerOptions
---@return tidelog.ConsoleTracer
function tracer.ConsoleTracer(options)
  options = checkOptions(options)
  local self = { stats = {}, verbose = options.verbose and true or false, out = options.out }
  return setmetatable(self, ConsoleTracer)
end

return tracer
