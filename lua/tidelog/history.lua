-- A tenant's history as an iterator of events.

local Err = require "tidelog.err"
local Options = require "tidelog.options"
local engine = require "tidelog.engine"
local readTime = require "tidelog.time"

local History = {}

---@class tidelog.EventFilter
---@field from? integer                first position (backwards: the last one), default the log's end of that side
---@field to? integer                  last position (backwards: the first one), default the other end
---@field since? string|integer        events at this time or later
---@field till? string|integer         events at this time or earlier
---@field aggregateType? string|table  a name, or the aggregate's table
---@field aggregateId? string          with aggregateType it is read by itself, else found in the whole log
---@field name? string|string[]        event names
---@field backwards? boolean
---@field limit? integer               events at most

local checkFilter = Options(
  { "from", "to", "since", "till", "aggregateType", "aggregateId", "name", "backwards", "limit" }, "filter")

local function fail(argument, message, ...)
  error(Err.invalidArgument(argument, message:format(...)))
end

local function readNames(value)
  if value == nil then return nil end
  if type(value) == "string" then return { [value] = true } end
  if type(value) ~= "table" then fail("name", "name is a %s, neither a string nor a list of them", type(value)) end
  local set = {}
  for i, name in ipairs(value) do
    if type(name) ~= "string" then fail("name", "name[%d] is not a string", i) end
    set[name] = true
  end
  return set
end

local function readFilter(filter)
  filter = checkFilter(filter)
  local kind = filter.aggregateType
  if type(kind) == "table" then kind = kind.name end
  if filter.aggregateType ~= nil then engine.checkName(kind, "aggregateType") end
  if filter.aggregateId ~= nil then engine.checkName(filter.aggregateId, "aggregateId") end
  local function position(field, low)
    return filter[field] ~= nil and engine.checkInteger(filter[field], field, low) or nil
  end
  local function time(field)
    return filter[field] ~= nil and readTime(filter[field], field) or nil
  end
  return {
    from = position("from", 0), to = position("to", 0), limit = position("limit", 0),
    since = time "since", till = time "till",
    kind = kind, id = filter.aggregateId, names = readNames(filter.name),
    backwards = filter.backwards and true or false,
  }
end

--- An iterator over events, for a generic for.
---@param store tidelog.Store
---@param tenant string
---@param filter? tidelog.EventFilter
function History.events(store, tenant, filter)
  local f = readFilter(filter)
  local backwards, left = f.backwards, f.limit or math.maxinteger
  local from = f.from
  -- By aggregate the store reads from a version; positions are compared here. An id without
  -- a type may be that of several aggregates: then the whole log is read.
  local single = f.id and f.kind
  if single or not from then from = backwards and math.maxinteger or 0 end
  local scan = engine.scan(store, tenant, single and f.kind, single and f.id, from, backwards)
  local first, last = f.from, f.to -- in the direction of reading

  local function wanted(position, name, time)
    if first and (backwards and position > first or not backwards and position < first) then return false end
    if f.since and time < f.since or f.till and time > f.till then return false end
    return not f.names or f.names[name]
  end

  local function passed(position, time)
    if last and (backwards and position < last or not backwards and position > last) then return true end
    return backwards and f.since and time < f.since or not backwards and f.till and time > f.till
  end

  local function next()
    if not scan then return nil end
    while left > 0 do
      local position, name, time = engine.step(scan)
      if not position or passed(position, time) then break end
      if wanted(position, name, time) then
        local event = engine.event(scan)
        if (not f.kind or event.aggregateType == f.kind) and (not f.id or event.aggregateId == f.id) then
          left = left - 1
          return event
        end
      end
    end
    engine.closeScan(scan)
    scan = nil
    return nil
  end
  return next, nil, nil, scan
end

return History
