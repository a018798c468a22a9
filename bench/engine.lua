-- engine.lua WHAT FOLDER COUNT: one figure of the engine, in operations a second.

local tidelog = require "tidelog"
local engine = require "tidelog.engine"

local what, folder, count = arg[1], arg[2], math.tointeger(tonumber(arg[3]))
local actor = tidelog.Actor { id = "bench", tenant = "bench", roles = {} }
local padding = ("x"):rep(150) -- payloads of some 200 bytes

local Tally = { name = "Tally", path = "/tallies", snapshot = false }
function Tally:init() self.sum, self.count, self.last, self.kind, self.open = 0, 0, 0, "tally", true end
Tally.commands = { Add = function(_, context) context:push "Added" end }
Tally.events = {
  Added = function(self, event)
    self.sum, self.count, self.last = self.sum + event.payload.n, self.count + 1, event.payload.n
  end,
}

local function rate(n, run)
  local start = engine.clock()
  run()
  print(("%.0f"):format(n / (engine.clock() - start) * 1000))
end

local function commands(uri, streams)
  local store <close> = tidelog.open(uri)
  local ch = tidelog.CommandHandler(store, { Tally })
  rate(count, function()
    for i = 1, count do ch:command(actor, "Add", { aggregateId = "a" .. i % streams, n = i, padding = padding }) end
  end)
end

local figures = {}

-- Full commands: decide, reduce, encode, commit; durable.
function figures.commands() commands("sqlite:" .. folder, 100) end
function figures.hot() commands("sqlite:" .. folder, 1) end

-- The same without a disk: what is ours.
function figures.memory() commands("memory:", 100) end

-- The state of one aggregate from all of its events.
function figures.replay()
  local store <close> = tidelog.open "memory:"
  local ch = tidelog.CommandHandler(store, { Tally }, nil, { cacheSize = 1 })
  for i = 1, count do ch:command(actor, "Add", { aggregateId = "a", n = i, padding = padding }) end
  collectgarbage()
  rate(count, function()
    local tally = ch:load("bench", Tally, "a", { version = count - 1 })
    assert(tally.count == count)
  end)
end

-- The same work by hand: decode a payload, call the function.
function figures.reduce()
  local bytes = engine.encode({ n = 1, padding = padding }, "payload")
  local state, added = {}, Tally.events.Added
  Tally.init(state)
  collectgarbage()
  rate(count, function()
    for _ = 1, count do added(state, { name = "Added", version = 0, payload = engine.decode(bytes) }) end
  end)
end

-- All events of the tenant, one table each.
function figures.events()
  local store <close> = tidelog.open "memory:"
  local ch = tidelog.CommandHandler(store, { Tally })
  for i = 1, count do ch:command(actor, "Add", { aggregateId = "a" .. i % 100, n = i, padding = padding }) end
  collectgarbage()
  rate(count, function()
    local n = 0
    for _ in store:events "bench" do n = n + 1 end
    assert(n == count)
  end)
end

-- Events that a handler counts into one document, exactly once.
function figures.projection()
  local store <close> = tidelog.open("sqlite:" .. folder)
  local ch = tidelog.CommandHandler(store, { Tally })
  for i = 1, count do ch:command(actor, "Add", { aggregateId = "a" .. i % 100, n = i, padding = padding }) end
  local counter = { name = "counter", events = {} }
  function counter.events.Added(self)
    local document = self.db:doc "/counter"
    local value = document:get() or { count = 0 }
    value.count = value.count + 1
    document:set(value)
  end
  local sr = tidelog.StreamReader(store)
  rate(count, function()
    while sr:poll("bench", "thread", { counter }, { limit = 1000 }) do end -- luacheck: ignore
    assert(store:documents("bench"):doc("/counter"):get().count == count)
  end)
end

assert(figures[what], "unknown figure")()
