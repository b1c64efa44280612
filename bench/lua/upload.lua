-- Bodies that are all different, so that nothing is deduplicated, each to a path of its own.
-- Arguments: method, what the paths begin with, bytes of a body, a word that no other run uses.

require "results"

local head, middle, filler
local count = 0

function init(args)
   local size, word = tonumber(args[3]), args[4]
   filler = string.rep("dfs bench filler", size / 16 + 1):sub(1, size - #word - 8)
   head = args[1] .. " " .. args[2] .. word
   middle = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] ..
      "\r\nContent-Type: application/octet-stream\r\nContent-Length: " .. size .. "\r\n\r\n" .. word
end

function request()
   count = count + 1
   local id = string.format("%08x", count)
   return head .. id .. middle .. id .. filler
end
