-- script.lua FOLDER: an external script, with nothing but what is installed: an
-- aggregate of its own, a command, and the same log after it was opened again.
local tidelog = require "tidelog"
local folder = assert(arg[1], "usage: script.lua FOLDER")

local Counter = { name = "Counter", path = "/counters" }
function Counter:init() self.count = 0 end
Counter.commands = { Count = function(_, context) context:push "Counted" end }
Counter.events = {
  Counted = function(self, event) self.count = self.count + event.payload.by end,
}

local actor = tidelog.Actor { id = "user1", tenant = "tenant1", roles = {} }
local store = tidelog.open("sqlite:" .. folder)
tidelog.CommandHandler(store, { Counter }):command(actor, "Count", { aggregateId = "c1", by = 40 })
store:close()

store = tidelog.open("sqlite:" .. folder)
local context = tidelog.CommandHandler(store, { Counter })
  :command(actor, "Count", { aggregateId = "c1", by = 2, expectedVersion = 0 })
assert(context.aggregate.count == 42 and context.aggregate.aggregateVersion == 1)
store:close()
print "script: counted to 42"
