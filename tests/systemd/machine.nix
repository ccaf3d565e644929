# What the module makes of one machine's configuration, as data: units in systemd's own keys, files, complaints.
{
  configuration,
  lib,
}:
let
  pkgs = import ./packages.nix { inherit lib; };

  inherit (import ./module.nix { inherit configuration lib; }) config;

  # As NixOS writes them: a list repeats its key, an empty list writes nothing, and null an empty value.
  toValue = value: if lib.isBool value then lib.boolToString value else toString value;
  toLines =
    name: attrs:
    let
      lines = lib.concatLists (
        lib.mapAttrsToList (key: value: map (each: "${key}=${toValue each}") (lib.toList value)) attrs
      );
    in
    lib.optionals (lines != [ ]) ([ "[${name}]" ] ++ lines);

  unitSection =
    unit:
    {
      Description = unit.description;
      Wants = unit.wants;
      Requires = unit.requires;
      After = unit.after;
      Before = unit.before;
      BindsTo = unit.bindsTo;
      PartOf = unit.partOf;
      OnFailure = unit.onFailure;
      OnSuccess = unit.onSuccess;
    }
    // lib.filterAttrs (_: limit: limit != null) {
      StartLimitIntervalSec = unit.startLimitIntervalSec;
      StartLimitBurst = unit.startLimitBurst;
    }
    // unit.unitConfig;

  # NixOS links a unit into the `.wants` of its targets; systemctl enable does, too.
  toUnit =
    unit: sections:
    lib.concatLists (
      lib.mapAttrsToList toLines (
        {
          Install.WantedBy = unit.wantedBy;
          Unit = unitSection unit // sections.Unit or { };
        }
        // removeAttrs sections [ "Unit" ]
      )
    );

  # NixOS gives each unit these programs and no others.
  searchPath =
    unit:
    lib.makeBinPath (
      unit.path
      ++ [
        pkgs.coreutils
        pkgs.findutils
        pkgs.gnugrep
        pkgs.gnused
        pkgs.systemd
      ]
    );
  scriptOf = name: unit: {
    key = "stand-in/${builtins.hashString "md5" unit.script}-${name}-start";
    text = "set -e\n${unit.script}";
  };
  scripted = lib.filterAttrs (_: unit: unit.script != "") config.systemd.services;

  toService =
    name: unit:
    toUnit unit {
      Unit."X-Reload-Triggers" = map toString unit.reloadTriggers;
      Unit."X-Restart-Triggers" = map toString unit.restartTriggers;
      Service = {
        Environment = lib.mapAttrsToList (key: value: builtins.toJSON "${key}=${value}") (
          unit.environment // { PATH = searchPath unit; }
        );
      }
      // lib.optionalAttrs (!unit.stopIfChanged) { X-StopIfChanged = false; }
      // lib.optionalAttrs (!unit.restartIfChanged) { X-RestartIfChanged = false; }
      // lib.optionalAttrs (unit.script != "") { ExecStart = "/bin/sh /etc/${(scriptOf name unit).key}"; }
      // unit.serviceConfig;
    };
in
{
  inherit (config) warnings;
  failedAssertions = map (entry: entry.message) (
    lib.filter (entry: !entry.assertion) config.assertions
  );

  units =
    lib.mapAttrs' (
      name: unit: lib.nameValuePair "${name}.service" (toService name unit)
    ) config.systemd.services
    // lib.mapAttrs' (
      name: unit:
      lib.nameValuePair "${name}.socket" (
        toUnit unit {
          Socket = {
            ListenStream = unit.listenStreams;
          }
          // unit.socketConfig;
        }
      )
    ) config.systemd.sockets
    // lib.mapAttrs' (
      name: unit: lib.nameValuePair "${name}.timer" (toUnit unit { Timer = unit.timerConfig; })
    ) config.systemd.timers
    // lib.mapAttrs' (
      name: unit: lib.nameValuePair "${name}.slice" (toUnit unit { Slice = unit.sliceConfig; })
    ) config.systemd.slices;

  files =
    lib.mapAttrs (_: file: file.source.text or file.text) config.environment.etc
    // lib.mapAttrs' (
      name: unit: lib.nameValuePair (scriptOf name unit).key (scriptOf name unit).text
    ) scripted;

  tmpfiles = lib.concatLists (
    lib.mapAttrsToList (
      _: paths:
      lib.concatLists (
        lib.mapAttrsToList (
          path: rules:
          lib.mapAttrsToList (type: rule: "${type} ${path} ${rule.mode} ${rule.user} ${rule.group}") rules
        ) paths
      )
    ) config.systemd.tmpfiles.settings
  );

  specialisations = lib.mapAttrs (
    _: special:
    import ./evaluate.nix {
      inherit lib;
      configuration = {
        imports = [
          configuration
          special.configuration
        ];
        specialisation = lib.mkForce { };
      };
    }
  ) config.specialisation;

  hosts = config.networking.hosts;
  # How files are made that are not merely written.
  builds = lib.mapAttrs (_: file: file.source.buildCommand) (
    lib.filterAttrs (_: file: file.source ? buildCommand) config.environment.etc
  );
  # Where they are in the store, from where units may have them.
  stored = lib.mapAttrs (_: file: toString file.source) (
    lib.filterAttrs (_: file: file.source ? buildCommand) config.environment.etc
  );
  programs = map toString config.environment.systemPackages;
  users = lib.mapAttrs (_: user: user.group) config.users.users;
  ports = config.networking.firewall.allowedTCPPorts;
}
