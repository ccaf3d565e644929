# The NixOS options that the module sets, and what NixOS makes of them: enough to run its units elsewhere.
# Units of Redis and Traefik follow nixpkgs' own modules.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;

  anything = mkOption {
    type = types.anything;
    default = { };
  };
  strings = mkOption {
    type = types.listOf types.str;
    default = [ ];
  };

  unitOptions = {
    description = mkOption { type = types.str; };
    unitConfig = anything;
    startLimitIntervalSec = mkOption {
      type = types.nullOr types.int;
      default = null;
    };
    startLimitBurst = mkOption {
      type = types.nullOr types.int;
      default = null;
    };
  }
  // lib.genAttrs [
    "wantedBy"
    "wants"
    "requires"
    "after"
    "before"
    "bindsTo"
    "partOf"
    "onFailure"
  ] (_: strings);

  mkUnits =
    options:
    mkOption {
      type = types.attrsOf (types.submodule { options = unitOptions // options; });
      default = { };
    };

  # A file whose path changes with its text, as one in the Nix store.
  mkFile = name: text: rec {
    key = "stand-in/${builtins.hashString "md5" text}-${name}";
    path = "/etc/${key}";
    inherit text;
  };

  redisConf =
    name: server:
    mkFile "redis-${name}.conf" (
      lib.concatStrings (
        lib.mapAttrsToList (key: value: "${key} ${toString value}\n") (
          {
            inherit (server) port;
            unixsocket = server.unixSocket;
            unixsocketperm = server.unixSocketPerm;
            daemonize = "no";
            supervised = "systemd";
            appendonly = if server.appendOnly then "yes" else "no";
            dir = "/var/lib/redis-${name}";
          }
          // server.settings
        )
      )
    );

  redis = lib.mapAttrs' (
    name: server:
    let
      unit = "redis-${name}";
    in
    lib.nameValuePair unit {
      description = "Redis Server - ${unit}";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      serviceConfig = {
        ExecStart = "${pkgs.redis}/bin/redis-server ${(redisConf name server).path}";
        Type = "notify";
        User = server.user;
        Group = server.group;
        RuntimeDirectory = unit;
        RuntimeDirectoryMode = "0750";
        StateDirectory = unit;
        StateDirectoryMode = "0700";
        UMask = "0077";
      };
    }
  ) config.services.redis.servers;

  traefikDynamic = mkFile "dynamic.yml" (builtins.toJSON config.services.traefik.dynamicConfigOptions);
  traefikStatic = mkFile "static.yml" (
    builtins.toJSON (
      lib.recursiveUpdate config.services.traefik.staticConfigOptions {
        providers.file.filename = traefikDynamic.path;
      }
    )
  );

  traefik = {
    description = "Traefik web server";
    wants = [ "network-online.target" ];
    after = [ "network-online.target" ];
    wantedBy = [ "multi-user.target" ];
    serviceConfig = {
      ExecStart = "${pkgs.traefik}/bin/traefik --configfile=${traefikStatic.path}";
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
      ReadWritePaths = [ config.services.traefik.dataDir ];
      RuntimeDirectory = "traefik";
      # nixpkgs has it made with the user.
      StateDirectory = "traefik";
      WorkingDirectory = config.services.traefik.dataDir;
  };
  };
in
{
  options = {
    assertions = mkOption {
      type = types.listOf types.unspecified;
      default = [ ];
    };
    warnings = strings;

    environment.etc = mkOption {
      type = types.attrsOf (
        types.submodule (
          { config, ... }:
          {
            options = {
              text = mkOption { type = types.lines; };
              source = mkOption {
                type = types.str;
                # NixOS has a store path here, which changes with the text.
                default = "/nix/store/${builtins.hashString "md5" config.text}-etc";
              };
            };
          }
        )
      );
      default = { };
    };
    environment.systemPackages = mkOption {
      type = types.listOf types.package;
      default = [ ];
    };

    networking.firewall.allowedTCPPorts = mkOption {
      type = types.listOf types.port;
      default = [ ];
    };

    networking.hosts = mkOption {
      type = types.attrsOf (types.listOf types.str);
      default = { };
    };

    networking.nameservers = strings;

    specialisation = mkOption {
      type = types.attrsOf (types.submodule { options.configuration = mkOption { type = types.deferredModule; }; });
      default = { };
    };

    users.users = mkOption {
      type = types.attrsOf types.anything;
      default = { };
    };
    users.groups = mkOption {
      type = types.attrsOf types.anything;
      default = { };
    };

    services.redis.servers = mkOption {
      type = types.attrsOf (
        types.submodule (
          { name, config, ... }:
          {
            options = {
              enable = mkOption { type = types.bool; };
              user = mkOption {
                type = types.str;
                default = "redis-${name}";
              };
              group = mkOption {
                type = types.str;
                default = config.user;
              };
              port = mkOption { type = types.port; };
              unixSocket = mkOption {
                type = types.path;
                default = "/run/redis-${name}/redis.sock";
              };
              unixSocketPerm = mkOption { type = types.int; };
              appendOnly = mkOption { type = types.bool; };
              settings = anything;
            };
          }
        )
      );
      default = { };
    };

    services.traefik = {
      enable = mkOption { type = types.bool; };
      package = mkOption {
        type = types.package;
        default = pkgs.traefik;
      };
      dataDir = mkOption {
        type = types.path;
        default = "/var/lib/traefik";
      };
      staticConfigOptions = mkOption {
        inherit (pkgs.formats.json { }) type;
        default.entryPoints.http.address = ":80";
      };
      dynamicConfigOptions = mkOption {
        inherit (pkgs.formats.json { }) type;
        default = { };
      };
    };

    systemd = {
      services = mkUnits {
        serviceConfig = anything;
        environment = mkOption {
          type = types.attrsOf types.str;
          default = { };
        };
        path = mkOption {
          type = types.listOf types.package;
          default = [ ];
        };
        script = mkOption {
          type = types.lines;
          default = "";
        };
        reloadTriggers = mkOption {
          type = types.listOf types.unspecified;
          default = [ ];
        };
      };
      sockets = mkUnits {
        listenStreams = strings;
        socketConfig = anything;
      };
      slices = mkUnits { sliceConfig = anything; };
      tmpfiles.settings = anything;
    };
  };

  config = {
    users.users = {
      traefik.group = "traefik";
    }
    // lib.mapAttrs' (_: server: lib.nameValuePair server.user { inherit (server) group; }) config.services.redis.servers;

    systemd.services = redis // {
      inherit traefik;
    };

    environment.etc = {
      "resolv.conf".text = lib.concatMapStrings (address: "nameserver ${address}\n") config.networking.nameservers;
    }
    // lib.listToAttrs (
      map (file: lib.nameValuePair file.key { inherit (file) text; }) (
        [
          traefikDynamic
          traefikStatic
        ]
        ++ lib.mapAttrsToList redisConf config.services.redis.servers
      )
    );
  };
}
