-- What a Lua function does, as bytes: its bytecode without line numbers, and the texts
-- that it has as constants. Reads what string.dump(f, true) writes in Lua 5.4 (ldump.c).

local Bytecode = {}

local HEADER = 31 -- bytes: signature, version, format, data, sizes, an integer, a float

-- A number in groups of 7 bits, the last of them marked. Returns it and the next place.
local function number(code, at)
  local value = 0
  while true do
    local byte = code:byte(at)
    value, at = value << 7 | byte & 0x7f, at + 1
    if byte & 0x80 ~= 0 then return value, at end
  end
end

-- A text after its size + 1; none where that is 0.
local function text(code, at)
  local size
  size, at = number(code, at)
  if size == 0 then return nil, at end
  return code:sub(at, at + size - 2), at + size - 1
end

local function constants(code, at, texts)
  local count
  count, at = number(code, at)
  for _ = 1, count do
    local tag = code:byte(at)
    at = at + 1
    if tag == 0x04 or tag == 0x14 then -- short and long strings
      local value
      value, at = text(code, at)
      texts[value] = true
    elseif tag == 0x03 or tag == 0x13 then -- integer, float
      at = at + 8
    end -- nil and booleans have no more bytes
  end
  return at
end

local function skipDebug(code, at)
  local count
  count, at = number(code, at) -- line numbers, relative: a byte each
  at = at + count
  count, at = number(code, at) -- absolute line numbers
  for _ = 1, 2 * count do _, at = number(code, at) end
  count, at = number(code, at) -- local variables
  for _ = 1, count do
    _, at = text(code, at)
    _, at = number(code, at)
    _, at = number(code, at)
  end
  count, at = number(code, at) -- names of upvalues
  for _ = 1, count do _, at = text(code, at) end
  return at
end

-- One function, with the ones inside it; its parts without the lines it is defined at.
local function prototype(code, at, parts, texts)
  local count, _
  _, at = text(code, at) -- the source's name
  _, at = number(code, at) -- its first line
  _, at = number(code, at) -- its last line
  local begin = at
  count, at = number(code, at + 3) -- behind parameters, varargs, stack size: instructions
  at = constants(code, at + 4 * count, texts)
  count, at = number(code, at) -- upvalues
  at = at + 3 * count
  count, at = number(code, at) -- functions inside
  parts[#parts + 1] = code:sub(begin, at - 1)
  for _ = 1, count do at = prototype(code, at, parts, texts) end
  return skipDebug(code, at)
end

--- The code of a stripped dump without its line numbers, and the set of the texts in it.
---@param dump string
---@return string code
---@return table<string, boolean> texts
function Bytecode.read(dump)
  local parts, texts = {}, {}
  local ok, last = pcall(prototype, dump, HEADER + 2, parts, texts)
  -- Another layout than the one known here: take all of it, line numbers and all.
  if not ok or last ~= #dump + 1 then return dump, texts end
  return table.concat(parts), texts
end

return Bytecode
