assert(_VERSION == "Lua 5.4", "these specs are for Lua 5.4")

local Err = require "tidelog.err"

describe("tidelog.err", function()
  local builders = {
    invalidArgument = {
      "InvalidArgumentError", "digit is not a valid argument", field = "argument",
    },
    missingArgument = { "MissingArgumentError", "digit is missing", field = "argument" },
    notImplemented = { "NotImplementedError", "digit is not implemented", field = "method" },
    concurrency = { "ConcurrencyError" },
    precondition = { "PreconditionError" },
    accessDenied = { "AccessDeniedError" },
    limit = { "LimitError" },
    store = { "StoreError" },
  }

  for builder, expected in pairs(builders) do
    local name, default, field = expected[1], expected[2], expected.field

    describe(builder, function()
      it("returns a " .. name, function()
        local err = field and Err[builder]("digit", "not so") or Err[builder]("not so")
        assert.equal(name, err.name)
        assert.equal("not so", err.message)
        assert.equal(name .. ": not so", tostring(err))
        assert.equal(Err.metatable, getmetatable(err))
        if field then assert.equal("digit", err[field]) end
      end)

      it("has only the fields that apply", function()
        local allowed = { name = true, message = true, transient = name == "StoreError" or nil }
        if field then allowed[field] = true end
        for key in pairs(Err[builder] "digit") do assert.is_true(allowed[key], key) end
      end)

      it("has a message by default", function()
        local err = field and Err[builder] "digit" or Err[builder]()
        assert.equal("string", type(err.message))
        assert.is_true(#err.message > 0)
        if default then assert.equal(default, err.message) end
      end)

      it("takes any nonsense", function()
        local unprintable = setmetatable({}, { __tostring = function() error "no" end })
        local misprinted = setmetatable({}, { __tostring = function() return {} end })
        local nonsense = { 12, 1.5, true, false, {}, print, unprintable, misprinted, n = 9 }
        for i = 1, nonsense.n do
          for _, err in ipairs { Err[builder](nonsense[i]), Err[builder]("x", nonsense[i]),
                                 Err[builder](nonsense[i], nonsense[i]) } do
            assert.equal(name, err.name)
            assert.equal("string", type(err.message))
            assert.equal("string", type(tostring(err)))
            if field then assert.equal("string", type(err[field])) end
          end
        end
        assert.equal(name, Err[builder]().name)
      end)

      it("can be raised and told from others", function()
        local ok, err = pcall(function() error(Err[builder] "digit") end)
        assert.is_false(ok)
        assert.is_true(Err.is(err))
        assert.is_true(Err.is(err, name))
        assert.is_false(Err.is(err, "SomeOtherError"))
      end)
    end)
  end

  it("keeps a precondition's message as it was given", function()
    for _, message in ipairs { "missing left side", "", "two\nlines", "100 %d", "\0" } do
      assert.equal(message, Err.precondition(message).message)
    end
  end)

  it("prints one line", function()
    assert.equal("PreconditionError: two lines", tostring(Err.precondition "two\r\nlines"))
    assert.equal("InvalidArgumentError: a b is not a valid argument",
      tostring(Err.invalidArgument "a\nb"))
  end)

  it("prints an error that somebody has emptied", function()
    local err = Err.limit "x"
    err.name, err.message = nil, nil
    assert.equal("nil: nil", tostring(err))
  end)

  it("says whether a store's error is transient, with a boolean", function()
    assert.is_true(Err.store("busy", true).transient)
    assert.is_false(Err.store("full", false).transient)
    assert.is_false(Err.store("full").transient)
    assert.is_true(Err.store("busy", 1).transient)
    assert.is_nil(Err.limit("memory").transient)
  end)

  describe("is", function()
    it("is false for everything else", function()
      local metatable_lies = setmetatable({}, { __metatable = "no" })
      local always_equal = setmetatable({}, {
        __metatable = setmetatable({}, { __eq = function() return true end }),
      })
      for _, value in ipairs { "LimitError: x", 12, true, {}, { name = "LimitError" }, print,
                               metatable_lies, always_equal, io.stdout } do
        assert.is_false(Err.is(value))
        assert.is_false(Err.is(value, "LimitError"))
      end
      assert.is_false(Err.is(nil))
      assert.is_false(Err.is())
    end)
  end)
end)
