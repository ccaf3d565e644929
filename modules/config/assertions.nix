# What would otherwise fail only at run time, or silently let nobody in.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) topology;
  option = "services.mcp-oauth-gateway";
  inherit (cfg.identityProvider) github oidc;
  inherit (gatewayLib.identityProvider) isOidc;
  provider = gatewayLib.identityProvider.chosen;

  lists =
    access:
    access.allowedUsers
    ++ access.allowedOrganizations or [ ]
    ++ access.allowedTeams or [ ]
    ++ access.allowedGroups or [ ];
  everyone = [ provider ] ++ lib.attrValues topology.enabled;
  # What only the other provider has a notion of, by option.
  foreign =
    access:
    if isOidc then
      { inherit (access) allowedOrganizations allowedTeams; }
    else
      { inherit (access) allowedGroups; };

  hostName = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
  isRedis =
    url:
    builtins.match "(unix:///|rediss?://).+" url != null
    || builtins.match "rediss?\\+sentinel://[^/@]+:[0-9]+/[A-Za-z0-9_.-]+" url != null;
  # Of one host, and not of all of its own.
  isAddress =
    text:
    builtins.match "[0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]*" text != null
    && text != "0.0.0.0"
    && text != "::";
  isUrl = url: builtins.match "https?://[^/@?# ]+(/[^@?# ]*)?" url != null && !lib.hasSuffix "/" url;

  # Clients and the router read the same in it.
  isPlainUrl =
    url:
    builtins.match "https://[][A-Za-z0-9._:-]+(/[A-Za-z0-9._~!$&*+,;=:-]+)+" url != null
    && builtins.match ".*/[.][.]?(/.*)?" url == null;

  # What the gateway answers itself: nothing would reach a server there.
  isPage =
    url:
    builtins.match "https://${lib.escapeRegex cfg.domain}(:[0-9]+)?/(register(/[^/]+)?|authorize|consent|callback|account|token|revoke|introspect|jwks|style\\.css)" url
    != null
    || builtins.match "https://[^/]+/\\.well-known(/.*)?" url != null;

  # Names by the value that they share, where more than one does.
  clashes =
    pairs: lib.filterAttrs (_: group: lib.length group > 1) (lib.groupBy (pair: pair.value) pairs);
  namesOf = group: lib.concatMapStringsSep " and " (pair: pair.name) group;

  urls = lib.mapAttrsToList (name: server: {
    inherit name;
    value = server.publicUrl;
  }) topology.enabled;

  addresses = lib.mapAttrsToList (name: host: {
    name = "${option}.hosts.${name}.address";
    value = host.address;
  }) cfg.hosts;

  # Every port that is taken on one host.
  ports =
    lib.optionals (topology.has "auth" || topology.has "router") [
      {
        name = "${option}.port";
        value = toString cfg.port;
      }
    ]
    ++ lib.optional (topology.has "router" && cfg.metrics.enable) {
      name = "${option}.metrics.port";
      value = toString cfg.metrics.port;
    }
    ++ lib.concatLists (
      lib.mapAttrsToList (
        name: server:
        map (replica: {
          name = "${option}.servers.${name}.port";
          value = toString replica.port;
        }) (topology.replicasHere server)
      ) topology.bridgedHere
    );

  isSecret =
    variable:
    lib.any (word: lib.hasInfix word variable) [
      "API_KEY"
      "PASSWORD"
      "SECRET"
      "TOKEN"
    ];

  needs = condition: message: {
    assertion = condition;
    inherit message;
  };

  # Hosts that are to run a server's bridges and never will.
  strangers =
    server:
    lib.optionals (server.hosts != null) (
      lib.subtractLists (lib.attrNames (topology.hostsWith "bridges")) server.hosts
    );

  perServer = name: server: [
    (needs (builtins.match hostName name != null)
      "${option}.servers.${name}: the name becomes part of a host name and must be lower-case letters, digits and inner hyphens."
    )
    (needs ((server.command == [ ]) != (server.url == null))
      "${option}.servers.${name}: set exactly one of `command` and `url`."
    )
    (needs (server.url != null -> isUrl server.url)
      "${option}.servers.${name}.url: \"${toString server.url}\" is not a URL such as http://10.0.0.5:3000/mcp."
    )
    (needs (isPlainUrl server.publicUrl)
      "${option}.servers.${name}.publicUrl: \"${server.publicUrl}\" is not a URL such as https://wiki.example.com/mcp."
    )
    (needs (!isPage server.publicUrl)
      "${option}.servers.${name}.publicUrl: \"${server.publicUrl}\" is the URL of one of the gateway's own pages."
    )
    (needs (server.workingDirectory != null -> lib.hasPrefix "/" server.workingDirectory)
      "${option}.servers.${name}.workingDirectory: \"${toString server.workingDirectory}\" is not an absolute path."
    )
    (needs (server.url != null || topology.replicasOf server != [ ])
      "${option}.servers.${name}.hosts: none of them is in `hosts` with the role `bridges`."
    )
    (needs (topology.replicasOf server == [ ] || strangers server == [ ])
      "${option}.servers.${name}.hosts: ${toString (strangers server)} is not in `hosts` with the role `bridges`."
    )
  ]
  ++ lib.mapAttrsToList (
    list: entries:
    needs (entries == [ ]) "${option}.servers.${name}.${list}: the chosen identity provider knows none, so this would admit nobody."
  ) (foreign server);

  perHost = name: host: [
    (needs (builtins.match "[a-z0-9-]{1,26}" name != null)
      "${option}.hosts.${name}: the name becomes part of session ids and must be at most 26 lower-case letters, digits and hyphens."
    )
    (needs (isAddress host.address)
      "${option}.hosts.${name}.address: \"${host.address}\" is not an IP address at which others reach this host."
    )
  ];

  bridgesHaveKeys = lib.all (server: server.identityKeyFile != null) (
    lib.attrValues topology.bridgedHere
  );
  severalHosts = [
    (needs (topology.here != null)
      "${option}.hosts: this host, ${cfg.hostName}, is not among them; see `hostName`."
    )
    (needs (lib.all (role: topology.hostsWith role != { }) [
      "router"
      "auth"
    ]) "${option}.hosts: one of them must have the role `router`, and one the role `auth`.")
    (needs (lib.length topology.instances > 1 -> cfg.redis.url != null)
      "${option}.redis.url: several hosts with the role `auth` need one Redis that all of them reach."
    )
    (needs (cfg.masterKeyFile != null || bridgesHaveKeys)
      "${option}.masterKeyFile: several hosts need the same one; a host with bridges alone may have `servers.<name>.identityKeyFile` instead."
    )
    (needs (topology.has "auth" -> cfg.masterKeyFile != null)
      "${option}.masterKeyFile: several hosts need the same one."
    )
  ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      (needs (builtins.match "(${hostName}\\.)+${hostName}" cfg.domain != null)
        "${option}.domain: \"${cfg.domain}\" is not a domain name such as mcp.example.com."
      )
      (needs (topology.enabled != { }) "${option}.servers: name at least one MCP server.")
      (needs (!(isOidc && github.clientId != null))
        "${option}.identityProvider: set either `github.clientId` or `oidc.issuer`; the gateway has one identity provider."
      )
      (needs (provider.clientId != null && (topology.has "auth" -> provider.clientSecretFile != null))
        "${option}.identityProvider.${if isOidc then "oidc" else "github"}: set `clientId` and `clientSecretFile`, or nobody could log in."
      )
      (needs (!isOidc || isUrl (lib.removeSuffix "/" oidc.issuer))
        "${option}.identityProvider.oidc.issuer: \"${toString oidc.issuer}\" is not a URL such as https://login.example.com."
      )
      (needs (cfg.defaultServer == null || topology.enabled ? ${cfg.defaultServer})
        "${option}.defaultServer: \"${toString cfg.defaultServer}\" is none of the servers."
      )
      (needs (cfg.lifetimes.login <= 600) "${option}.lifetimes.login: at most 600 seconds.")
      (needs (cfg.redis.url == null || isRedis cfg.redis.url)
        "${option}.redis.url: must be redis://HOST:PORT, rediss:// for TLS, unix://PATH, or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE."
      )
      (needs (cfg.redis.url == null || !lib.hasInfix "@" cfg.redis.url)
        "${option}.redis.url: has a password, which would be in the store for all to read; see `redis.passwordFile`."
      )
      (needs (cfg.redis.passwordFile == null || cfg.redis.url != null)
        "${option}.redis.passwordFile: is of no use without `redis.url`; the gateway's own Redis has none."
      )
      (needs (cfg.clientDocuments.proxyResolvesNames -> cfg.clientDocuments.proxy != null)
        "${option}.clientDocuments.proxyResolvesNames: is of no use without `clientDocuments.proxy`."
      )
      (needs (cfg.logFiles.enable -> cfg.journalNamespace != null)
        "${option}.logFiles.enable: needs a `journalNamespace`, which it writes to files."
      )
    ]
    ++ lib.optionals (topology.has "router") [
      (needs ((cfg.certificate.certFile == null) == (cfg.certificate.keyFile == null))
        "${option}.certificate: set both `certFile` and `keyFile`, or neither."
      )
      (needs ((cfg.acme.email != null) != (cfg.certificate.certFile != null))
        "${option}: set exactly one of `acme.email` and `certificate.certFile`."
      )
      (needs ((cfg.acme.challenge == "dns-01") == (cfg.acme.dnsProvider != null))
        "${option}.acme.dnsProvider: goes with `acme.challenge = \"dns-01\"`, and that with it."
      )
    ]
    ++ lib.optionals (!topology.isSingle) (
      severalHosts ++ lib.concatLists (lib.mapAttrsToList perHost cfg.hosts)
    )
    ++ lib.concatLists (lib.mapAttrsToList perServer topology.enabled)
    ++ lib.mapAttrsToList (url: group: {
      assertion = false;
      message = "${option}.servers: ${namesOf group} have the same URL, ${url}.";
    }) (clashes urls)
    ++ lib.mapAttrsToList (address: group: {
      assertion = false;
      message = "${namesOf group}: the same address, ${address}.";
    }) (clashes addresses)
    ++ lib.mapAttrsToList (port: group: {
      assertion = false;
      message = "${namesOf group}: the same port, ${port}; set one of them to another.";
    }) (clashes ports);

    warnings =
      lib.optional (lib.all (access: lists access == [ ]) everyone) ''
        ${option}: every allow-list is empty, so nobody can log in.
        Name someone in `identityProvider.${if isOidc then "oidc" else "github"}.allowedUsers` or another of its lists.
      ''
      ++ lib.concatLists (
        lib.mapAttrsToList (
          name: server:
          lib.optional (lib.any isSecret (lib.attrNames server.environment)) ''
            ${option}.servers.${name}.environment: looks like a secret, and the world can read it.
            Put it into a file, and its path into `servers.${name}.environmentFile`.
          ''
        ) topology.enabled
      );
  };
}
