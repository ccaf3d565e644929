-- The requests that Traefik's ForwardAuth sends, one after the other with each token of a file.
-- Arguments: the file, the path, the host. Prints requests, microseconds, p50, p99, answers other than 2xx.
local requests, at = {}, 0

function init(arguments)
  for token in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("GET", arguments[2], {
      ["Host"] = arguments[3], ["User-Agent"] = "Go-http-client/1.1", ["Accept-Encoding"] = "gzip",
      ["Authorization"] = "Bearer " .. token,
      ["X-Forwarded-Uri"] = "/mcp", ["X-Forwarded-Method"] = "POST", ["X-Forwarded-Proto"] = "https",
      ["X-Forwarded-Host"] = "time.example.com", ["X-Forwarded-For"] = "203.0.113.7",
    })
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  io.write(string.format("figures %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status))
end
