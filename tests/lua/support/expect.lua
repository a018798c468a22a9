-- What specs of the public surface expect, beyond luassert.

local Err = require "tidelog.err"
local assert = require "luassert"

local expect = {}

--- Calls fn(...), which must raise the error of this name about this argument or method
--- (nil: whichever), with a readable message. Returns the error.
function expect.error(name, about, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok, "nothing was raised, where " .. name .. " was expected")
  assert.is_true(Err.is(err, name), ("%s was expected, not %s"):format(name, tostring(err)))
  expect.readable(err)
  if about ~= nil then assert.equal(about, err.argument or err.method) end
  return err
end

local known = {}
for name in ([[InvalidArgumentError MissingArgumentError NotImplementedError ConcurrencyError
  PreconditionError AccessDeniedError LimitError StoreError]]):gmatch "%a+" do
  known[name] = true
end

--- An error of ours: with a known name, and a message that a person can read in one line.
function expect.readable(err)
  assert.is_true(Err.is(err), "an error of ours was expected, not " .. tostring(err))
  assert.is_true(known[err.name] or false, "the name is " .. tostring(err.name))
  assert.equal("string", type(err.message))
  assert.is_true(#err.message > 0 and #err.message < 1000, "message of " .. #err.message .. " bytes")
  assert.is_nil(tostring(err):find "%c")
  assert.equal(err.name .. ": ", tostring(err):sub(1, #err.name + 2))
end

-- Integers are not floats, −0.0 is not 0.0, arrays are not documents.
local function exact(value, engine)
  if math.type(value) == "float" then
    if value ~= value then return "float NaN" end
    return ("float %016x"):format((string.unpack("<i8", string.pack("<d", value))))
  elseif type(value) == "string" then
    return ("%q"):format(value)
  elseif type(value) ~= "table" then
    return tostring(value)
  end
  local parts = {}
  for key, element in pairs(value) do
    parts[#parts + 1] = exact(key, engine) .. "=" .. exact(element, engine)
  end
  table.sort(parts)
  local array = #parts > 0 and #parts == #value or #parts == 0 and engine.isArray(value)
  return (array and "[" or "{") .. table.concat(parts, ",") .. (array and "]" or "}")
end

--- A text that is the same for two values only if they are the same to the last bit.
function expect.text(value)
  return exact(value, require "tidelog.engine")
end

--- Both are the same to the last bit, tables by what is in them.
function expect.exactly(expected, actual)
  assert.equal(expect.text(expected), expect.text(actual))
end

return expect
