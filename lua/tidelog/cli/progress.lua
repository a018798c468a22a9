-- The line on a terminal that says how far something long has come.

local Application = require "tidelog.cli.application"

local Progress = {}

local EVERY = 100 -- ms between two lines

local function duration(seconds)
  if seconds < 60 then return ("%d s"):format(math.ceil(seconds)) end
  if seconds < 3600 then return ("%d min"):format(math.ceil(seconds / 60)) end
  return ("%.1f h"):format(seconds / 3600)
end

--- What is said about a copy: of a state as tidelog.copy tells it, `elapsed` ms after the
--- first one, when the target had `began` events.
function Progress.line(state, began, elapsed)
  local parts = { ("%s of %s events"):format(Application.thousands(state.position),
    Application.thousands(state.head)) }
  if state.head > 0 then parts[#parts + 1] = ("%d %%"):format(100 * state.position // state.head) end
  local rate = elapsed > 0 and (state.position - began) * 1000 / elapsed or 0
  if rate > 0 then
    parts[#parts + 1] = ("%s/s"):format(Application.thousands(math.floor(rate)))
    if state.head > state.position then
      parts[#parts + 1] = duration((state.head - state.position) / rate) .. " left"
    end
  end
  if state.documents > 0 then parts[#parts + 1] = Application.counted(state.documents, "document") end
  return ("tenant %s: %s"):format(state.tenant, table.concat(parts, ", "))
end

--- A function that shows a state on `out`, a terminal, and one that takes the line away.
---@param clock fun(): number ms
function Progress.new(out, clock)
  local first, began, last
  local function show(state)
    local now = clock()
    if not first then first, began = now, state.position end
    if last and now - last < EVERY then return end
    last = now
    out:write("\r\27[K", Progress.line(state, began, now - first)) -- erases to the end of the line
    out:flush()
  end
  local function clear()
    if last then out:write "\r\27[K" end
    first, began, last = nil, nil, nil
  end
  return show, clear
end

return Progress
