# One socket-activated bridge per stdio server and replica, and one unit per server that derives its key.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib)
    hardening
    keys
    reach
    sandbox
    topology
    units
    ;
  inherit (hardening) asDefaults;

  # OpenFile has parts between colons.
  escaped = lib.replaceStrings [ "\\" ":" ] [ "\\\\" "\\x3a" ];

  # The bridge gets a key of its own; the master key, from which any server's could be made, never comes near it.
  identityUnit = name: {
    description = "Identity key of the MCP server ${name}";
    requires = keys.masterKeyUnits;
    after = keys.masterKeyUnits;
    # Else requests would restart the bridge while both wait for a switch to go on.
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

  nameOf = topology.bridgeUnit;
  socketOf = topology.bridgeSocket;
  descriptionOf =
    name: replica:
    "MCP server ${name}" + lib.optionalString (replica.instance != "") " (${replica.name})";

  bridgeUnit =
    name: server: replica:
    let
      socket = "${socketOf name replica}.socket";
      derived = server.identityKeyFile == null;
      keyFile = if derived then keys.identityKeyFile name else server.identityKeyFile;
      serverSocket = units.serverSocket name;
      # It asks the auth service for users' credentials.
      network = reach (lib.optionals (server.userCredentials != { }) topology.authAddresses);
      journal = lib.optional cfg.records.enable "systemd-journald@${units.callNamespace}.socket";
    in
    {
      description = descriptionOf name replica;
      requires = [
        socket
        "${units.serverUnit name}.socket"
      ]
      ++ lib.optional derived "${keys.identityKeyUnit name}.service";
      after = [
        socket
        "${units.serverUnit name}.socket"
      ]
      ++ lib.optional derived "${keys.identityKeyUnit name}.service"
      ++ journal;
      # Without a record rather than without an answer: the bridge starts if the journal does not.
      wants = journal;
      # Requests wait in the socket meanwhile.
      stopIfChanged = false;
      # It ends the processes that it has, of which some may be started ahead of need.
      restartTriggers = [ (fingerprintOf config.systemd.services."${units.serverUnit name}@") ];
      startLimitIntervalSec = 0;
      # The host's certificate authorities, for a collector with a private one.
      environment = lib.mkIf isTraced { REQUESTS_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"; };
      serviceConfig = asDefaults (
        hardening.unit
        // hardening.restart
        // sandbox.isolated
        // network
        // {
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
          # Not `always`: it exits when nobody uses it, and its socket starts it again.
          Restart = "on-failure";
          WatchdogSec = 60;
          TimeoutStopSec = server.timeouts.drain + server.timeouts.stop + 10;
          DynamicUser = true;
          # A net: all that clients and the server's processes send it is held within bounds of its own.
          MemoryMax = "2G";
          OpenFile = "${escaped keyFile}:identity-key:read-only";
          # Of /run it sees the service manager, and the directory of the socket that starts the server's processes: the
          # directory, because the socket in it may be made again.
          TemporaryFileSystem = hardening.base.TemporaryFileSystem ++ [ "/run:ro" ];
          BindPaths = [ "/run/systemd/notify" ] ++ network.BindPaths or [ ];
          BindReadOnlyPaths = [
            "${dirOf serverSocket}:${dirOf units.socketOfBridge}"
          ]
          ++ lib.optional cfg.records.enable "-${units.callJournal}";
          # It starts nothing: no other process can be made, and nothing can be run from where it may write. Traces are
          # sent by a thread, and another one ends that.
          LimitNPROC = if isTraced then 3 else 1;
          NoExecPaths = [
            "/dev/shm"
            "/tmp"
            "/var/tmp"
          ];
        }
      );
    };

  socketUnit = name: _: replica: {
    description = descriptionOf name replica;
    wantedBy = [ "sockets.target" ];
    onFailure = [ (units.recoveryOf (socketOf name replica)) ];
    startLimitIntervalSec = 0;
    listenStreams = [ (topology.authority replica.address replica.port) ];
    socketConfig = asDefaults (
      hardening.socket // topology.socketConfig // { Service = "${nameOf name replica}.service"; }
    );
  };

  isTraced = cfg.tracing.endpoint != null;

  # Changes with what a service does.
  fingerprintOf =
    service:
    builtins.hashString "sha256" (
      builtins.unsafeDiscardStringContext (
        builtins.toJSON {
          inherit (service) environment path serviceConfig;
        }
      )
    );

  directory = mode: {
    inherit mode;
    user = "root";
    group = "root";
  };
  emptyRoots = [
    sandbox.emptyRoots
  ]
  ++ map sandbox.emptyRootOf (lib.attrNames topology.bridgedHere);

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
    # To be read; a bridge is started with the file itself, and restarted where that changes.
    environment.etc = lib.mapAttrs' (
      name: server:
      lib.nameValuePair "mcp-oauth-gateway/bridge-${name}.json" {
        source = configurationFile name server;
      }
    ) topology.bridgedHere;

    systemd.tmpfiles.settings.mcp-oauth-gateway = lib.mkMerge [
      { "/run/mcp-oauth-gateway".d = directory "0700"; }
      (lib.genAttrs emptyRoots (_: {
        d = directory "0755";
      }))
    ];

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
