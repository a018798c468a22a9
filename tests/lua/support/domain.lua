-- The domain that specs of the engine play with.

local tidelog = require "tidelog"

local domain = {}

--- An actor of tenant1; `fields` replaces and adds.
function domain.actor(fields)
  local all = { id = "user1", name = "actor 1", tenant = "tenant1", roles = { "user" } }
  for key, value in pairs(fields or {}) do all[key] = value end
  return tidelog.Actor(all)
end

--- A new aggregate type. Tally has a `sum`, and the list of all `n` that were added;
--- Add pushes Added, AddAll one Added for each of payload.all, Nothing pushes nothing,
--- Refuse pushes and then raises. `changes` replaces fields, and adds commands and events.
function domain.Tally(changes)
  local Tally = { name = "Tally", path = "/tallies" }

  function Tally:init()
    self.sum, self.list = 0, {}
  end

  Tally.commands = {
    Add = function(_, context) context:push "Added" end,
    AddAll = function(_, context)
      for _, n in ipairs(context.payload.all) do context:push("Added", { n = n }) end
    end,
    Nothing = function() end,
    Refuse = function(_, context)
      context:push "Added"
      error(tidelog.Err.precondition "refused")
    end,
  }

  Tally.events = {
    Added = function(self, event)
      local n = event.payload.n or 0
      self.sum = self.sum + n
      self.list[#self.list + 1] = n
    end,
  }

  for key, value in pairs(changes or {}) do
    if key == "commands" or key == "events" then
      for name, fn in pairs(value) do Tally[key][name] = fn end
    else
      Tally[key] = value
    end
  end
  return Tally
end

--- All events of a tenant, as a list.
function domain.events(store, tenant, filter)
  local list = {}
  for event in store:events(tenant or "tenant1", filter) do list[#list + 1] = event end
  return list
end

--- The bodies of the commits that are written while `fn` runs, decoded: what the log keeps
--- of a command beyond its events.
function domain.bodies(fn)
  local engine = require "tidelog.engine"
  local body, bodies = engine.body, {}
  engine.body = function(...)
    local bytes = body(...)
    bodies[#bodies + 1] = engine.decode(bytes)
    return bytes
  end
  local ok, problem = pcall(fn)
  engine.body = body
  if not ok then error(problem, 0) end
  return bodies
end

return domain
