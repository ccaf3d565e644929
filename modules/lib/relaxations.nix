# What `sandbox.relaxations` of a server may name. Filters of system calls go on from that of `base`: what each names is
# let through besides.
{ notNeeded }:
{
  jit = {
    reason = "The server compiles code at run time (Node.js, a JVM, LuaJIT), and needs memory that is written and then executed.";
    serviceConfig.MemoryDenyWriteExecute = false;
  };

  namespaces = {
    reason = "The server builds sandboxes of its own (browsers, bubblewrap), and needs user namespaces and mounts in them.";
    serviceConfig = {
      RestrictNamespaces = false;
      PrivateUsers = false;
      SystemCallFilter = [
        "@system-service"
        "@mount"
        "chroot"
        "pivot_root"
        notNeeded
      ];
    };
  };

  proc = {
    reason = "The server reads information about the machine in /proc, such as memory and processors (browsers, JVMs).";
    serviceConfig.ProcSubset = "all";
  };

  resources = {
    reason = "The server sets its own priority, processor affinity or limits.";
    serviceConfig.SystemCallFilter = [ "@resources" ];
  };

  capabilities = {
    reason = "The server exits if it cannot drop capabilities, although it has none (browsers).";
    serviceConfig.SystemCallFilter = [ "capset" ];
  };

  devices = {
    reason = "The server uses devices of the machine, such as a graphics card. Name them in `serviceConfig.DeviceAllow`.";
    serviceConfig = {
      PrivateDevices = false;
      # Where NixOS has the drivers of graphics cards.
      BindReadOnlyPaths = [ "-/run/opengl-driver" ];
    };
  };
}
