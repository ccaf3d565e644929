# The sandbox of every unit of the gateway. Each relaxation has a name and a reason.
rec {
  base = {
    CapabilityBoundingSet = "";
    DevicePolicy = "closed";
    KeyringMode = "private";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateMounts = true;
    PrivateNetwork = true;
    PrivateTmp = true;
    PrivateUsers = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    ProtectSystem = "strict";
    RemoveIPC = true;
    RestrictAddressFamilies = [ "AF_UNIX" ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
    UMask = "0077";
  };

  # What every unit of the gateway starts from.
  unit =
    cfg:
    base
    // {
      Slice = "mcp-gateway.slice";
    }
    // (if cfg.journalNamespace == null then { } else { LogNamespace = cfg.journalNamespace; });

  # For ever, first at once and then ever more slowly.
  restart = {
    Restart = "always";
    RestartSec = "100ms";
    RestartSteps = 8;
    RestartMaxDelaySec = "30s";
  };

  socket = {
    Backlog = 1024;
    Slice = "mcp-gateway.slice";
  };

  relax = {
    # Talks to other hosts: a namespace of its own has no route.
    network = {
      PrivateNetwork = false;
      RestrictAddressFamilies = [
        "AF_UNIX"
        "AF_INET"
        "AF_INET6"
      ];
    };
  };

  # What `sandbox.relaxations` of a server may name.
  relaxations = {
    jit = {
      reason = "Compiles at run time (Node.js, a JVM, LuaJIT): needs memory that is written, then executed.";
      serviceConfig.MemoryDenyWriteExecute = false;
    };

    namespaces = {
      reason = "Builds sandboxes of its own (browsers, bubblewrap): needs user namespaces and mounts in them.";
      serviceConfig = {
        RestrictNamespaces = false;
        PrivateUsers = false;
        SystemCallFilter = [
          "@system-service"
          "@mount"
          "chroot"
          "pivot_root"
        ];
      };
    };

    proc = {
      reason = "Reads about the machine in /proc, such as its memory and processors (browsers, JVMs).";
      serviceConfig.ProcSubset = "all";
    };

    resources = {
      reason = "Sets its own priority, processor affinity or limits.";
      serviceConfig.SystemCallFilter = [
        "@system-service"
        "~@privileged"
      ];
    };

    devices = {
      reason = "Uses devices of the machine, such as a graphics card; name them in serviceConfig.DeviceAllow.";
      serviceConfig = {
        PrivateDevices = false;
        # Where NixOS has the drivers of graphics cards.
        BindReadOnlyPaths = [ "-/run/opengl-driver" ];
      };
    };
  };

  # What `sandbox.network` of a server means. A bridge answers in each: systemd hands it its listening socket.
  network =
    let
      # Sockets in /run lead past any filter: to the system bus, to Redis, and, by way of name services, to the
      # internet. A server sees those that it is meant to use.
      run = sockets: {
        TemporaryFileSystem = [ "/run:ro" ];
        BindPaths = [ "/run/systemd/notify" ] ++ map (socket: "-${socket}") sockets;
      };
      # Names are resolved for it by nscd or systemd-resolved: an address of a resolver that it may reach would let
      # it reach everything else there, too.
      names = run [
        "/run/nscd"
        "/run/systemd/resolve"
      ];
    in
    {
      none = run [ ];

      internet =
        relax.network
        // names
        // {
          # Special-purpose ranges of RFC 6890, the metadata services of clouds among them.
          IPAddressDeny = [
            "localhost"
            "link-local"
            "multicast"
            "0.0.0.0/8"
            "10.0.0.0/8"
            "100.64.0.0/10"
            "172.16.0.0/12"
            "192.0.0.0/24"
            "192.168.0.0/16"
            "198.18.0.0/15"
            "240.0.0.0/4"
            # IPv4 inside IPv6, which a gateway on the way would translate: NAT64, 6to4.
            "64:ff9b::/96"
            "64:ff9b:1::/48"
            "2002::/16"
            "fc00::/7"
          ];
        };

      full = relax.network // names;
    };
}
