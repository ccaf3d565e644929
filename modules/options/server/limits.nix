# Time-outs and limits of a server's bridge, and limits of the units of its processes.
{
  config,
  lib,
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
in
{
  options = {
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
  };

  # A new limit of the bridge is a line here, beside its option above.
  config.settings = lib.mkIf (config.url == null) (
    lib.mapAttrs (_: lib.mkDefault) {
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
    }
  );
}
