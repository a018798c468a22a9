-- Counts the adder's events in one document, exactly once each: the document
-- is committed together with the handler's cursor.

---@class EventCounter
---@field db tidelog.Documents
local EventCounter = { name = "EventCounter" }

function EventCounter:count()
  local counter = self.db:doc "/counters/counter1"
  local doc = counter:get() or {}
  doc.eventCount = (doc.eventCount or 0) + 1
  counter:set(doc)
end

EventCounter.events = {
  NumbersAdded = function(self, tenant, event) self:count() end,
  NumbersSubtracted = function(self, tenant, event) self:count() end,
}

return EventCounter
