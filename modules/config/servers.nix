# The units that the processes of stdio servers run in: one for each connection of a bridge to the server's socket.
{
  config,
  gatewayLib,
  lib,
  utils,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib)
    hardening
    sandbox
    topology
    units
    ;
  inherit (hardening) asDefaults;
  inherit (cfg.package) python;

  # Specifiers would be expanded in what the operator wrote for the server.
  verbatim = lib.replaceStrings [ "%" ] [ "%%" ];

  # Of systemd, it passes on connections between two sockets.
  relay = "${config.systemd.package}/lib/systemd/systemd-socket-proxyd";

  serverInit = "${python.interpreter} -I -S ${cfg.package}/${python.sitePackages}/stdio_bridge/io/server_init.py";

  template =
    name: server:
    let
      keeps = server.stateDirectory != false;
      state = units.stateOf name server;
      home = if keeps then "/var/lib/${state}" else "/tmp";
      isProxied = sandbox.domainsOf server.sandbox != null;
      egressSocket = lib.optional isProxied "${units.egressUnit name}.socket";
      init =
        serverInit
        + lib.optionalString (server.stateDirectory == "per-user") " --per-user ${home}"
        + lib.optionalString isProxied " --relay ${toString sandbox.egress.port} ${relay} ${sandbox.egress.directory}/socket";
    in
    {
      description = "Process of the MCP server ${name}";
      # One that has ended leaves nothing behind, however it ended.
      unitConfig.CollectMode = "inactive-or-failed";
      # A sandbox that is set up before its socket is there would never see it.
      after = [ "nss-lookup.target" ] ++ egressSocket;
      wants = egressSocket;
      # Its connection is its bridge's: the bridge restarts, and ends what runs.
      restartIfChanged = false;
      environment = lib.mapAttrs (_: verbatim) (
        { HOME = home; } // lib.optionalAttrs isProxied sandbox.egress.environment // server.environment
      );
      inherit (server) path;
      serviceConfig = lib.mkMerge [
        server.serviceConfig
        (asDefaults {
          ExecStart = "${init} ${utils.escapeSystemdExecArgs (server.command ++ server.arguments)}";
          Slice = units.sliceOf name;
          DynamicUser = true;
          EnvironmentFile = lib.optional (server.environmentFile != null) server.environmentFile;
          MemoryMax = server.limits.memory;
          # server_init is one of them, and so is its relay.
          TasksMax = server.limits.tasks + (if isProxied then 2 else 1);
          CPUQuota = server.limits.cpu;
          TimeoutStopSec = server.timeouts.stop;
          WorkingDirectory = if server.workingDirectory != null then server.workingDirectory else home;
        })
        (lib.mkIf keeps (asDefaults {
          StateDirectory = state;
          StateDirectoryMode = "0700";
          # What it keeps is its own whatever its unit is called.
          User = "mcp-${lib.substring 0 16 (builtins.hashString "sha256" name)}";
        }))
      ];
    };

  socket = name: server: {
    description = "Processes of the MCP server ${name}";
    wantedBy = [ "sockets.target" ];
    onFailure = [ (units.recoveryOf (units.serverUnit name)) ];
    startLimitIntervalSec = 0;
    socketConfig = asDefaults (
      hardening.socket
      // {
        # In a directory that only root may enter, and that only the bridge gets to see.
        ListenSequentialPacket = units.serverSocket name;
        Accept = true;
        # Those that are being ended count, too.
        MaxConnections =
          (2 * server.limits.sessions + server.warmSpares + 8) * lib.length (topology.replicasHere server);
        # A bridge starts as many at once as it may; one that fails at once is no reason to start no more.
        TriggerLimitIntervalSec = 0;
      }
    );
  };

  slice = name: server: {
    description = "Processes of the MCP server ${name}";
    sliceConfig = asDefaults {
      MemoryMax = server.limits.total.memory;
      TasksMax = server.limits.total.tasks;
      CPUQuota = server.limits.total.cpu;
    };
  };
in
{
  config = lib.mkIf cfg.enable {
    systemd.services = lib.mapAttrs' (
      name: server: lib.nameValuePair "${units.serverUnit name}@" (template name server)
    ) topology.bridgedHere;

    systemd.sockets = lib.mapAttrs' (
      name: server: lib.nameValuePair (units.serverUnit name) (socket name server)
    ) topology.bridgedHere;

    systemd.slices = lib.mapAttrs' (
      name: server: lib.nameValuePair (lib.removeSuffix ".slice" (units.sliceOf name)) (slice name server)
    ) topology.bridgedHere;
  };
}
