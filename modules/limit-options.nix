# How many processes, how long, how much: the bridge's own options, and the unit's limits.
{ lib, ... }:
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
    replicas = count 1 2 ''
      Bridges on each host that runs it. A session stays on its bridge; all else is spread over those that live.
      Only for servers that can run more than once beside each other.
    '';

    timeouts = {
      call = seconds 300 "A call that neither ends nor makes progress fails after this.";
      callTotal = seconds 3600 "A call fails after this even if it makes progress.";
      idle = seconds 1800 "A session without call or open stream ends after this.";
      stop = seconds 6 "From closing the server's input until it is killed, with SIGTERM in between.";
      drain = seconds 10 "When the unit stops, running calls may finish within this.";
    };

    limits = {
      messageBytes = count (16 * 1024 * 1024) (1024 * 1024) "Largest message in either direction.";
      sessions = count 100 500 "Sessions in all.";
      sessionsPerUser = count 20 5 "Sessions of one user.";
      connections = count 4096 1024 "Open connections.";

      memory = mkOption {
        type = types.nullOr types.str;
        default = "2G";
        example = "512M";
        description = "Memory of the bridge and every process of the server together, as {manpage}`systemd.resource-control(5)` writes it; no limit where null.";
      };

      tasks = count 1024 256 "Processes and threads together.";
    };
  };
}
