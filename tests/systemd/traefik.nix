# services.traefik as nixpkgs has it, under each of the names that it has had or may get.
{
  config,
  lib,
  pkgs,
  mkFile,
  traefikNames,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.traefik;

  # The paths of the static and the dynamic configuration.
  names = {
    options = {
      static = [ "staticConfigOptions" ];
      dynamic = [ "dynamicConfigOptions" ];
    };
    static = {
      static = [
        "static"
        "settings"
      ];
      dynamic = [
        "dynamic"
        "settings"
      ];
    };
    install = {
      static = [
        "install"
        "settings"
      ];
      dynamic = [
        "routing"
        "settings"
      ];
    };
  };
  inherit (names.${traefikNames}) static dynamic;

  dynamicFile = mkFile "dynamic.yml" (builtins.toJSON (lib.getAttrFromPath dynamic cfg));
  staticFile = mkFile "static.yml" (
    builtins.toJSON (
      lib.recursiveUpdate (lib.getAttrFromPath static cfg) { providers.file.filename = dynamicFile.path; }
    )
  );
  settings = default: mkOption {
    inherit (pkgs.formats.json { }) type;
    inherit default;
  };
in
{
  options.services.traefik =
    lib.recursiveUpdate
      {
        enable = mkOption {
          type = types.bool;
          default = false;
        };
        package = mkOption {
          type = types.package;
          default = pkgs.traefik;
        };
        dataDir = mkOption {
          type = types.path;
          default = "/var/lib/traefik";
        };
      }
      (
        lib.recursiveUpdate (lib.setAttrByPath static (settings { entryPoints.http.address = ":80"; })) (
          lib.setAttrByPath dynamic (settings { })
        )
      );

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
