# One sandboxed, socket-activated unit per stdio server, and one that derives its key.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) hardening keys topology;
  inherit (hardening) asDefaults;

  # OpenFile has parts between colons.
  escaped = lib.replaceStrings [ "\\" ":" ] [ "\\\\" "\\x3a" ];

  # Specifiers would be expanded in what the operator wrote for the server.
  verbatim = lib.replaceStrings [ "%" ] [ "%%" ];

  # The bridge gets a key of its own; the master key, from which any server's could be made, never comes near it.
  identityUnit = name: {
    description = "Identity key of the MCP server ${name}";
    requires = keys.masterKeyUnits;
    after = keys.masterKeyUnits;
    # Else requests would start the bridge anew while both wait for a switch to go on.
    stopIfChanged = false;
    serviceConfig = asDefaults (
      hardening.unit
      // {
        Type = "oneshot";
        RemainAfterExit = true;
        DynamicUser = true;
        LoadCredential = [ "master-key:${keys.masterKeyFile}" ];
        ExecStart = "${lib.getExe' cfg.package "mcp-gatewayctl"} keys identity ${name} --master-key %d/master-key";
        # systemd opens it as root, with the mode that UMask leaves: the key is readable by nobody else.
        StandardOutput = "truncate:${keys.identityKeyFile name}";
        UMask = "0077";
      }
    );
  };

  bridge = lib.getExe' cfg.package "mcp-stdio-bridge";
  configurationFile =
    name: server:
    gatewayLib.checkedJson {
      name = "bridge-${name}.json";
      value = lib.filterAttrs (_: value: value != null) server.settings;
      check = "${bridge} --check --config";
    };

  nameOf = name: replica: "mcp-bridge-${name}${replica.instance}";
  socketOf =
    name: replica:
    let
      usualPort = gatewayLib.ports.bridge name + replica.offset;
    in
    topology.socketOf (nameOf name replica) usualPort replica.address replica.port;

  bridgeUnit =
    name: server: replica:
    let
      socket = "${socketOf name replica}.socket";
      derived = server.identityKeyFile == null;
      home = if server.stateDirectory then "/var/lib/mcp-bridge-${name}" else "/tmp";
    in
    {
      description = "MCP server ${name}${lib.optionalString (replica.instance != "") " (${replica.name})"}";
      requires = [ socket ] ++ lib.optional derived "${keys.identityKeyUnit name}.service";
      after = [
        socket
        # A sandbox that is set up before its socket is there would never see it.
        "nss-lookup.target"
      ]
      ++ lib.optional derived "${keys.identityKeyUnit name}.service";
      # Requests wait in the socket meanwhile.
      stopIfChanged = false;
      environment = lib.mapAttrs (_: verbatim) ({ HOME = home; } // server.environment);
      inherit (server) path;
      startLimitIntervalSec = 0;
      serviceConfig = lib.mkMerge [
        server.serviceConfig
        (asDefaults hardening.restart)
        (asDefaults {
          Type = "notify";
          ExecStart = toString (
            [
              bridge
              "--config"
              # Not its name in /etc, which the sandbox hides.
              (configurationFile name server)
            ]
            ++ lib.optionals (lib.length (topology.replicasOf server) > 1) [
              "--replica"
              replica.name
            ]
          );
          WatchdogSec = 60;
          # The bridge alone is told to stop: running calls still need their servers.
          KillMode = "mixed";
          TimeoutStopSec = server.timeouts.drain + server.timeouts.stop + 10;
          DynamicUser = true;
          # Not as a credential, which the server could read, too: it has the bridge's user.
          OpenFile = "${escaped (if derived then keys.identityKeyFile name else server.identityKeyFile)}:identity-key:read-only";
          EnvironmentFile = lib.optional (server.environmentFile != null) server.environmentFile;
          MemoryMax = server.limits.memory;
          TasksMax = server.limits.tasks;
          WorkingDirectory = if server.workingDirectory != null then server.workingDirectory else home;
        })
        (lib.mkIf server.stateDirectory (asDefaults {
          StateDirectory = "mcp-bridge-${name}";
          StateDirectoryMode = "0700";
          # Replicas share what the server keeps.
          User = "mcp-${lib.substring 0 16 (builtins.hashString "sha256" name)}";
        }))
      ];
    };

  socketUnit = name: _: replica: {
    description = "MCP server ${name}${lib.optionalString (replica.instance != "") " (${replica.name})"}";
    wantedBy = [ "sockets.target" ];
    listenStreams = [ (topology.authority replica.address replica.port) ];
    socketConfig = asDefaults (
      hardening.socket // topology.socketConfig // { Service = "${nameOf name replica}.service"; }
    );
  };

  # One of something per replica on this host.
  perReplica =
    nameUnit: mkUnit:
    lib.listToAttrs (
      lib.concatLists (
        lib.mapAttrsToList (
          name: server:
          map (replica: lib.nameValuePair (nameUnit name replica) (mkUnit name server replica)) (
            topology.replicasHere server
          )
        ) topology.bridgedHere
      )
    );
in
{
  config = lib.mkIf cfg.enable {
    # To be read; a bridge is started with the file itself, and anew where that changes.
    environment.etc = lib.mapAttrs' (
      name: server:
      lib.nameValuePair "mcp-oauth-gateway/bridge-${name}.json" { source = configurationFile name server; }
    ) topology.bridgedHere;

    systemd.tmpfiles.settings.mcp-oauth-gateway = {
      "/run/mcp-oauth-gateway".d = {
        mode = "0700";
        user = "root";
        group = "root";
      };
      ${gatewayLib.sandbox.emptyRoot}.d = {
        mode = "0755";
        user = "root";
        group = "root";
      };
    };

    systemd.services =
      lib.mapAttrs' (name: _: lib.nameValuePair (keys.identityKeyUnit name) (identityUnit name)) (
        lib.filterAttrs (_: server: server.identityKeyFile == null) topology.bridgedHere
        # The health check asks as the gateway would, with these keys in place of the master key.
        // lib.optionalAttrs (cfg.health.enable && topology.has "auth") cfg.settings.resources
      )
      // perReplica nameOf bridgeUnit
      // {
        # Sandboxes hold on to the directory of its socket: another one after a restart would be out of their sight.
        nscd = lib.mkIf (config.services.nscd.enable && topology.bridgedHere != { }) {
          serviceConfig.RuntimeDirectoryPreserve = lib.mkDefault true;
        };
      };

    systemd.sockets = perReplica socketOf socketUnit;
  };
}
