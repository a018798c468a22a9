-- The check of a table of options: a misspelt one must not pass in silence.

local Err = require "tidelog.err"

local function enumerate(names)
  if #names == 1 then return names[1] end
  return table.concat(names, ", ", 1, #names - 1) .. " and " .. names[#names]
end

--- Raises unless it is nil or a table that has no other keys than these.
---@param options any
---@param names string[]
---@param argument? string what it is called, default "options"
---@return table options   empty where it was nil
return function(options, names, argument)
  if options == nil then return {} end
  argument = argument or "options"
  if type(options) ~= "table" then
    error(Err.invalidArgument(argument, ("%s is a %s, not a table"):format(argument, type(options))))
  end
  local known = {}
  for _, name in ipairs(names) do known[name] = true end
  for key in pairs(options) do
    if not known[key] then
      error(Err.invalidArgument(argument, ("%s has %s, which is none of %s"):format(argument, Err.show(key),
        enumerate(names))))
    end
  end
  return options
end
