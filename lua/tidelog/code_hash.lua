-- A hash of domain code: of functions with all that they reach through their
-- upvalues, and of tables. Two loads of the same source give the same hash in
-- every process; a change of what the code does gives another one. Comments,
-- names of locals and line numbers do not count.

local Bytecode = require "tidelog.bytecode"
local engine = require "tidelog.engine"

-- Taken now: a sandbox may hide them from domain code later.
local dump, getupvalue, getmetatable = string.dump, debug.getupvalue, debug.getmetatable
local SIZE = 16 -- bytes of the hash

local add -- the walk over a value, below

-- Compares keys of several types, so that each table is walked in one order.
local function before(a, b)
  local ta, tb = type(a), type(b)
  if ta ~= tb then return ta < tb end
  if ta == "boolean" then return not a and b end
  return a < b
end

local function addTable(parts, seen, value, skip)
  local keys = {}
  for key in next, value do
    local kind = type(key)
    if (kind == "string" or kind == "number" or kind == "boolean") and not (skip and skip[key]) then
      keys[#keys + 1] = key
    end
  end
  table.sort(keys, before)
  parts[#parts + 1] = "{"
  for _, key in ipairs(keys) do
    add(parts, seen, key)
    add(parts, seen, rawget(value, key))
  end
  add(parts, seen, getmetatable(value))
  parts[#parts + 1] = "}"
end

-- Functions reach globals by name: the names are among the texts of their code.
local function addGlobals(parts, seen, texts, environment)
  local names = {}
  for name in pairs(texts) do
    local value = rawget(environment, name)
    local kind = type(value)
    if value ~= environment and (kind == "function" or kind == "table") and name ~= "package" and name ~= "_G" then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    parts[#parts + 1] = "global " .. name
    add(parts, seen, environment[name])
  end
end

local function addFunction(parts, seen, value)
  local ok, code = pcall(dump, value, true)
  if not ok then -- a function of C has no code to look at
    parts[#parts + 1] = "C function"
    return
  end
  local texts
  code, texts = Bytecode.read(code)
  parts[#parts + 1] = code
  for i = 1, 255 do
    local name, upvalue = getupvalue(value, i)
    if name == nil then break end
    if type(upvalue) == "table" and (name == "_ENV" or upvalue == _G) then
      addGlobals(parts, seen, texts, upvalue)
    else
      add(parts, seen, upvalue)
    end
  end
end

function add(parts, seen, value, skip)
  local kind = type(value)
  if kind == "table" or kind == "function" then
    if seen[value] then
      parts[#parts + 1] = "seen " .. seen[value]
      return
    end
    seen.count = seen.count + 1
    seen[value] = seen.count
    if kind == "table" then addTable(parts, seen, value, skip)
    else addFunction(parts, seen, value) end
  elseif kind == "number" then
    parts[#parts + 1] = math.type(value) .. string.format(" %.17g", value)
  elseif kind == "string" then
    parts[#parts + 1] = ("%d:"):format(#value) .. value
  else
    parts[#parts + 1] = kind == "boolean" and tostring(value) or kind
  end
end

--- The first 16 bytes of the SHA-256 over a value of domain code.
---@param value any
---@param skip? table<string, boolean> keys at the top that are left out
---@return string
return function(value, skip)
  local parts = {}
  add(parts, { count = 0 }, value, skip)
  return engine.sha256(table.concat(parts, "\0")):sub(1, SIZE)
end
