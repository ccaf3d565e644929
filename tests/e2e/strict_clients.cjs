// Two strict clients from npm go from a resource's URL to a working token, validating all that their RFCs let them.
// Arguments: which one, the resource, the redirect URI. Prints `OPEN url` for the browser and reads where that was sent.
const readline = require("node:readline");
const oauth = require("oauth4webapi");
const openid = require("openid-client");

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function login(url) {
  console.log(`OPEN ${url}`);
  return new URL((await lines.next()).value);
}

const metadata = (redirectUri, method) => ({
  client_name: "Strict",
  redirect_uris: [redirectUri],
  grant_types: ["authorization_code", "refresh_token"],
  response_types: ["code"],
  token_endpoint_auth_method: method,
});

async function withOauth4webapi(resource, redirectUri, method) {
  const options = { [oauth.allowInsecureRequests]: true };
  const described = await oauth
    .resourceDiscoveryRequest(resource, options)
    .then((response) => oauth.processResourceDiscoveryResponse(resource, response));
  const issuer = new URL(described.authorization_servers[0]);
  const server = await oauth
    .discoveryRequest(issuer, { algorithm: "oauth2", ...options })
    .then((response) => oauth.processDiscoveryResponse(issuer, response));
  const client = await oauth
    .dynamicClientRegistrationRequest(server, metadata(redirectUri, method), options)
    .then(oauth.processDynamicClientRegistrationResponse);
  const proof = {
    none: () => oauth.None(),
    client_secret_post: () => oauth.ClientSecretPost(client.client_secret),
    client_secret_basic: () => oauth.ClientSecretBasic(client.client_secret),
  }[method]();
  const verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  const url = new URL(server.authorization_endpoint);
  url.search = new URLSearchParams({
    client_id: client.client_id,
    redirect_uri: redirectUri,
    response_type: "code",
    scope: described.scopes_supported.join(" "),
    state,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    resource: described.resource,
  });
  const parameters = oauth.validateAuthResponse(server, client, await login(url), state);
  const issued = await oauth
    .authorizationCodeGrantRequest(server, client, proof, parameters, redirectUri, verifier, options)
    .then((response) => oauth.processAuthorizationCodeResponse(server, client, response));
  const request = new Request(resource, { headers: { authorization: `Bearer ${issued.access_token}` } });
  const claims = await oauth.validateJwtAccessToken(server, request, described.resource, options);
  const called = await oauth.protectedResourceRequest(issued.access_token, "GET", resource, undefined, undefined, options);
  const refreshed = await oauth
    .refreshTokenGrantRequest(server, client, proof, issued.refresh_token, options)
    .then((response) => oauth.processRefreshTokenResponse(server, client, response));
  await oauth.revocationRequest(server, client, proof, refreshed.refresh_token, options).then(oauth.processRevocationResponse);
  const after = await fetch(resource, { headers: { authorization: `Bearer ${refreshed.access_token}` } });
  return { claims, called: called.status, after: after.status };
}

async function withOpenidClient(resource, redirectUri, method) {
  const described = await fetch(new URL(`/.well-known/oauth-protected-resource${resource.pathname}`, resource)).then((r) => r.json());
  const configuration = await openid.dynamicClientRegistration(
    new URL(described.authorization_servers[0]),
    metadata(redirectUri, method),
    { none: openid.None, client_secret_post: openid.ClientSecretPost, client_secret_basic: openid.ClientSecretBasic }[method](),
    { algorithm: "oauth2", execute: [openid.allowInsecureRequests] },
  );
  const verifier = openid.randomPKCECodeVerifier();
  const state = openid.randomState();
  const url = openid.buildAuthorizationUrl(configuration, {
    redirect_uri: redirectUri,
    scope: described.scopes_supported.join(" "),
    state,
    code_challenge: await openid.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    resource: described.resource,
  });
  const issued = await openid.authorizationCodeGrant(configuration, await login(url), {
    pkceCodeVerifier: verifier,
    expectedState: state,
  });
  const called = await openid.fetchProtectedResource(configuration, issued.access_token, resource, "GET");
  const refreshed = await openid.refreshTokenGrant(configuration, issued.refresh_token);
  await openid.tokenRevocation(configuration, refreshed.refresh_token);
  const after = await fetch(resource, { headers: { authorization: `Bearer ${refreshed.access_token}` } });
  return { called: called.status, after: after.status };
}

const [, , which, resource, redirectUri, method] = process.argv;
const run = { oauth4webapi: withOauth4webapi, "openid-client": withOpenidClient }[which];
run(new URL(resource), redirectUri, method).then((result) => {
  console.log(`RESULT ${JSON.stringify(result)}`);
  process.exit(0);
});
