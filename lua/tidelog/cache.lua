-- A cache of bounded size that drops what was not used for long: entries are put
-- into the young generation; when that has half of the size, it becomes the old one,
-- and what was left in the old one is dropped.

local Cache = {}
Cache.__index = Cache

---@param size integer entries at most; 0: keeps nothing
function Cache.new(size)
  return setmetatable({ size = size, half = math.max(1, size // 2), count = 0, young = {}, old = {} }, Cache)
end

function Cache:get(key)
  local value = self.young[key]
  if value == nil then
    value = self.old[key]
    if value ~= nil then self:put(key, value) end
  end
  return value
end

function Cache:put(key, value)
  if self.size == 0 then return end
  if self.young[key] == nil then
    if self.count >= self.half then
      self.old, self.young, self.count = self.size > 1 and self.young or {}, {}, 0
    end
    self.count = self.count + 1
  end
  self.young[key], self.old[key] = value, nil
end

function Cache:drop(key)
  if self.young[key] ~= nil then self.count = self.count - 1 end
  self.young[key], self.old[key] = nil, nil
end

return Cache
