-- POSTs of bodies that are all different, so that nothing is deduplicated.
-- Arguments: path of the route, bytes of a body, a word that no other run uses.

require "results"

local head, middle, filler
local word, count = "", 0

function init(args)
   word = args[3]
   local size = tonumber(args[2])
   filler = string.rep("dfs bench filler", size / 16 + 1):sub(1, size - #word - 8)
   head = "POST " .. args[1] .. "?name=" .. word
   middle = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] ..
      "\r\nContent-Type: application/octet-stream\r\nContent-Length: " .. size .. "\r\n\r\n" .. word
end

function request()
   count = count + 1
   local id = string.format("%08x", count)
   return head .. id .. middle .. id .. filler
end
