# Mistakes in `servers`.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) checks topology;
  systemd = config.systemd.package.version;
  linux = config.boot.kernelPackages.kernel.version;
  option = "services.mcp-oauth-gateway";

  # The lists that the chosen identity provider does not support.
  foreign =
    access:
    if gatewayLib.identityProvider.isOidc then
      { inherit (access) allowedOrganizations allowedTeams; }
    else
      { inherit (access) allowedGroups; };

  # Hosts that a server names, and that do not run bridges.
  strangers =
    server:
    lib.optionals (server.hosts != null) (
      lib.subtractLists (lib.attrNames (topology.hostsWith "bridges")) server.hosts
    );

  perServer =
    name: server:
    let
      replicas = topology.replicasOf server;
      perUser = server.url == null && server.stateDirectory == "per-user";
      domains = gatewayLib.sandbox.domainsOf server.sandbox;
    in
    [
      {
        assertion = checks.isLabel name;
        message = "${option}.servers.${name}: the name becomes part of a host name and must be lower-case letters, digits and inner hyphens.";
      }
      {
        assertion = (server.command == [ ]) != (server.url == null);
        message = "${option}.servers.${name}: set exactly one of `command` and `url`.";
      }
      {
        assertion = server.url != null -> checks.isUrl server.url;
        message = "${option}.servers.${name}.url: \"${toString server.url}\" is not a URL such as http://10.0.0.5:3000/mcp.";
      }
      {
        assertion = server.urlCredentialFile != null -> server.url != null;
        message = "${option}.servers.${name}.urlCredentialFile: is for a server with a `url`.";
      }
      {
        assertion =
          server.url != null && server.urlCredentialFile != null
          -> lib.hasPrefix "https://" server.url || checks.isLoopbackUrl server.url;
        message = "${option}.servers.${name}.url: must begin with https:// for `urlCredentialFile`, whose token everyone on the way could read, or be at a loopback address such as 127.0.0.1.";
      }
      {
        # Clients reach what is below the path, with what the gateway adds.
        assertion =
          checks.isUrl (toString server.url)
          && (server.urlCredentialFile != null || server.urlClientCertificate != null)
          -> builtins.match "[^:]+://[^/]+/.+" server.url != null;
        message = "${option}.servers.${name}.url: must have a path such as /mcp for `urlCredentialFile` and `urlClientCertificate`, as clients reach everything below it with these.";
      }
      {
        assertion = gatewayLib.traefik.backendFiles server != { } -> server.url != null;
        message = "${option}.servers.${name}: `urlCaFile` and `urlClientCertificate` are for a server with a `url`.";
      }
      {
        assertion =
          server.url != null && gatewayLib.traefik.backendFiles server != { }
          -> lib.hasPrefix "https://" server.url;
        message = "${option}.servers.${name}.url: must begin with https:// for `urlCaFile` and `urlClientCertificate`.";
      }
      {
        assertion = checks.isPublicUrl server.publicUrl;
        message = "${option}.servers.${name}.publicUrl: \"${server.publicUrl}\" is not a URL such as https://wiki.example.com/mcp.";
      }
      {
        assertion = !checks.isOwnPage server.publicUrl;
        message = "${option}.servers.${name}.publicUrl: \"${server.publicUrl}\" is the URL of one of the gateway's own pages.";
      }
      {
        assertion = server.idleExit > 0 -> server.warmSpares == 0;
        message = "${option}.servers.${name}.idleExit: must be 0 with `warmSpares`, whose processes keep the bridge awake.";
      }
      {
        assertion = server.idleExit > 0 -> lib.length replicas <= 1;
        message = "${option}.servers.${name}.idleExit: must be 0 with several replicas, which the router's checks keep awake.";
      }
      {
        assertion = server.url == null -> server.settings.idle-exit or null == server.idleExit;
        message = "${option}.servers.${name}.settings.idle-exit: set `idleExit` instead, by which the status service knows that the bridge may sleep.";
      }
      {
        assertion = server.workingDirectory != null -> lib.hasPrefix "/" server.workingDirectory;
        message = "${option}.servers.${name}.workingDirectory: \"${toString server.workingDirectory}\" is not an absolute path.";
      }
      {
        assertion = perUser -> server.settings.isolation or null != "shared";
        message = "${option}.servers.${name}.stateDirectory: \"per-user\" needs `isolation` \"per-session\" or \"per-user\", so that each process has one user.";
      }
      {
        assertion = perUser -> server.settings.warm-spares or 0 == 0;
        message = "${option}.servers.${name}.stateDirectory: \"per-user\" does not go with `warmSpares`, whose processes start before they have a user.";
      }
      {
        assertion = perUser -> server.settings.require-identity or null != null;
        message = "${option}.servers.${name}.stateDirectory: \"per-user\" does not go with `settings.no-identity`, with which the bridge knows no users.";
      }
      {
        assertion = perUser -> server.serviceConfig.PrivateUsers or false == true;
        message = "${option}.servers.${name}.stateDirectory: \"per-user\" needs `serviceConfig.PrivateUsers`, and so does not go with the relaxation `namespaces`.";
      }
      {
        assertion = server.url == null -> replicas != [ ];
        message = "${option}.servers.${name}.hosts: contains no host with the role `bridges`.";
      }
      {
        assertion = replicas != [ ] -> strangers server == [ ];
        message = "${option}.servers.${name}.hosts: ${toString (strangers server)} is not in `hosts`, or does not have the role `bridges`.";
      }
    ]
    ++ map (setting: {
      assertion = server.url == null;
      message = "${setting}: needs a bridge, and a server with a `url` has none.";
    }) server.bridgedOptions
    ++ lib.optional (domains != null) (
      let
        taken = lib.attrNames (lib.intersectAttrs gatewayLib.sandbox.egress.environment server.environment);
      in
      {
        assertion = taken == [ ];
        message = "${option}.servers.${name}.environment: with `sandbox.network.domains` the gateway sets ${toString taken}, as its proxy is the only way to these hosts.";
      }
    )
    ++ lib.singleton {
      assertion = domains != [ ];
      message = "${option}.servers.${name}.sandbox.network.domains: is empty; with `sandbox.network = \"none\"` the server connects to nothing.";
    }
    ++ map (domain: {
      assertion = checks.isDomainPattern domain;
      message = "${option}.servers.${name}.sandbox.network.domains: \"${domain}\" is not a host name such as api.example.com, or a wildcard such as *.example.com.";
    }) (if domains == null then [ ] else domains)
    ++ lib.mapAttrsToList (list: entries: {
      assertion = entries == [ ];
      message = "${option}.servers.${name}.${list}: the identity provider does not support this list, so it would let nobody in.";
    }) (foreign server)
    ++ lib.concatLists (
      lib.mapAttrsToList (
        scope: access:
        lib.mapAttrsToList (list: entries: {
          assertion = entries == [ ];
          message = "${option}.servers.${name}.scopes.\"${scope}\".${list}: the identity provider does not support this list, so nobody could be granted the scope.";
        }) (foreign access)
      ) server.scopes
    );

  sharedUrls = checks.clashes (
    lib.mapAttrsToList (name: server: {
      inherit name;
      value = server.publicUrl;
    }) topology.enabled
  );

  # Of everything that listens on this host.
  sharedPorts = checks.clashes (
    lib.optional (topology.has "auth" || topology.has "router") {
      name = "${option}.port";
      value = toString cfg.port;
    }
    ++ lib.optional (topology.has "router" && cfg.metrics.enable) {
      name = "${option}.metrics.port";
      value = toString cfg.metrics.port;
    }
    ++ lib.optional (topology.sleepersHere != { }) {
      name = "${option}.statusPort";
      value = toString cfg.statusPort;
    }
    ++ lib.concatLists (
      lib.mapAttrsToList (
        name: server:
        map (replica: {
          name = "${option}.servers.${name}.port";
          value = toString replica.port;
        }) (topology.replicasHere server)
      ) topology.bridgedHere
    )
  );
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = topology.bridgedHere != { } -> lib.versionAtLeast systemd "257";
        message = "systemd.package: systemd ${systemd} knows no `PrivatePIDs`, by which users of one server are kept apart. Use 257 or newer.";
      }
    ]
    ++ lib.concatLists (lib.mapAttrsToList perServer topology.enabled)
    ++ lib.mapAttrsToList (url: names: {
      assertion = false;
      message = "${option}.servers: ${names} have the same URL, ${url}.";
    }) sharedUrls
    ++ lib.mapAttrsToList (port: names: {
      assertion = false;
      message = "${names}: have the same port, ${port}; change one of them.";
    }) sharedPorts;

    warnings =
      lib.optional (topology.bridgedHere != { } && lib.versionOlder linux "6.12") ''
        boot.kernelPackages: Linux ${linux} cannot keep processes from abstract sockets of others, which users of one server
        with `sandbox.network` other than "none" could then use against each other. Use 6.12 or newer.
      ''
      ++ lib.concatLists (
        lib.mapAttrsToList (
          name: server:
          lib.optional (lib.any checks.looksSecret (lib.attrNames server.environment)) ''
            ${option}.servers.${name}.environment: a variable has the name of a secret, and its value is world-readable.
            Put it into a file, and set `servers.${name}.environmentFile` to the path of that file.
          ''
        ) topology.enabled
      );
  };
}
