# services.traefik as nixpkgs has it.
{
  config,
  lib,
  pkgs,
  mkFile,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.traefik;
  format = pkgs.formats.toml { };

  dynamicFile = mkFile "dynamic.toml" (format.render cfg.dynamicConfigOptions);
  staticFile = mkFile "static.toml" (
    format.render (
      lib.recursiveUpdate cfg.staticConfigOptions { providers.file.filename = dynamicFile.path; }
    )
  );
  settings =
    default:
    mkOption {
      inherit (format) type;
      inherit default;
    };
in
{
  options.services.traefik = {
    enable = lib.mkEnableOption "Traefik";
    package = mkOption {
      type = types.package;
      default = pkgs.traefik;
    };
    dataDir = mkOption {
      type = types.path;
      default = "/var/lib/traefik";
    };
    staticConfigOptions = settings { entryPoints.http.address = ":80"; };
    dynamicConfigOptions = settings { };
  };

  config = lib.mkIf cfg.enable {
    users.users.traefik.group = "traefik";

    systemd.services.traefik = {
      description = "Traefik web server";
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      wantedBy = [ "multi-user.target" ];
      startLimitIntervalSec = 86400;
      startLimitBurst = 5;
      serviceConfig = {
        ExecStart = "${cfg.package}/bin/traefik --configfile=${staticFile.path}";
        Type = "simple";
        User = "traefik";
        Group = "traefik";
        Restart = "on-failure";
        AmbientCapabilities = "cap_net_bind_service";
        CapabilityBoundingSet = "cap_net_bind_service";
        NoNewPrivileges = true;
        LimitNPROC = 64;
        LimitNOFILE = 1048576;
        PrivateTmp = true;
        PrivateDevices = true;
        ProtectHome = true;
        ProtectSystem = "full";
        ReadWritePaths = [ cfg.dataDir ];
        RuntimeDirectory = "traefik";
        # nixpkgs has it made with the user.
        StateDirectory = "traefik";
        WorkingDirectory = cfg.dataDir;
      };
    };

    environment.etc = lib.listToAttrs (
      map (file: lib.nameValuePair file.key { inherit (file) text; }) [
        dynamicFile
        staticFile
      ]
    );
  };
}
