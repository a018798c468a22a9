-- Rows of text as an aligned table, for people to read.

---@class tidelog.Column
---@field title string
---@field align? "left"|"right" default left

-- A cell is one line; letters count, not bytes, where the text is UTF-8.
local function cell(value)
  local text = value == nil and "" or tostring(value):gsub("%c+", " ")
  return text, utf8.len(text) or #text
end

--- The table without a line break at its end; no line ends in spaces.
---@param columns tidelog.Column[]
---@param rows any[][] each with a value for each column, or nil
---@param untitled? boolean without the titles and the line below them
---@return string
local function text_table(columns, rows, untitled)
  local grid, widths = {}, {}

  local function add(row)
    local line = {}
    for i = 1, #columns do
      local text, width = cell(row[i])
      line[i] = { text = text, width = width }
      widths[i] = math.max(widths[i] or 0, width)
    end
    grid[#grid + 1] = line
  end

  local titles = {}
  for i, column in ipairs(columns) do titles[i] = column.title end
  add(titles)
  for _, row in ipairs(rows) do add(row) end

  local lines = {}
  for i, line in ipairs(grid) do
    local parts = {}
    for j, column in ipairs(columns) do
      local padding = (" "):rep(widths[j] - line[j].width)
      parts[j] = column.align == "right" and padding .. line[j].text or line[j].text .. padding
    end
    if i > 1 or not untitled then lines[#lines + 1] = (table.concat(parts, "  "):gsub(" +$", "")) end
    if i == 1 and not untitled then
      for j in ipairs(columns) do parts[j] = ("-"):rep(widths[j]) end
      lines[#lines + 1] = table.concat(parts, "  ")
    end
  end
  return table.concat(lines, "\n")
end

return text_table
