# One sandboxed, socket-activated unit per stdio server, and one that derives its key.
{
  config,
  lib,
  utils,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  hardening = import ../nix/hardening.nix;
  bridged = lib.filterAttrs (_: server: server.url == null) cfg.servers;
  keyFile = name: "/run/mcp-oauth-gateway/identity-${name}";

  # The bridge gets a key of its own; the master key, from which any server's could be made, never comes near it.
  identityUnit = name: {
    description = "Identity key of the MCP server ${name}";
    requires = lib.optional (cfg.masterKeyFile == null) "mcp-oauth-gateway-master-key.service";
    after = lib.optional (cfg.masterKeyFile == null) "mcp-oauth-gateway-master-key.service";
    serviceConfig = hardening.base // {
      Type = "oneshot";
      RemainAfterExit = true;
      Slice = "mcp-gateway.slice";
      DynamicUser = true;
      LoadCredential = [ "master-key:${cfg.generatedMasterKeyFile}" ];
      ExecStart = "${lib.getExe' cfg.package "mcp-gatewayctl"} keys identity ${name} --master-key %d/master-key";
      # systemd opens it as root, with the mode that UMask leaves: the key is readable by nobody else.
      StandardOutput = "truncate:${keyFile name}";
      UMask = "0077";
    };
  };

  bridgeUnit = name: server: {
    description = "MCP server ${name}";
    requires = [ "mcp-identity-${name}.service" ];
    after = [ "mcp-identity-${name}.service" ];
    inherit (server) environment path;
    serviceConfig =
      hardening.base
      // hardening.network.${server.sandbox.network}
      // {
        # The unit's environment is the one that the operator wrote for this server: all of it is passed on.
        Type = "notify";
        Slice = "mcp-gateway.slice";
        ExecStart = "${lib.getExe' cfg.package "mcp-stdio-bridge"} --require-identity %d/identity-key --pass-env=* -- ${utils.escapeSystemdExecArgs server.command}";
        Restart = "on-failure";
        RestartSec = 1;
        DynamicUser = true;
        LoadCredential = [ "identity-key:${keyFile name}" ];
        EnvironmentFile = lib.optional (server.environmentFile != null) server.environmentFile;
      }
      // server.serviceConfig;
  };
in
{
  config = lib.mkIf cfg.enable {
    systemd.tmpfiles.settings.mcp-oauth-gateway."/run/mcp-oauth-gateway".d = {
      mode = "0700";
      user = "root";
      group = "root";
    };

    systemd.services =
      lib.mapAttrs' (name: _: lib.nameValuePair "mcp-identity-${name}" (identityUnit name)) bridged
      // lib.mapAttrs' (name: server: lib.nameValuePair "mcp-bridge-${name}" (bridgeUnit name server)) bridged;

    systemd.sockets = lib.mapAttrs' (
      name: server:
      lib.nameValuePair "mcp-bridge-${name}" {
        description = "MCP server ${name}";
        wantedBy = [ "sockets.target" ];
        listenStreams = [ "127.0.0.1:${toString server.port}" ];
        socketConfig.Backlog = 1024;
      }
    ) bridged;
  };
}
