# Issuers whose tokens workloads exchange for access tokens.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway.trustedIssuers = mkOption {
    type = types.attrsOf (
      types.submodule {
        options = {
          issuer = mkOption {
            type = types.strMatching "https://[^?#]+";
            example = "https://token.actions.githubusercontent.com";
            description = "The issuer, exactly as its tokens name it (`iss`).";
          };

          audience = mkOption {
            type = types.nonEmptyStr;
            example = "https://mcp.example.com";
            description = "The audience of its tokens (`aud`), which must be the only one. Use one that no other service accepts. Entries with the same issuer have different audiences.";
          };

          subjects = mkOption {
            type = types.nonEmptyListOf types.nonEmptyStr;
            example = [ "repo:acme@1234567/app@7654321:ref:refs/heads/main" ];
            description = ''
              The workloads, by their subjects (`sub`). The whole subject must match an entry. `*` stands for one or more
              characters other than `:` and `/`. It stands alone between two of these; after the last of them, it may
              follow other text. The error that a refused workload gets names its subject. At GitHub, the subjects of
              repositories from before 15 July 2026 lack the ids (`repo:acme/app:ref:refs/heads/main`).
            '';
          };

          claims = mkOption {
            type = types.attrsOf (
              types.oneOf [
                types.str
                types.bool
                types.int
              ]
            );
            default = { };
            example = {
              repository_owner_id = "1234567";
            };
            description = "Other claims that a token must have, with exactly these values.";
          };

          keysFile = mkOption {
            type = types.nullOr types.path;
            default = null;
            example = lib.literalExpression "./cluster-keys.json";
            description = "The issuer's public keys as a JWK set, for an issuer that is not at a public address. Evaluation reads the file. If null, they are found by the issuer's discovery document.";
          };

          servers = mkOption {
            type = types.nonEmptyListOf types.str;
            example = [ "wiki" ];
            description = "The servers that the workloads may use. Allow-lists do not apply.";
          };

          scopes = mkOption {
            type = types.listOf types.str;
            default = [ ];
            example = [ "write" ];
            description = "The scopes that they may have at these servers, in addition to those that each request needs; `servers.NAME.scopes` defines them. Allow-lists of scopes do not apply.";
          };

          lifetime = mkOption {
            type = types.ints.between 1 86400;
            default = 900;
            example = 300;
            description = "For how many seconds an access token is valid.";
          };
        };
      }
    );
    default = { };
    example = lib.literalExpression ''
      {
        github-actions = {
          issuer = "https://token.actions.githubusercontent.com";
          audience = "https://mcp.example.com";
          subjects = [ "repo:acme@1234567/app@7654321:ref:refs/heads/main" ];
          servers = [ "wiki" ];
        };
      }
    '';
    description = ''
      Issuers of tokens that workloads, such as the jobs of GitHub Actions, exchange for access tokens (RFC 7523), so
      that they need no secret. Names consist of lower-case letters, digits and hyphens. The user is
      `workload:NAME:SUBJECT`.
    '';
  };
}
