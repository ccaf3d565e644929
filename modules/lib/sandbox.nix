# The sandbox of one server, by what `servers.<name>.sandbox` says. Each relaxation has a name and a reason.
{
  lib,
  hardening,
  units,
}:
let
  inherit (hardening) base notNeeded relax;

  isHome =
    path:
    lib.any (home: lib.hasPrefix home path) [
      "/home/"
      "/root/"
      "/run/user/"
    ];
in
rec {
  # What `sandbox.relaxations` of a server may name.
  relaxations = import ./relaxations.nix { inherit notNeeded; };

  # What every bridge and every server is kept from.
  isolated = {
    # The kernel takes this number for: no core dump, not even by a program that collects them. Each would be an entry of
    # the system's journal and a file on the host's disk, which a server could fill by crashing; a bridge's has its key.
    LimitCORE = 1;
    # A server's standard error goes through the bridge. By these sockets it could write as any program, and on the
    # console.
    BindLogSockets = false;
    # With + they are those of its own root, where it has one.
    InaccessiblePaths = [
      "-+/run/systemd/journal"
      # Who may use which server, and where the gateway's parts are.
      "-+/etc/mcp-oauth-gateway"
      # Nix builds and fetches for every client of its socket, outside every sandbox but its own.
      "-+/nix/var/nix/daemon-socket"
    ];
  };

  # What keeps the processes of one server from each other, which have one user.
  separate = {
    # They see, signal and trace no processes but those of their own unit. systemd has it since 257.
    PrivatePIDs = true;
    # No control group but its own.
    ProtectControlGroups = "strict";
    # The kernel ends the process that needs most; the unit's first one lives to tell the bridge.
    OOMPolicy = "continue";
  };

  # What the first process of a unit needs to show a server the files of its user alone: to mount in a namespace of its
  # own, and then to drop the capability, which the unit's user namespace bounds. The server has none.
  perUser = {
    AmbientCapabilities = "CAP_SYS_ADMIN";
    CapabilityBoundingSet = "CAP_SYS_ADMIN";
    RestrictNamespaces = "mnt";
    SystemCallFilter = lib.mkAfter [ "mount capset" ];
  };

  # The names that a server may connect to, null where names do not decide.
  domainsOf = sandbox: sandbox.network.domains or null;
  # What `sandbox.network` is called in one word.
  networkOf = sandbox: if domainsOf sandbox == null then sandbox.network else "domains";

  # Where a server finds its egress proxy: a port of loopback in the network namespace of each process, from which a
  # relay leads to the proxy's socket.
  egress = {
    port = 3128;
    directory = "/run/mcp-egress";
    environment =
      let
        url = "http://127.0.0.1:${toString egress.port}";
        local = "localhost,127.0.0.1,::1";
        both = name: value: {
          ${name} = value;
          ${lib.toLower name} = value;
        };
      in
      both "HTTPS_PROXY" url
      # It refuses what is not encrypted, and says so.
      // both "HTTP_PROXY" url
      // both "ALL_PROXY" url
      // both "NO_PROXY" local
      // {
        # Node.js, from 22.21 and 24.5 on, reads the others only where it is told to.
        NODE_USE_ENV_PROXY = "1";
      };
  };

  # What `sandbox.network` of a server means.
  networks =
    name:
    let
      # Sockets in /run lead past any filter: to the system bus, to Redis, and, by way of name services, to the
      # internet. A server sees those that it is meant to use.
      run = sockets: {
        TemporaryFileSystem = base.TemporaryFileSystem ++ [ "/run:ro" ];
        BindPaths = map (socket: "-${socket}") sockets;
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

      # A network namespace of its own without any way out, and the egress proxy's socket.
      domains = run [ ] // {
        inherit (relax.network) RestrictAddressFamilies;
        # The directory, because the socket in it may be made again.
        BindReadOnlyPaths = [ "${dirOf (units.egressSocket name)}:${egress.directory}" ];
        IPAddressAllow = [ "localhost" ];
        IPAddressDeny = [ "any" ];
      };

      internet =
        relax.network
        // names
        // {
          # The host's own addresses, the public ones too, are all reached by way of loopback.
          RestrictNetworkInterfaces = "~lo";
          # IANA's special-purpose registries, and what clouds serve secrets at although it looks public: those of
          # auth_service/protocol/addresses.py.
          IPAddressDeny = [
            "localhost"
            "link-local"
            "multicast"
            "0.0.0.0/8"
            "10.0.0.0/8"
            "100.64.0.0/10"
            "168.63.129.16/32"
            "172.16.0.0/12"
            "192.0.0.0/24"
            "192.0.2.0/24"
            "192.88.99.0/24"
            "192.168.0.0/16"
            "198.18.0.0/15"
            "198.51.100.0/24"
            "203.0.113.0/24"
            "240.0.0.0/4"
            # All that is not global unicast, 2000::/3: IPv4 inside IPv6, NAT64, segment routing, unique local, site-local.
            "::/3"
            "4000::/2"
            "8000::/1"
            # Within it: Teredo and other protocols, documentation, 6to4.
            "2001::/23"
            "2001:db8::/32"
            "2002::/16"
            "3fff::/20"
          ];
        };

      full = relax.network // names;
    };

  # What `sandbox.root` of a server means.
  roots = {
    host = _: _: { };

    # Of the host it sees the Nix store, what programs find shells, names and certificates by, and what it is given.
    store = network: name: {
      RootDirectory = emptyRootOf name;
      MountAPIVFS = true;
      BindReadOnlyPaths = [
        "/nix/store"
        # NixOS has nothing there but the shell, env and the loader.
        "-/bin"
        "-/lib"
        "-/lib64"
        "-/usr"
        "-/etc/hosts"
        "-/etc/localtime"
        "-/etc/nsswitch.conf"
        "-/etc/resolv.conf"
        "-/etc/ssl"
        "-/etc/static/ssl"
        "-/etc/zoneinfo"
      ]
      # glibc has the older of its two paths.
      ++ builtins.filter (_: builtins.elem "-/run/nscd" network.BindPaths) [ "-/run/nscd:/var/run/nscd" ];
    };
  };

  # A directory with nothing in it but the places that systemd mounts things at, for one server.
  emptyRoots = "/run/mcp-oauth-gateway/roots";
  emptyRootOf = name: "${emptyRoots}/${name}";

  # Settings of the unit's `[Service]` section.
  serviceConfig =
    name: sandbox:
    let
      network = (networks name).${networkOf sandbox};
      root = roots.${sandbox.root} network name;
      relaxed = map (name: relaxations.${name}.serviceConfig) sandbox.relaxations;
    in
    lib.mkMerge [
      (hardening.asDefaults (
        base
        // hardening.journal
        // isolated
        // separate
        // network
        // removeAttrs root [ "BindReadOnlyPaths" ]
        // lib.mergeAttrsList (map (relaxation: removeAttrs relaxation [ "BindReadOnlyPaths" ]) relaxed)
        // {
          SystemCallFilter =
            base.SystemCallFilter ++ lib.concatMap (relaxation: relaxation.SystemCallFilter or [ ]) relaxed;
        }
        # What it makes is for its groups as well, and for itself when its user is another one some day.
        // lib.optionalAttrs (sandbox.groups != [ ]) { UMask = "0007"; }
        # Homes are empty but for what is bound into them.
        // lib.optionalAttrs (lib.any isHome (sandbox.readOnlyPaths ++ sandbox.readWritePaths)) {
          ProtectHome = "tmpfs";
        }
      ))
      {
        BindReadOnlyPaths =
          root.BindReadOnlyPaths or [ ]
          ++ lib.concatMap (relaxation: relaxation.BindReadOnlyPaths or [ ]) relaxed
          ++ sandbox.readOnlyPaths;
        BindPaths = sandbox.readWritePaths;
        IPAddressDeny = sandbox.denyAddresses;
        SupplementaryGroups = sandbox.groups;
      }
    ];
}
