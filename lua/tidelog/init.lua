-- Tidelog: an event-sourcing engine. This module is the whole public surface for Lua.

local Actor = require "tidelog.actor"
local CommandHandler = require "tidelog.command_handler"
local Err = require "tidelog.err"
local Store = require "tidelog.store"
local StreamReader = require "tidelog.stream_reader"
local copy = require "tidelog.copy"
local engine = require "tidelog.engine"
local tracer = require "tidelog.tracer"

---@class tidelog
---@field null lightuserdata  null in a stored value, the same as cjson.null
---@field version string
return {
  version = engine.version,
  null = engine.null,
  array = engine.array,
  open = Store.open,
  copy = copy,
  Actor = Actor.new,
  CommandHandler = CommandHandler.new,
  StreamReader = StreamReader.new,
  ConsoleTracer = tracer.ConsoleTracer,
  Err = Err,
}
