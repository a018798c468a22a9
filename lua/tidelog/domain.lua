-- A domain: a folder with aggregates/*.lua and handlers/*.lua.

local Err = require "tidelog.err"
local engine = require "tidelog.engine"

local Domain = {}

local function luaFiles(folder)
  local names, problem = engine.listFolder(folder)
  if not names then return nil, problem end
  local stems = {}
  for _, name in ipairs(names) do
    local stem = name:match "^([%w_%-]+)%.lua$"
    if stem then stems[#stems + 1] = stem end
  end
  table.sort(stems)
  return stems
end

local function loadAll(folder, room, stems)
  local list = {}
  for i, stem in ipairs(stems) do
    local value = require(room .. "." .. stem)
    if type(value) ~= "table" then
      error(Err.invalidArgument("domain", ("%s/%s/%s.lua returns a %s, not a table"):format(
        folder, room, stem, type(value))))
    end
    list[i] = value
  end
  return list
end

--- Loads all aggregates and handlers of a folder; they may require each other as
--- "aggregates.name" and "handlers.name".
---@param folder string
---@return { aggregates: table[], handlers: table[] }
function Domain.load(folder)
  local stems, problem = luaFiles(folder .. "/aggregates")
  if not stems then
    error(Err.invalidArgument("domain", ("domain '%s' has no readable folder aggregates: %s"):format(folder, problem)))
  end
  local here = folder .. "/?.lua;"
  if package.path:sub(1, #here) ~= here then package.path = here .. package.path end
  return {
    aggregates = loadAll(folder, "aggregates", stems),
    handlers = loadAll(folder, "handlers", luaFiles(folder .. "/handlers") or {}),
  }
end

return Domain
