// The TypeScript SDK 1.x: node sdk1.mjs NPM_FOLDER URL TOOL ARGUMENTS
import { createRequire } from "node:module";

const [folder, url, tool, args] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");

const client = new Client({ name: "test", version: "1" });
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
const { tools } = await client.listTools();
const result = await client.callTool({ name: tool, arguments: JSON.parse(args) });
await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ tools: tools.map((tool) => tool.name), result }));
