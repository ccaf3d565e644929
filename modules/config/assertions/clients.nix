# Mistakes in the clients that the operator declares.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) topology;
  option = "services.mcp-oauth-gateway";

  of =
    name: client:
    let
      proofs = lib.count (each: each != null) [
        client.publicKeyFile
        client.jwksUrl
        client.secretFile
      ];
      inherit (topology.mistakenAccess client) needUsers unknownScopes unknownServers;
    in
    [
      {
        assertion = lib.match "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" name != null;
        message = "${option}.declaredClients.${name}: a client id consists of lower-case letters, digits and hyphens.";
      }
      {
        assertion = !(topology.enabled ? ${name});
        message = "${option}.declaredClients.${name}: is the name of a server, which is that server's identifier at /introspect; choose another one.";
      }
      {
        assertion = (client.servers == [ ]) != (client.redirectUris == [ ] && !client.userAssertions);
        message = "${option}.declaredClients.${name}: set either `servers`, for a client that acts for itself, or `redirectUris` or `userAssertions`, for one that acts for users.";
      }
      {
        assertion =
          client.publicKeyFile != null -> !lib.hasInfix "PRIVATE KEY" (lib.readFile client.publicKeyFile);
        message = "${option}.declaredClients.${name}.publicKeyFile: ${baseNameOf client.publicKeyFile} is a private key. Give the public one, and make a new key pair, as this one may be in the Nix store.";
      }
      {
        assertion = proofs <= 1;
        message = "${option}.declaredClients.${name}: set only one of `publicKeyFile`, `jwksUrl` and `secretFile`.";
      }
      {
        assertion = client.servers != [ ] || client.userAssertions -> proofs > 0;
        message = "${option}.declaredClients.${name}: set `publicKeyFile`, `jwksUrl` or `secretFile`, with which it proves who it is.";
      }
      {
        assertion = client.userAssertions -> gatewayLib.identityProvider.isOidc;
        message = "${option}.declaredClients.${name}.userAssertions: only an OpenID Connect provider vouches for its users; set `identityProvider.oidc`.";
      }
      {
        assertion = unknownServers == [ ];
        message = "${option}.declaredClients.${name}.servers: \"${toString unknownServers}\" is not in `servers`.";
      }
      {
        assertion = needUsers == [ ];
        message = "${option}.declaredClients.${name}.servers: \"${toString needUsers}\" needs `userCredentials`, which only users can provide.";
      }
      {
        assertion = unknownServers != [ ] || client.redirectUris != [ ] || unknownScopes == [ ];
        message = "${option}.declaredClients.${name}.scopes: none of its servers has \"${toString unknownScopes}\"; define it in `servers.NAME.scopes`.";
      }
      {
        assertion = client.redirectUris != [ ] && client.servers == [ ] -> client.scopes == [ ];
        message = "${option}.declaredClients.${name}.scopes: users decide about the scopes of a client that logs them in.";
      }
    ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = lib.concatLists (lib.mapAttrsToList of cfg.declaredClients);
  };
}
