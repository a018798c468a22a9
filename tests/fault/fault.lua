-- What the fault tests share: a seed, a folder, children that are Lua, and counting.

local process = require "process"

local fault = {
  process = process,
  quick = os.getenv "TIDELOG_TEST_QUICK" == "1", -- under sanitizers: less of everything
  failures = 0,
}

local SHOWN = 20 -- failures; the others are only counted
local source = os.getenv "TIDELOG_SOURCE" or "."
local build = os.getenv "TIDELOG_BUILD" or "build"
local began = process.clock()
local folders = {}
local places = 0

fault.scripts = source .. "/tests/fault/"
fault.programs = build .. "/tests/"

local seed = math.tointeger(tonumber(os.getenv "TIDELOG_FAULT_SEED"))
  or (os.time() << 16 ~ process.id()) & 0x7fffffff
math.randomseed(seed)
print(("seed %d (TIDELOG_FAULT_SEED repeats it)"):format(seed))

--- A test that cannot run here says so, and counts as skipped; with CI=true it fails.
function fault.skip(why)
  print("SKIPPED: " .. why)
  os.exit(os.getenv "CI" == "true" and 1 or 77)
end

function fault.fail(message, ...)
  fault.failures = fault.failures + 1
  if fault.failures <= SHOWN then print("FAILED: " .. message:format(...)) end
end

function fault.expect(ok, message, ...)
  if not ok then fault.fail(message, ...) end
  return ok
end

--- A number from the environment, or the default, or a smaller one in a quick run.
function fault.count(name, default, quick)
  return math.tointeger(tonumber(os.getenv(name))) or fault.quick and quick or default
end

--- A folder that is removed in the end, unless something failed.
function fault.folder()
  local path = process.temporary()
  folders[#folders + 1] = path
  return path
end

--- The URI of a new, empty store: in a folder or, beneath tests/mongodb/with_server, on its
--- server, with databases of its own.
function fault.place()
  local server = os.getenv "TIDELOG_MONGODB_URI"
  if not server then return "sqlite:" .. fault.folder() end
  places = places + 1
  return ("%s&tidelogPrefix=place%d-"):format(server, places)
end

function fault.shell(command, ...)
  return os.execute(command:format(...))
end

function fault.remove(path)
  path = path:match "^sqlite:(.*)" or path
  if path:find "^mongodb" then return end -- they end with their server
  fault.shell("chmod -R u+rwX '%s' 2>/dev/null; rm -rf '%s'", path, path)
  for i = #folders, 1, -1 do
    if folders[i] == path then table.remove(folders, i) end
  end
end

function fault.readFile(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local bytes = file:read "a"
  file:close()
  return bytes
end

function fault.writeFile(path, bytes)
  local file = assert(io.open(path, "wb"))
  assert(file:write(bytes))
  assert(file:close())
end

function fault.elapsed() return process.clock() - began end

--- The last line of a test: what was counted.
function fault.finish(summary, ...)
  print(summary:format(...))
  for _, path in ipairs(table.move(folders, 1, #folders, 1, {})) do -- a copy: remove takes them out
    if fault.failures == 0 then fault.remove(path) else print("kept: " .. path) end
  end
  print(("%s after %.1f s, %d failures"):format(
    fault.failures == 0 and "passed" or "FAILED", fault.elapsed() / 1000, fault.failures))
  os.exit(fault.failures == 0 and 0 or 1, true)
end

-- ---- children --------------------------------------------------------------------------

--- Arguments that start lua5.4 on a script of this folder. Options are spawn's.
function fault.lua(script, arguments, options)
  local line = { os.getenv "LUA54" or "lua5.4", fault.scripts .. script }
  for _, argument in ipairs(arguments) do line[#line + 1] = tostring(argument) end
  for key, value in pairs(options or {}) do line[key] = value end
  line.env = table.move(line.env or {}, 1, #(line.env or {}), 1, {})
  local preload = os.getenv "TIDELOG_PRELOAD" -- a sanitizer's runtime, which lua5.4 lacks
  if preload then line.env[#line.env + 1] = "LD_PRELOAD=" .. preload end
  if line.traced or line.unprivileged then -- the leak sanitizer traces, too
    line.env[#line.env + 1] = "ASAN_OPTIONS=" .. (os.getenv "ASAN_OPTIONS" or "") .. ":detect_leaks=0"
  end
  return line
end

--- Reads a child's whole lines.
local Reader = {}
Reader.__index = Reader

function fault.start(arguments)
  local child, why = process.spawn(arguments)
  if not child then return nil, why end
  return setmetatable({ child = child, rest = "", lines = {}, ended = false }, Reader)
end

--- Takes what there is, waiting up to `ms` for more; false at the end.
function Reader:fill(ms)
  if self.ended then return false end
  local bytes = self.child:receive(ms)
  if bytes == nil then
    self.ended = true -- a last line without its end was not said
    return false
  end
  if bytes then
    local text = self.rest .. bytes
    local from = 1
    while true do
      local ending = text:find("\n", from, true)
      if not ending then break end
      self.lines[#self.lines + 1] = text:sub(from, ending - 1)
      from = ending + 1
    end
    self.rest = text:sub(from)
  end
  return true
end

--- The next line, or nil at the end or after `ms`.
function Reader:line(ms)
  local untilTime = process.clock() + ms
  while #self.lines == 0 do
    local left = untilTime - process.clock()
    if left < 0 or not self:fill(left) then break end
  end
  return table.remove(self.lines, 1)
end

--- Everything that it still says, up to its end or for `ms`.
function Reader:drain(ms)
  local untilTime = process.clock() + ms
  while process.clock() <= untilTime and self:fill(math.max(0, untilTime - process.clock())) do end
  local lines = self.lines
  self.lines = {}
  return lines
end

function Reader:send(text) return self.child:send(text) end

function Reader:kill()
  self.child:signal "KILL"
  self.child:wait(10000)
end

--- Waits for its end; a child that hangs is killed and counted as a failure.
function Reader:finish(ms, what)
  local how, status = self.child:wait(ms)
  if not how then
    self:kill()
    fault.fail("%s did not end within %d ms", what, ms)
  elseif how == "signal" or status ~= 0 then
    fault.fail("%s ended with %s %d", what, how, status)
  end
  return how, status
end

--- Waits, reading all that the children say, so that none blocks on a full pipe.
function fault.wait(ms, readers)
  local untilTime = process.clock() + ms
  repeat
    for _, reader in ipairs(readers) do reader:fill(0) end
    process.sleep(math.max(0, math.min(5, untilTime - process.clock())))
  until process.clock() >= untilTime
end

return fault
