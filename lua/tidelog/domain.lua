-- A domain: a folder with aggregates/*.lua and handlers/*.lua.

local Err = require "tidelog.err"
local engine = require "tidelog.engine"

local Domain = {}

local ENOENT = 2

local searched = {} -- folders that `require` looks into

--- Lets `require` find the folder's files: "aggregates.adder" is aggregates/adder.lua. By a
--- searcher, since a folder's name may have what means something in package.path.
---@param folder string
function Domain.search(folder)
  if searched[folder] then return end
  searched[folder] = true
  table.insert(package.searchers, 2, function(module)
    local path = folder .. "/" .. module:gsub("%.", "/") .. ".lua"
    local file = io.open(path)
    if not file then return ("no file '%s'"):format(path) end
    file:close()
    local chunk, problem = loadfile(path)
    if not chunk then error(problem, 0) end
    return chunk, path
  end)
end

local function luaFiles(folder, room)
  local path = folder .. "/" .. room
  local names, problem = engine.listFolder(path)
  if not names then return nil, problem end
  local stems = {}
  for _, name in ipairs(names) do
    local stem = name:match "^([^.].*)%.lua$"
    if stem and stem:find(".", 1, true) then
      error(Err.invalidArgument("domain", ("%s/%s: a module's name has no dots"):format(path, name)))
    end
    stems[#stems + 1] = stem
  end
  table.sort(stems)
  return stems
end

local function loadAll(folder, room, stems)
  local list = {}
  for i, stem in ipairs(stems) do
    list[i] = require(room .. "." .. stem)
    if type(list[i]) ~= "table" then
      error(Err.invalidArgument("domain", ("%s/%s/%s.lua does not return a table"):format(folder, room, stem)))
    end
  end
  return list
end

-- Handlers may be absent, but not be there and be passed over.
local function handlerFiles(folder)
  local stems, problem = luaFiles(folder, "handlers")
  if stems then return stems end
  local path = folder .. "/handlers"
  local _, _, code = io.open(path)
  if code == ENOENT then return {} end
  error(Err.invalidArgument("domain", ("%s cannot be read: %s"):format(path, problem)))
end

--- Loads all aggregates and handlers of a folder; they may require each other as
--- "aggregates.name" and "handlers.name".
---@param folder string
---@return { aggregates: table[], handlers: table[] }
function Domain.load(folder)
  if folder == "" then error(Err.invalidArgument("domain", "the domain's folder has an empty name")) end
  local stems, problem = luaFiles(folder, "aggregates")
  if not stems then
    error(Err.invalidArgument("domain", ("domain '%s' has no readable folder aggregates: %s"):format(folder, problem)))
  end
  Domain.search(folder)
  return {
    aggregates = loadAll(folder, "aggregates", stems),
    handlers = loadAll(folder, "handlers", handlerFiles(folder)),
  }
end

return Domain
