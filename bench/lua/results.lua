-- What every script of wrk prints at its end: one line of JSON for load.py.

local thread

function setup(only_one)
   thread = only_one
end

function done(summary, latency, requests)
   local errors = summary.errors
   local duration_us = summary.duration
   if (thread:get("ended_us") or 0) > 0 then -- the script ended by itself
      duration_us = thread:get("ended_us") - thread:get("began_us")
   end
   io.write(string.format(
      'RESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, ' ..
      '"bad_status": %d, "failed": %d}\n',
      summary.requests, duration_us,
      latency:percentile(50), latency:percentile(99), latency.max,
      errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
