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
  # What a unit has for systemd: definitions of a key add up where one is a list, as NixOS merges them.
  keys = mkOption {
    type = types.attrsOf (
      lib.mkOptionType {
        name = "value of a systemd key";
        merge =
          location: definitions:
          let
            values = map (each: each.value) definitions;
          in
          if lib.any lib.isList values then
            lib.concatMap lib.toList values
          else
            lib.mergeEqualOption location definitions;
      }
    );
    default = { };
  };
  strings = mkOption {
    type = types.listOf types.str;
    default = [ ];
  };

  unitOptions = {
    description = mkOption { type = types.str; };
    unitConfig = keys;
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
    "onSuccess"
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
            inherit (server) bind port;
            unixsocket = server.unixSocket;
            unixsocketperm = server.unixSocketPerm;
            daemonize = "no";
            supervised = "systemd";
            loglevel = "notice";
            # The journal has it from syslog.
            logfile = "/dev/null";
            syslog-enabled = "yes";
            maxclients = 10000;
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
        CapabilityBoundingSet = "";
        NoNewPrivileges = true;
        LimitNOFILE = 10032;
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = true;
        PrivateUsers = true;
        ProtectClock = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectControlGroups = true;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        PrivateMounts = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = "~@cpu-emulation @debug @keyring @memlock @mount @obsolete @privileged @resources @setuid";
      };
    }
  ) config.services.redis.servers;
in
{
  imports = [
    ./monitoring.nix
    ./traefik.nix
  ];

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
                type = types.either types.str types.package;
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

    networking.hostName = mkOption {
      type = types.str;
      default = "machine";
    };
    networking.firewall.allowedTCPPorts = mkOption {
      type = types.listOf types.port;
      default = [ ];
    };
    networking.firewall.interfaces = mkOption {
      type = types.attrsOf types.anything;
      default = { };
    };

    networking.hosts = mkOption {
      type = types.attrsOf (types.listOf types.str);
      default = { };
    };

    networking.firewall.enable = mkOption { type = types.bool; };
    networking.nameservers = strings;

    specialisation = mkOption {
      type = types.attrsOf (
        types.submodule { options.configuration = mkOption { type = types.deferredModule; }; }
      );
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
              bind = mkOption {
                type = types.nullOr types.str;
                default = "127.0.0.1";
              };
              unixSocket = mkOption {
                type = types.path;
                default = "/run/redis-${name}/redis.sock";
              };
              unixSocketPerm = mkOption {
                type = types.int;
                default = 600;
              };
              appendOnly = mkOption { type = types.bool; };
              settings = anything;
            };
          }
        )
      );
      default = { };
    };

    # What only real hosts and VMs have.
    boot.loader.grub.enable = mkOption { type = types.bool; };
    fileSystems = anything;
    nixpkgs.hostPlatform = anything;
    security.pki.certificateFiles = strings;
    system.stateVersion = mkOption { type = types.str; };
    virtualisation.memorySize = mkOption { type = types.ints.positive; };

    services.logrotate.settings = anything;
    services.nscd.enable = mkOption {
      type = types.bool;
      default = true;
    };

    boot.kernelPackages = mkOption {
      type = types.attrsOf types.anything;
      default.kernel.version = "6.12";
    };

    systemd = {
      package = mkOption {
        type = types.package;
        default = pkgs.systemd;
      };
      services = mkUnits {
        serviceConfig = keys;
        environment = mkOption {
          type = types.attrsOf types.str;
          default = { };
        };
        path = mkOption {
          type = types.listOf types.package;
          default = [ ];
        };
        stopIfChanged = mkOption {
          type = types.bool;
          default = true;
        };
        script = mkOption {
          type = types.lines;
          default = "";
        };
        restartIfChanged = mkOption {
          type = types.bool;
          default = true;
        };
        restartTriggers = mkOption {
          type = types.listOf types.unspecified;
          default = [ ];
        };
        reloadTriggers = mkOption {
          type = types.listOf types.unspecified;
          default = [ ];
        };
      };
      timers = mkUnits { timerConfig = keys; };
      sockets = mkUnits {
        listenStreams = strings;
        socketConfig = keys;
      };
      slices = mkUnits { sliceConfig = keys; };
      tmpfiles.settings = anything;
    };
  };

  config = {
    _module.args = { inherit mkFile; };

    users.users =
      lib.mapAttrs' (
        _: server: lib.nameValuePair server.user { inherit (server) group; }
      ) config.services.redis.servers
      // lib.optionalAttrs config.services.nscd.enable { nscd.group = "nscd"; };

    systemd.services = redis // {
      nscd = lib.mkIf config.services.nscd.enable {
        description = "Name Service Cache Daemon (nsncd)";
        wantedBy = [ "multi-user.target" ];
        wants = [
          "nss-lookup.target"
          "nss-user-lookup.target"
        ];
        before = [
          "nss-lookup.target"
          "nss-user-lookup.target"
        ];
        serviceConfig = {
          ExecStart = "${pkgs.nsncd}/bin/nsncd";
          Type = "notify";
          User = "nscd";
          Group = "nscd";
          RemoveIPC = true;
          PrivateTmp = true;
          NoNewPrivileges = true;
          RestrictSUIDSGID = true;
          ProtectSystem = "strict";
          ProtectHome = "read-only";
          RuntimeDirectory = "nscd";
          Restart = "always";
        };
      };
    };

    environment.etc = {
      "resolv.conf".text = lib.concatMapStrings (
        address: "nameserver ${address}\n"
      ) config.networking.nameservers;
    }
    // lib.listToAttrs (
      map (file: lib.nameValuePair file.key { inherit (file) text; }) (
        lib.mapAttrsToList redisConf config.services.redis.servers
      )
    );
  };
}
