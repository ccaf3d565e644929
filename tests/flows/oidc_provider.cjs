// npm `oidc-provider` with one client, and accounts that a test changes by PUT /accounts.
// Arguments: port, the client's redirect URI, its way of authenticating.
const { Provider } = require("oidc-provider");

const [port, redirectUri, authMethod] = process.argv.slice(2);
let accounts = {};

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "gateway",
      client_secret: "upstream secret+/:",
      redirect_uris: [redirectUri],
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: authMethod,
    },
  ],
  cookies: { keys: ["a"] },
  claims: { openid: ["sub"], profile: ["preferred_username", "groups"], email: ["email", "email_verified"] },
  pkce: { required: () => true },
  findAccount: (_context, id) => id in accounts ? { accountId: id, claims: () => ({ sub: id, ...accounts[id] }) } : undefined,
});

provider.use(async (context, next) => {
  if (context.path !== "/accounts") return next();
  let body = "";
  for await (const chunk of context.req) body += chunk;
  accounts = JSON.parse(body);
  context.status = 204;
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
