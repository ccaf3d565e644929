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

    # Compiles at run time (V8, a JVM, LuaJIT): needs pages that are written, then executed.
    jit.MemoryDenyWriteExecute = false;
  };

  # What `sandbox.network` of a server means. A bridge answers in each: systemd hands it its listening socket.
  network = {
    none = { };

    internet = relax.network // {
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
        "fc00::/7"
      ];
    };

    full = relax.network;
  };
}
