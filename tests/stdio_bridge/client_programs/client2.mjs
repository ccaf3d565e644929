// The TypeScript client 2.x: node client2.mjs NPM_FOLDER URL TOOL ARGUMENTS legacy|auto|VERSION
import { createRequire } from "node:module";

const [folder, url, tool, args, mode] = process.argv.slice(2);
const { Client, StreamableHTTPClientTransport } = createRequire(`${folder}/`)("@modelcontextprotocol/client");

const versionNegotiation = { mode: /^\d/.test(mode) ? { pin: mode } : mode };
const client = new Client({ name: "test", version: "1" }, { versionNegotiation });
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);
const { tools } = await client.listTools();
const result = await client.callTool({ name: tool, arguments: JSON.parse(args) });
await transport.terminateSession?.();
await client.close();
console.log(JSON.stringify({ tools: tools.map((tool) => tool.name), result }));
