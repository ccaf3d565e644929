// Passes HTTP/1.1 requests on over HTTP/2 (cleartext, prior knowledge), without saying how long their bodies are.
// Prints its port. Arguments: the server's port.
const http = require("http");
const http2 = require("http2");

const upstream = http2.connect(`http://127.0.0.1:${process.argv[2]}`);
const HOP_BY_HOP = ["connection", "content-length", "host", "keep-alive", "transfer-encoding"];

const server = http.createServer((request, response) => {
  const headers = { ":method": request.method, ":path": request.url, ":authority": request.headers.host };
  for (const [name, value] of Object.entries(request.headers)) {
    if (!HOP_BY_HOP.includes(name)) headers[name] = value;
  }
  const stream = upstream.request(headers, { endStream: false });
  stream.on("response", (answer) => {
    const { ":status": status, ...rest } = answer;
    response.writeHead(status, rest);
    stream.pipe(response);
  });
  stream.on("error", () => response.destroy());
  request.pipe(stream);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
