-- The check of a table of options: a misspelt one must not pass in silence.

local Err = require "tidelog.err"

local function enumerate(names)
  if #names == 1 then return names[1] end
  return table.concat(names, ", ", 1, #names - 1) .. " and " .. names[#names]
end

--- Makes a check, once for all calls: it raises unless it is given nil or a table that has no
--- other keys than these, and returns the table, an empty one for nil.
---@param names string[]
---@param argument? string what the table is called, default "options"
---@return fun(options: any): table
return function(names, argument)
  local known = {}
  for _, name in ipairs(names) do known[name] = true end
  argument = argument or "options"
  return function(options)
    if options == nil then return {} end
    if type(options) ~= "table" then
      error(Err.invalidArgument(argument, ("%s is a %s, not a table"):format(argument, type(options))))
    end
    for key in pairs(options) do
      if not known[key] then
        error(Err.invalidArgument(argument, ("%s has %s, which is none of %s"):format(argument, Err.show(key),
          enumerate(names))))
      end
    end
    return options
  end
end
