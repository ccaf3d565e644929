# The sandbox that every unit of the gateway starts from, and how its units restart and log.
{ lib, cfg }:
let
  # System calls that no unit needs. io_uring can create and connect sockets of every family, in spite of
  # RestrictAddressFamilies; the others access other processes, or were used in exploits of the kernel.
  notNeeded = "~@keyring io_uring_enter io_uring_register io_uring_setup kcmp name_to_handle_at process_madvise process_vm_readv process_vm_writev remap_file_pages userfaultfd vmsplice";

  # Each unit gets its own, in memory. systemd limits it to a tenth of the memory, and its contents count to MemoryMax.
  sharedMemory = "/dev/shm:rw,nosuid,nodev,mode=1777";
in
rec {
  base = {
    CapabilityBoundingSet = "";
    DevicePolicy = "closed";
    KeyringMode = "private";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateIPC = true;
    PrivateMounts = true;
    PrivateNetwork = true;
    PrivateTmp = "disconnected";
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
      notNeeded
    ];
    TemporaryFileSystem = [ sharedMemory ];
    UMask = "0077";
  };

  # The settings of every unit of the gateway.
  unit =
    base
    // {
      Slice = "mcp-gateway.slice";
    }
    // journal;

  # Also for the units of Redis and Traefik, which nixpkgs defines.
  journal = lib.optionalAttrs (cfg.journalNamespace != null) { LogNamespace = cfg.journalNamespace; };

  # Restarts never stop; the first comes at once, later ones after longer and longer pauses.
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
    # For units that talk to other hosts: a private network namespace has no route.
    network = {
      PrivateNetwork = false;
      RestrictAddressFamilies = [
        "AF_UNIX"
        "AF_INET"
        "AF_INET6"
      ];
    };
  };

  inherit notNeeded;

  # An operator's list is added to a list here; any other value of an operator replaces the value here.
  asDefaults = lib.mapAttrs (_: value: if lib.isList value then value else lib.mkDefault value);
}
