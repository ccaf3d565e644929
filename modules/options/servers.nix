# The MCP servers. Each file in server/ has some of the options of one server.
{
  config,
  gatewayLib,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
in
{
  options.services.mcp-oauth-gateway.servers = mkOption {
    type = types.attrsOf (
      types.submodule [
        ./server/access.nix
        ./server/address.nix
        ./server/bridge.nix
        ./server/bridged.nix
        ./server/catalogue.nix
        ./server/command.nix
        ./server/limits.nix
        ./server/records.nix
        ./server/rules.nix
        ./server/sandbox.nix
        ./server/user-credentials.nix
        {
          _module.args = {
            inherit gatewayLib pkgs;
            gateway = config.services.mcp-oauth-gateway;
          };
        }
      ]
    );
    default = { };
    example = lib.literalExpression ''
      {
        time.enable = true; # from the catalogue
        clock.command = [ (lib.getExe pkgs.mcp-server-time) ];
        wiki.url = "http://10.0.0.5:3000/mcp";
      }
    '';
    description = "The MCP servers, by name. The name is part of the public URL and of the units, `mcp-bridge-NAME` and, for each process, `mcp-server-NAME@…`.";
  };
}
