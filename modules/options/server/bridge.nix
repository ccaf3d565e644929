# How many processes, how long, how much: the bridge's own options, what they are in its configuration file, and the
# unit's limits.
{
  config,
  gateway,
  gatewayLib,
  lib,
  name,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  seconds =
    default: description:
    mkOption {
      type = types.ints.positive;
      inherit default;
      example = 60;
      description = "${description} In seconds.";
    };
  count =
    default: example: description:
    mkOption {
      type = types.ints.positive;
      inherit default example description;
    };
  memory =
    default: example: description:
    mkOption {
      type = types.nullOr types.str;
      inherit default example;
      description = "${description}, as {manpage}`systemd.resource-control(5)` writes it in `MemoryMax`; no limit where null.";
    };
  cpu =
    example: description:
    mkOption {
      type = types.nullOr types.str;
      default = null;
      inherit example;
      description = "${description}, as {manpage}`systemd.resource-control(5)` writes it in `CPUQuota`: 100% is one core; no limit where null.";
    };
  isChecked = lib.length (gatewayLib.topology.replicasOf config) > 1;
  # A member without a value is left out.
  ifTraced = value: if gateway.tracing.endpoint != null then value else null;
in
{
  options = {
    isolation = mkOption {
      type = types.enum [
        "per-session"
        "per-user"
        "shared"
      ];
      default = "per-session";
      example = "shared";
      description = ''
        Which sessions share a process of the server: none (`per-session`), those of one user (`per-user`), or all
        (`shared`). Use `shared` only for servers that keep no state between calls.
      '';
    };

    warmSpares = mkOption {
      type = types.ints.unsigned;
      default = 0;
      example = 1;
      description = "Number of processes that are started in advance, so that a new session does not wait.";
    };

    idleExit = mkOption {
      type = types.ints.unsigned;
      default = if config.warmSpares > 0 || isChecked then 0 else 600;
      defaultText = lib.literalMD "600; 0 with `warmSpares`, and where the server has several replicas";
      example = 3600;
      description = ''
        Time in seconds after which a bridge exits that nobody uses (no request, session, process or connection), so that
        it costs no memory; 0 keeps it running. Its socket stays, and starts it for the next request, which waits for
        that. Must be 0 with `warmSpares`, and with several replicas, which the router's checks would keep awake.
      '';
    };

    startsAtOnce = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      example = 2;
      description = "How many processes may start at the same time. If null, one per core.";
    };

    era = mkOption {
      type = types.enum [
        "auto"
        "legacy"
        "modern"
        "dual"
      ];
      default = "auto";
      example = "legacy";
      description = ''
        Which revisions of MCP the server speaks: `legacy` up to 2025-11-25, `modern` from 2026-07-28, `dual` both. With
        `auto` the bridge asks the server once. Clients of both eras can use the server in any case.
      '';
    };

    protocolVersions = mkOption {
      type = types.nullOr (
        types.nonEmptyListOf (
          types.enum [
            "2024-11-05"
            "2025-03-26"
            "2025-06-18"
            "2025-11-25"
            "2026-07-28"
          ]
        )
      );
      default = null;
      example = [
        "2025-06-18"
        "2025-11-25"
      ];
      description = ''
        The revisions of MCP that the bridge offers to clients, whatever the server speaks. If null, all of them. A client
        that asks for another revision is told which ones there are.
      '';
    };

    serverProtocolVersion = mkOption {
      type = types.nullOr (
        types.enum [
          "2024-11-05"
          "2025-03-26"
          "2025-06-18"
          "2025-11-25"
        ]
      );
      default = null;
      example = "2024-11-05";
      description = ''
        The revision with which the bridge initializes the server, for servers that fail with other revisions. If null, the
        revision that the client asks for. A server whose `era` is `modern` is not initialized.
      '';
    };

    logLevel = mkOption {
      type = types.enum [
        "debug"
        "info"
        "warning"
        "error"
      ];
      default = "info";
      example = "debug";
      description = "The lowest level of messages that the bridge logs. Lines that the server writes to standard error are `info`.";
    };

    replicas = count 1 2 ''
      Number of bridges on each host that runs the server. A session stays on its bridge; other requests are distributed
      over all of them. Use it only for servers that can run more than once at the same time.
    '';

    timeouts = {
      call = seconds 300 "A call fails if it neither ends nor makes progress within this time.";
      callTotal = seconds 3600 "A call fails after this time even if it makes progress.";
      input = seconds 600 "A call that has asked the user for input waits this long for the answer.";
      idle = seconds 1800 "A session ends after this time without a call or an open stream.";
      stop = seconds 6 "Time from closing the server's standard input until SIGKILL, with SIGTERM in between.";
      drain = seconds 10 "Running calls may finish within this time after the unit is stopped.";
    };

    limits = {
      messageBytes = count (16 * 1024 * 1024) (
        1024 * 1024
      ) "Size of the largest message in either direction, in bytes.";
      sessions =
        count 100 500
          "Processes of the server, and so sessions that have a process of their own. At the limit, a session that is not in use is ended.";
      sessionsPerUser = count 20 5 "Processes of the server for one user.";
      sharedSessions = count 1000 5000 "Sessions that share a process (`per-user` and `shared`).";
      sharedSessionsPerUser = count 100 20 "Sessions of one user that share a process.";
      calls = count 10000 1000 "Unanswered calls of one process.";
      callsPerUser = mkOption {
        type = types.nullOr types.ints.positive;
        default = null;
        example = 4;
        description = ''
          Unanswered calls of tools, prompts and resources of one user. A call that is one too many is answered with 429. Each
          of the `replicas` counts for itself. No limit where null.
        '';
      };
      callsPerMinute = mkOption {
        type = types.nullOr types.ints.positive;
        default = null;
        example = 120;
        description = ''
          How many calls of tools, prompts and resources each user may make within any minute. A call that is one too many
          is answered with 429 and `Retry-After`. Each of the `replicas` counts for itself. No limit where null.
        '';
      };
      connections = count 4096 1024 "Open connections.";

      memory =
        memory "2G" "512M"
          "Memory of one process of the server, with its children and its temporary files";

      tasks = count 1024 256 "Processes and threads of one process of the server together.";

      cpu = cpu "100%" "Processor time of one process of the server";

      total = {
        memory = memory "4G" "8G" "Memory of all processes of the server on one host together";
        tasks =
          count 8192 2048
            "Processes and threads of all processes of the server on one host together.";
        cpu = cpu "200%" "Processor time of all processes of the server on one host together";
      };
    };

    settings = mkOption {
      type = types.submodule { freeformType = (pkgs.formats.json { }).type; };
      default = { };
      example = {
        keep-alive = 30;
      };
      description = ''
        Members of the bridge's configuration file, {file}`bridge-NAME.json`, for options of `mcp-stdio-bridge` that have no
        option of their own here. A value here replaces the value of another option, and null leaves the member out. The
        file is world-readable. A member that the bridge does not know fails the build.
      '';
    };
  };

  # A new option of the bridge is a line here, beside its own above.
  config.settings = lib.mkIf (config.url == null) (
    lib.mapAttrs (_: lib.mkDefault) {
      # The command and its environment stand in the units that a connection starts.
      server-socket = gatewayLib.units.socketOfBridge;
      # Handed over as an open file, which only root may read.
      require-identity = "fd:identity-key";

      inherit (config) isolation;
      server-era = config.era;
      protocol-version = config.protocolVersions;
      server-protocol-version = config.serverProtocolVersion;
      log-level = config.logLevel;
      warm-spares = config.warmSpares;
      starts-at-once = config.startsAtOnce;
      idle-exit = config.idleExit;

      call-timeout = config.timeouts.call;
      call-timeout-total = config.timeouts.callTotal;
      input-timeout = config.timeouts.input;
      idle-timeout = config.timeouts.idle;
      stop-timeout = config.timeouts.stop;
      drain-timeout = config.timeouts.drain;

      max-message-bytes = config.limits.messageBytes;
      max-sessions = config.limits.sessions;
      max-sessions-per-user = config.limits.sessionsPerUser;
      max-shared-sessions = config.limits.sharedSessions;
      max-shared-sessions-per-user = config.limits.sharedSessionsPerUser;
      max-calls = config.limits.calls;
      max-calls-per-user = config.limits.callsPerUser;
      calls-per-minute = config.limits.callsPerMinute;
      max-connections = config.limits.connections;

      tracing-endpoint = gateway.tracing.endpoint;
      tracing-sample-ratio = ifTraced gateway.tracing.sampleRatio;
      tracing-service-name = ifTraced "mcp-bridge-${name}";
    }
  );
}
