-- Documents: the read models of a tenant, by path.

local Err = require "tidelog.err"
local checkReceiver = require "tidelog.receiver"
local engine = require "tidelog.engine"

---@class tidelog.Document
---@field path string
local Document = {}
Document.__index = Document
Document.__name = "tidelog.Document"

---@class tidelog.Documents
local Documents = {}
Documents.__index = Documents
Documents.__name = "tidelog.Documents"

local PAGE = 1000 -- paths read at once

-- `source` has read(path) → BSON or nil, write(path, BSON or false), list(prefix) → paths.
function Documents.new(source)
  return setmetatable({ source = source }, Documents)
end

--- The documents in the store: each set or delete is durable when it returns.
function Documents.ofStore(store, tenant)
  engine.checkTenant(tenant)
  engine.head(store, tenant) -- says now where the store is none, or closed
  local source = {}
  function source.read(path) return (engine.getDocument(store, tenant, path)) end
  function source.write(path, bytes) engine.putDocuments(store, tenant, { path, bytes, false, 0 }) end
  function source.list(prefix)
    local all, after = {}, nil
    repeat
      local paths = engine.listDocuments(store, tenant, prefix, after, PAGE)
      table.move(paths, 1, #paths, #all + 1, all)
      after = paths[#paths]
    until #paths < PAGE
    return all
  end
  return Documents.new(source)
end

--- The document at a path such as "/counters/counter1", which need not exist.
---@param path string
---@return tidelog.Document
function Documents:doc(path)
  checkReceiver(self, Documents, "db:doc(path)")
  engine.checkPath(path)
  return setmetatable({ path = path, source = self.source }, Document)
end

--- The documents whose paths begin with a prefix, in the order of their paths.
---@param prefix? string default "/": all
---@return tidelog.Document[]
function Documents:list(prefix)
  checkReceiver(self, Documents, "db:list(prefix)")
  if prefix == nil then prefix = "/" end
  if type(prefix) ~= "string" or prefix:sub(1, 1) ~= "/" then
    error(Err.invalidArgument("prefix", "prefix " .. Err.show(prefix) .. " does not begin with '/'"))
  end
  local found = {}
  for i, path in ipairs(self.source.list(prefix)) do
    found[i] = setmetatable({ path = path, source = self.source }, Document)
  end
  return found
end

--- A new table with what the document holds, or nil where there is none.
---@return table?
function Document:get()
  checkReceiver(self, Document, "doc:get()")
  local bytes = self.source.read(self.path)
  return bytes and engine.decode(bytes) or nil
end

--- Replaces the document. What cannot be stored raises InvalidArgumentError.
---@param value table
function Document:set(value)
  checkReceiver(self, Document, "doc:set(value)")
  if value == nil then error(Err.missingArgument "document") end
  self.source.write(self.path, engine.encode(value, "document"))
end

--- Deletes the document; it need not exist.
function Document:delete()
  checkReceiver(self, Document, "doc:delete()")
  self.source.write(self.path, false)
end

return Documents
