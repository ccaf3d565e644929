# The options of a server's bridge, and what they are in its configuration file.
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

    replicas = mkOption {
      type = types.ints.positive;
      default = 1;
      example = 2;
      description = ''
        Number of bridges on each host that runs the server. A session stays on its bridge; other requests are distributed
        over all of them. Use it only for servers that can run more than once at the same time.
      '';
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

      tracing-endpoint = gateway.tracing.endpoint;
      tracing-sample-ratio = ifTraced gateway.tracing.sampleRatio;
      tracing-service-name = ifTraced "mcp-bridge-${name}";
    }
  );
}
