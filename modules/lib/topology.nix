# Which host runs what, and at which addresses.
{ lib, cfg }:
let
  ports = import ./ports.nix { inherit lib; };
in
rec {
  isSingle = cfg.hosts == { };
  here = cfg.hosts.${cfg.hostName} or null;
  has = role: if isSingle then true else here != null && lib.elem role here.roles;

  # With a single host everything listens on loopback.
  listenAddress = if isSingle || here == null then "127.0.0.1" else here.address;
  authority =
    address: port: "${if lib.hasInfix ":" address then "[${address}]" else address}:${toString port}";

  # NixOS does not restart a socket whose address changes. With the address in its name, it stops the old socket and
  # starts the new one.
  socketOf =
    unit: usualPort: address: port:
    if address == "127.0.0.1" && port == usualPort then
      unit
    else
      "${unit}-${lib.replaceStrings [ "[" "]" ] [ "" "" ] (authority address port)}";
  # Answers for this host's bridges, without waking one.
  statusUnit = "mcp-gateway-status";
  statusAddressOf =
    host: authority (if isSingle then "127.0.0.1" else cfg.hosts.${host}.address) cfg.statusPort;
  authSocket = socketOf "mcp-auth-service" 9000 listenAddress cfg.port;

  # A socket may start before its network address exists.
  socketConfig = lib.optionalAttrs (!isSingle) { FreeBind = true; };

  hostsWith = role: lib.filterAttrs (_: host: lib.elem role host.roles) cfg.hosts;
  # The URL of each auth service; empty with a single host.
  instances = lib.optionals (!isSingle) (
    lib.mapAttrsToList (_: host: "http://${authority host.address cfg.port}") (hostsWith "auth")
  );

  # Where bridges of this host reach an auth service, the nearest first.
  authAddresses =
    lib.optional (has "auth") listenAddress
    ++ lib.remove listenAddress (lib.mapAttrsToList (_: host: host.address) (hostsWith "auth"));

  enabled = lib.filterAttrs (_: server: server.enable) cfg.servers;
  bridged = lib.filterAttrs (_: server: server.url == null) enabled;

  # A server without scopes of its own has `mcp`.
  scopesOf = server: if server.scopes == { } then [ "mcp" ] else lib.attrNames server.scopes;

  # What an operator names for a program without a user, a list of servers and one of scopes: those that do not exist,
  # and the servers that need credentials which only a user can provide.
  mistakenAccess =
    { servers, scopes, ... }:
    let
      known = lib.intersectLists (lib.attrNames enabled) servers;
    in
    {
      unknownServers = lib.subtractLists known servers;
      unknownScopes = lib.subtractLists (lib.concatMap (server: scopesOf enabled.${server}) known) scopes;
      needUsers = lib.filter (server: enabled.${server}.userCredentials != { }) known;
    };

  # Every bridge of one server: { name, host, address, port, offset, instance }.
  replicasOf =
    server:
    let
      chosen = name: _: server.hosts == null || lib.elem name server.hosts;
      hosts =
        if isSingle then { "".address = "127.0.0.1"; } else lib.filterAttrs chosen (hostsWith "bridges");
      nameOf =
        host: index:
        lib.concatStringsSep "-" (
          lib.optional (host != "") host ++ lib.optional (isSingle || server.replicas > 1) (toString index)
        );
      onHost =
        host:
        { address, ... }:
        lib.genList (offset: {
          name = nameOf host (offset + 1);
          inherit host address offset;
          port = server.port + offset;
          # The first replica has no number, so that a second one does not rename it.
          instance = if offset == 0 then "" else "@${toString (offset + 1)}";
        }) server.replicas;
    in
    lib.concatLists (lib.mapAttrsToList onHost hosts);

  replicasHere =
    server: lib.filter (replica: isSingle || replica.host == cfg.hostName) (replicasOf server);

  # The servers whose bridges this host runs.
  bridgedHere = lib.optionalAttrs (has "bridges") (
    lib.filterAttrs (_: server: replicasHere server != [ ]) bridged
  );

  bridgeUnit = name: replica: "mcp-bridge-${name}${replica.instance}";
  bridgeSocket =
    name: replica:
    socketOf (bridgeUnit name replica) (
      ports.bridge name + replica.offset
    ) replica.address replica.port;

  # The servers whose bridges exit when nobody uses them: the status service is asked about these.
  sleepers = lib.filterAttrs (_: server: server.idleExit > 0) bridged;
  sleepersHere = lib.intersectAttrs bridgedHere sleepers;
}
