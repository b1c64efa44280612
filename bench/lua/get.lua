-- GETs of the paths listed in a file, in a shuffled order.
-- Argument: path of the list.

require "results"

local requests, turn = {}, 0

function init(args)
   for path in io.lines(args[1]) do
      requests[#requests + 1] = wrk.format("GET", path)
   end
   math.randomseed(1)
   for i = #requests, 2, -1 do
      local j = math.random(i)
      requests[i], requests[j] = requests[j], requests[i]
   end
end

function request()
   turn = turn % #requests + 1
   return requests[turn]
end
