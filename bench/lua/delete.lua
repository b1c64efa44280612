-- DELETEs of the paths listed in a file, each once, in the order of the file.
-- Argument: path of the list.
--
-- It ends when a connection finds nothing left to delete. wrk itself waits for its whole duration
-- then, so the time until the end is taken here.

require "results"

local ffi = require "ffi"
ffi.cdef "typedef struct { long s; long ns; } dfs_time; int clock_gettime(int id, dfs_time *now);"
local MONOTONIC = 1

local requests = {}
local turn = -1 -- wrk asks for one request before it begins, and does not send it
began_us, ended_us = 0, 0 -- global: results.lua asks this thread for them

local function now_us()
   local now = ffi.new("dfs_time")
   ffi.C.clock_gettime(MONOTONIC, now)
   return tonumber(now.s) * 1e6 + tonumber(now.ns) / 1e3
end

function init(args)
   for path in io.lines(args[1]) do
      requests[#requests + 1] = wrk.format("DELETE", path)
   end
end

function request()
   turn = turn + 1
   if turn == 0 then
      return requests[1]
   elseif turn == 1 then
      began_us = now_us()
   elseif turn > #requests then
      if ended_us == 0 then
         ended_us = now_us()
         wrk.thread:stop()
      end
      return wrk.format("GET", "/health") -- is not answered any more
   end
   return requests[turn]
end
