-- Every store that needs no server, or with TIDELOG_MONGODB_URI (tests/lua/run_on_mongodb)
-- MongoDB alone; each test on a new, empty one:
--
--   for _, s in ipairs(stores.all()) do
--     describe("documents on " .. s.name, function()
--       before_each(s.setup)
--       after_each(s.teardown)
--       it("are kept", function() s.store:documents "tenant1" … end)

local engine = require "tidelog.engine"
local tidelog = require "tidelog"

local stores = {}

local root, made = nil, 0

-- In memory where that is possible: what these specs are about needs no disk, and that it
-- is waited for is proved elsewhere.
local function temporary_root()
  local pipe = assert(io.popen '[ -z "$TMPDIR" ] && mktemp -d -p /dev/shm 2>/dev/null || mktemp -d')
  local folder = pipe:read "l"
  pipe:close()
  return assert(folder, "mktemp -d made no folder")
end

--- The name of a folder that does not exist yet; its parent does.
function stores.folder()
  root = root or temporary_root()
  made = made + 1
  return root .. "/" .. made
end

--- Writes a whole file.
function stores.write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

--- Removes a folder with all that is in it; with the last one goes the parent, too.
function stores.remove(folder)
  for _, name in ipairs(engine.listFolder(folder) or {}) do os.remove(folder .. "/" .. name) end
  -- Folders in it, and hidden files, are rare: no other process for the usual case.
  if not os.remove(folder) and engine.listFolder(folder) then os.execute("rm -rf '" .. folder .. "'") end
  if root and os.remove(root) then root = nil end
end

-- The server's URI with a prefix for the names of databases that no other test has: busted
-- loads this file anew for each spec, so counting would not do. What is in them is left to
-- who started the server.
local function databases(server)
  local source = assert(io.open("/dev/urandom", "rb"))
  local mark = ("s%x-"):format(string.unpack("<I6", source:read(6)))
  source:close()
  local marked, found = server:gsub("(tidelogPrefix=[^&]*)", "%1" .. mark)
  return found == 1 and marked or ("%s&tidelogPrefix=%s"):format(server, mark)
end

local function fixture(name, server)
  local s = { name = name, persistent = name ~= "memory:" }
  local opened, folder

  function s.setup()
    folder = name == "sqlite:" and stores.folder() or nil
    s.folder, s.uri, opened = folder, server and databases(server) or name .. (folder or ""), {}
    s.store = s.open()
  end

  function s.teardown()
    for _, store in ipairs(opened) do store:close() end
    s.store, opened = nil, nil
    if folder then stores.remove(folder) end
  end

  --- One more store on the test's URI: in memory it is empty, and apart from the others.
  function s.open(options)
    local store = tidelog.open(s.uri, options)
    opened[#opened + 1] = store
    return store
  end

  --- What another process would have of the same log: one more handle where the log is not in
  --- memory, else the same store.
  function s.another()
    return s.persistent and s.open() or s.store
  end

  return s
end

function stores.all()
  local server = os.getenv "TIDELOG_MONGODB_URI"
  if server then return { fixture("mongodb:", server) } end
  return { fixture "memory:", fixture "sqlite:" }
end

return stores
