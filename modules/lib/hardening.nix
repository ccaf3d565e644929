# The sandbox that every unit of the gateway starts from, and how its units restart and log.
{ lib, cfg }:
let
  # System calls that no unit needs. io_uring makes and connects sockets of every family, whatever
  # RestrictAddressFamilies says; the others reach into other processes or helped exploits of the kernel.
  notNeeded = "~@keyring io_uring_enter io_uring_register io_uring_setup kcmp name_to_handle_at process_madvise process_vm_readv process_vm_writev remap_file_pages userfaultfd vmsplice";

  # Mounts of a unit's own in place of what all units share. Memory, not the host's disk: systemd bounds each to a tenth
  # of it, and what is in them counts to MemoryMax.
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

  # What every unit of the gateway starts from.
  unit =
    base
    // {
      Slice = "mcp-gateway.slice";
    }
    // journal;

  # Where a unit logs, of nixpkgs' too.
  journal = lib.optionalAttrs (cfg.journalNamespace != null) { LogNamespace = cfg.journalNamespace; };

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

  inherit notNeeded;

  # Lists add up with the operator's; any other value of the operator's takes the place of these.
  asDefaults = lib.mapAttrs (_: value: if lib.isList value then value else lib.mkDefault value);
}
