// The TypeScript client 2.x uses a server, of which it may use more once its user has agreed to it.
// node step_up.mjs NPM_FOLDER URL REDIRECT_URI legacy|auto
// Prints `OPEN url` for the browser and reads where that was sent; at last the result, as JSON.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [folder, url, redirectUri, mode] = process.argv.slice(2);
const { Client, StreamableHTTPClientTransport, UnauthorizedError } = createRequire(`${folder}/`)(
  "@modelcontextprotocol/client",
);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const scopes = [];
const kept = {};
let authorized;

const authProvider = {
  redirectUrl: redirectUri,
  clientMetadata: { client_name: "TypeScript", redirect_uris: [redirectUri], token_endpoint_auth_method: "none" },
  clientInformation: () => kept.client,
  saveClientInformation: (client) => void (kept.client = client),
  tokens: () => kept.tokens,
  saveTokens: (tokens) => {
    kept.tokens = tokens;
    scopes.push(tokens.scope);
  },
  codeVerifier: () => kept.verifier,
  saveCodeVerifier: (verifier) => void (kept.verifier = verifier),
  redirectToAuthorization: async (authorization) => {
    console.log(`OPEN ${authorization}`);
    authorized = new URL((await lines.next()).value).searchParams;
  },
};

const options = { authProvider };
const newTransport = () => new StreamableHTTPClientTransport(new URL(url), options);
const newClient = () => new Client({ name: "test", version: "1" }, { versionNegotiation: { mode } });

let client = newClient();
let transport = newTransport();
try {
  await client.connect(transport);
} catch (error) {
  if (!(error instanceof UnauthorizedError)) throw error;
  await transport.finishAuth(authorized);
  [client, transport] = [newClient(), newTransport()];
  await client.connect(transport);
}
const { tools } = await client.listTools();
const callsIn = (result) =>
  JSON.parse(result.content[0].text)
    .filter((each) => each.method === "tools/call")
    .map((each) => each.params.name);
const before = callsIn(await client.callTool({ name: "get_issue", arguments: {} }));
const create = () => client.callTool({ name: "create_issue", arguments: {} });
const result = await create().catch(async (error) => {
  if (!(error instanceof UnauthorizedError)) throw error;
  await transport.finishAuth(authorized);
  return create();
});
const called = callsIn(result).slice(before.length - 1);
const unknown = await client.callTool({ name: "delete_issue", arguments: {} }).catch((error) => error.message);
await client.close();
console.log(JSON.stringify({ tools: tools.map((tool) => tool.name), scopes, called, unknown }));
process.exit(0);
