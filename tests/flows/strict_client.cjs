// npm `oauth4webapi`, which checks every answer by its RFC: one login of a client with a key of its own, to its end.
// Reads from stdin what the test knows, prints what the server said.
const oauth = require("oauth4webapi");

async function main({ issuer, base, clientId, key, callback, redirectUri, verifier, resource }) {
  const options = { [oauth.customFetch]: (url, init) => fetch(String(url).replace(issuer, base), init) };
  const server = await oauth
    .discoveryRequest(new URL(issuer), { algorithm: "oauth2", ...options })
    .then((response) => oauth.processDiscoveryResponse(new URL(issuer), response));
  const client = { client_id: clientId };
  const { kid, alg, ...jwk } = key;
  const algorithm = { RS256: { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" }, ES256: { name: "ECDSA", namedCurve: "P-256" } };
  const privateKey = await crypto.subtle.importKey("jwk", jwk, algorithm[alg], false, ["sign"]);
  const proof = oauth.PrivateKeyJwt({ key: privateKey, kid });

  const parameters = oauth.validateAuthResponse(server, client, new URL(callback), "client-state");
  const issued = await oauth
    .authorizationCodeGrantRequest(server, client, proof, parameters, redirectUri, verifier, options)
    .then((response) => oauth.processAuthorizationCodeResponse(server, client, response));
  const refreshed = await oauth
    .refreshTokenGrantRequest(server, client, proof, issued.refresh_token, { ...options, additionalParameters: { resource } })
    .then((response) => oauth.processRefreshTokenResponse(server, client, response));
  const introspect = (token) =>
    oauth
      .introspectionRequest(server, client, proof, token, options)
      .then((response) => oauth.processIntrospectionResponse(server, client, response));
  const before = await introspect(refreshed.access_token);
  await oauth
    .revocationRequest(server, client, proof, refreshed.refresh_token, options)
    .then((response) => oauth.processRevocationResponse(response));
  const after = await introspect(refreshed.access_token);
  return { issued, refreshed, before, after };
}

let input = "";
process.stdin
  .on("data", (data) => { input += data })
  .on("end", () => main(JSON.parse(input)).then((result) => console.log(JSON.stringify(result))));
