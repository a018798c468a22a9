-- Who sends a command: an id, a tenant and roles, and whatever else is worth
-- recording about it. Read-only; it is stored with each of its commits.

local Err = require "tidelog.err"
local engine = require "tidelog.engine"

---@class tidelog.Actor
---@field id string
---@field tenant string  [a-z0-9][a-z0-9_-]{0,37}
---@field roles string[]
---@field name? string

local Actor = {}

-- Actor → { bytes = its BSON, roles = the set of them }. Also what tells an
-- actor from any other table.
local known = setmetatable({}, { __mode = "k" })

local function checkRoles(roles)
  if roles == nil then error(Err.missingArgument "roles") end
  if type(roles) ~= "table" then
    error(Err.invalidArgument("roles", "roles is a " .. type(roles) .. ", not a list of strings"))
  end
  local count = 0
  for _ in pairs(roles) do count = count + 1 end
  if count ~= #roles then error(Err.invalidArgument("roles", "roles is a table with names, not a list of strings")) end
  local list, set = engine.array {}, {}
  for i, role in ipairs(roles) do
    if type(role) ~= "string" or role == "" then
      error(Err.invalidArgument("roles", ("roles[%d] is not a string with something in it"):format(i)))
    end
    list[i], set[role] = role, true
  end
  return list, set
end

--- Makes an actor. A missing field raises MissingArgumentError, a wrong one
--- InvalidArgumentError.
---@param fields table { id, tenant, roles = {…}, … }
---@return tidelog.Actor
function Actor.new(fields)
  if fields == nil then error(Err.missingArgument "actor") end
  if type(fields) ~= "table" then
    error(Err.invalidArgument("actor", "actor is a " .. type(fields) .. ", not a table"))
  end
  local copy = {}
  for key, value in pairs(fields) do copy[key] = value end
  engine.checkName(copy.id, "id")
  engine.checkTenant(copy.tenant)
  local roles, set = checkRoles(copy.roles)
  copy.roles = roles
  local bytes = engine.encode(copy, "actor")
  local actor = engine.freeze(engine.decode(bytes))
  known[actor] = { bytes = bytes, roles = set }
  return actor
end

--- What the engine keeps about an actor; raises where the value is none.
---@return { bytes: string, roles: table<string, boolean> }
function Actor.check(value)
  if value == nil then error(Err.missingArgument "actor") end
  local actor = known[value]
  if not actor then
    error(Err.invalidArgument("actor", "actor is a " .. type(value) .. ", not made by tidelog.Actor"))
  end
  return actor
end

return Actor
