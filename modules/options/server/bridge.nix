# How many processes, how long, how much: the bridge's own options, what they are in its configuration file, and the
# unit's limits.
{
  config,
  lib,
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
        Which sessions share a process of the server: none, those of one user, or all. `shared` is for servers that keep
        nothing from one caller to the next.
      '';
    };

    warmSpares = mkOption {
      type = types.ints.unsigned;
      default = 0;
      example = 1;
      description = "Processes kept started ahead of need, so that a session does not wait for one.";
    };

    startsAtOnce = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      example = 2;
      description = "How many processes start side by side; one per core where null.";
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
        Which MCP the server speaks: `legacy` up to 2025-11-25, `modern` from 2026-07-28, `dual` both. `auto` asks it
        once. Clients of either are served whatever it is.
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
        The revisions of MCP that clients are offered, whatever the server speaks; all of them where null. A client that
        asks for another is told which there are.
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
        The revision that the server is initialized with, for one that fails with others; the one that its client asks
        for where null. A server whose `era` is `modern` is not initialized.
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
      description = "What the bridge writes to the journal. What the server writes to standard error counts as `info`.";
    };

    replicas = count 1 2 ''
      Bridges on each host that runs it. A session stays on its bridge; all else is spread over those that live.
      Only for servers that can run more than once beside each other.
    '';

    timeouts = {
      call = seconds 300 "A call that neither ends nor makes progress fails after this.";
      callTotal = seconds 3600 "A call fails after this even if it makes progress.";
      input = seconds 600 "A call that asked its user for something waits for the answer so long.";
      idle = seconds 1800 "A session without call or open stream ends after this.";
      stop = seconds 6 "From closing the server's input until it is killed, with SIGTERM in between.";
      drain = seconds 10 "When the unit stops, running calls may finish within this.";
    };

    limits = {
      messageBytes = count (16 * 1024 * 1024) (1024 * 1024) "Largest message in either direction.";
      sessions = count 100 500 "Processes in all, and so sessions that have one of their own. At a bound what is not in use makes room.";
      sessionsPerUser = count 20 5 "Processes of one user.";
      sharedSessions = count 1000 5000 "Sessions in all where they share a process (`per-user` and `shared`).";
      sharedSessionsPerUser = count 100 20 "Such sessions of one user.";
      calls = count 10000 1000 "Unanswered calls of one process.";
      connections = count 4096 1024 "Open connections.";

      memory = mkOption {
        type = types.nullOr types.str;
        default = "2G";
        example = "512M";
        description = "Memory of the bridge and every process of the server together, as {manpage}`systemd.resource-control(5)` writes it; no limit where null.";
      };

      tasks = count 1024 256 "Processes and threads together.";
    };

    settings = mkOption {
      type = types.submodule { freeformType = (pkgs.formats.json { }).type; };
      default = { };
      example = {
        keep-alive = 30;
      };
      description = ''
        The bridge's configuration file, {file}`bridge-NAME.json`, for what no option here models: any option of
        `mcp-stdio-bridge`, without the dashes in front. A value here takes the place of the one that an option gives,
        and null leaves a member out. The world can read the file. A member that the bridge does not know fails the
        build.
      '';
    };
  };

  # A new option of the bridge is a line here, beside its own above.
  config.settings = lib.mapAttrs (_: lib.mkDefault) {
    command = config.command ++ config.arguments;
    # Handed over as an open file: the server has the bridge's user, and must not be able to read it.
    require-identity = "fd:identity-key";
    # The unit's environment is the one that the operator wrote for this server.
    pass-env = [ "*" ];

    inherit (config) isolation;
    server-era = config.era;
    protocol-version = config.protocolVersions;
    server-protocol-version = config.serverProtocolVersion;
    log-level = config.logLevel;
    warm-spares = config.warmSpares;
    starts-at-once = config.startsAtOnce;

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
    max-connections = config.limits.connections;
  };
}
