-- The check that a method was called on an object of its own, with a colon.

local Err = require "tidelog.err"

---@param self any
---@param Class table  the metatable of its objects
---@param call string  how it is called, for the message
return function(self, Class, call)
  if getmetatable(self) == Class then return end
  error(Err.invalidArgument("self", ("self is a %s: call it as %s, with a colon"):format(type(self), call)))
end
