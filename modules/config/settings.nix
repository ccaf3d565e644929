# The auth service's settings.json, from the options.
{
  config,
  gatewayLib,
  lib,
  ...
}:
let
  cfg = config.services.mcp-oauth-gateway;
  inherit (gatewayLib) topology;
  inherit (gatewayLib.identityProvider) isOidc;
  provider = gatewayLib.identityProvider.chosen;

  mkDefaults = lib.mapAttrs (_: lib.mkDefault);

  # A setting without a value keeps the service's default.
  mkUnlessNull = value: lib.mkIf (value != null) (lib.mkDefault value);

  allowed =
    access:
    lib.filterAttrs (_: list: list != [ ]) {
      users = access.allowedUsers;
      organizations = access.allowedOrganizations or [ ];
      teams = access.allowedTeams or [ ];
      groups = access.allowedGroups or [ ];
    };

  scope =
    scope:
    {
      inherit (scope) description required;
    }
    // lib.optionalAttrs (allowed scope != { }) { allowed = allowed scope; };

  identityProvider =
    if isOidc then
      {
        type = "oidc";
        inherit (provider) issuer scopes;
        username_claim = provider.usernameClaim;
        groups_claim = provider.groupsClaim;
        client_id = provider.clientId;
        authorization_parameters = provider.authorizationParameters;
      }
      // lib.optionalAttrs (provider.title != null) { inherit (provider) title; }
    else
      {
        type = "github";
        inherit (provider) url;
        client_id = provider.clientId;
        api_url = provider.apiUrl;
      };

  urlOf = replica: "http://${topology.authority replica.address replica.port}/mcp";
  endpoints =
    server:
    let
      replicas = topology.replicasOf server;
    in
    if server.url != null then
      { backends = [ server.url ]; }
    else if lib.length replicas == 1 then
      { backends = map urlOf replicas; }
    else
      {
        replicas = lib.listToAttrs (map (replica: lib.nameValuePair replica.name (urlOf replica)) replicas);
      };

  connection =
    oauth:
    {
      authorization_endpoint = oauth.authorizationEndpoint;
      token_endpoint = oauth.tokenEndpoint;
      client_id = oauth.clientId;
      inherit (oauth) scopes;
    }
    // lib.filterAttrs (_: value: value != null && value != { }) {
      token_endpoint_auth_method = oauth.tokenEndpointAuthMethod;
      authorization_parameters = oauth.authorizationParameters;
      revocation_endpoint = oauth.revocationEndpoint;
      inherit (oauth) issuer;
    };

  userCredential =
    credential:
    {
      inherit (credential) label;
    }
    // lib.filterAttrs (_: value: value != null) {
      inherit (credential) help pattern;
      oauth = lib.mapNullable connection credential.oauth;
    };

  # Where the status service says how a bridge is, without waking it.
  statusUrls =
    name: server:
    lib.listToAttrs (
      map (
        replica:
        lib.nameValuePair (urlOf replica) "http://${topology.statusAddressOf replica.host}/${topology.bridgeUnit name replica}/statusz"
      ) (topology.replicasOf server)
    );

  resource =
    name: server:
    let
      tls = lib.mapAttrs (
        setting: _: "${gatewayLib.traefik.credentials}/${gatewayLib.traefik.backendCredential name setting}"
      ) (gatewayLib.traefik.backendFiles server);
    in
    {
      url = server.publicUrl;
    }
    // endpoints server
    // lib.optionalAttrs (server.urlCredentialFile != null) { backend_credential = true; }
    // lib.optionalAttrs (tls != { }) { backend_tls = tls; }
    // lib.optionalAttrs (topology.sleepers ? ${name}) { status_urls = statusUrls name server; }
    // lib.optionalAttrs (server.title != null) { inherit (server) title; }
    // lib.optionalAttrs (server.scopes != { }) { scopes = lib.mapAttrs (_: scope) server.scopes; }
    // lib.optionalAttrs (server.description != null) { inherit (server) description; }
    // lib.optionalAttrs (server.url == null) { network = gatewayLib.sandbox.networkOf server.sandbox; }
    //
      lib.optionalAttrs
        (topology.bridgedHere ? ${name} && gatewayLib.sandbox.domainsOf server.sandbox != null)
        {
          egress_socket = gatewayLib.units.egressSocket name;
        }
    // lib.optionalAttrs (allowed server != { }) { allowed = allowed server; }
    // lib.optionalAttrs (server.userCredentials != { }) {
      user_credentials = lib.mapAttrs (_: userCredential) server.userCredentials;
    };

  declaredClient =
    client:
    lib.filterAttrs (_: value: value != null && value != [ ]) {
      inherit (client) title servers scopes;
      lifetime = if client.servers == [ ] then null else client.lifetime;
      public_key = if client.publicKeyFile == null then null else lib.readFile client.publicKeyFile;
      jwks_url = client.jwksUrl;
      secret = if client.secretFile == null then null else true;
      redirect_uris = client.redirectUris;
      user_assertions = if client.userAssertions then true else null;
    };

  trustedIssuer =
    name: trusted:
    {
      inherit (trusted)
        issuer
        audience
        subjects
        servers
        lifetime
        ;
    }
    // lib.optionalAttrs (trusted.claims != { }) { inherit (trusted) claims; }
    // lib.optionalAttrs (trusted.scopes != [ ]) { inherit (trusted) scopes; }
    // lib.optionalAttrs (trusted.keysFile != null) {
      jwks = builtins.addErrorContext "while reading `services.mcp-oauth-gateway.trustedIssuers.${name}.keysFile`" (
        lib.importJSON trusted.keysFile
      );
    };
in
{
  config = lib.mkIf cfg.enable {
    services.mcp-oauth-gateway.settings = {
      issuer = lib.mkDefault "https://${cfg.domain}";
      identity_provider = mkDefaults identityProvider;
      allowed = mkDefaults (allowed provider);
      state_directory = "/var/lib/mcp-auth-service";
      listen = topology.authority topology.listenAddress cfg.port;
      # An address of Traefik on loopback, which leads to the only instance or to any that is ready.
      internal_url = "http://127.0.0.1:${toString cfg.port}";
      workers = lib.mkDefault cfg.workers;
      log_level = lib.mkDefault cfg.logLevel;
      lifetimes = mkDefaults {
        access_token = cfg.lifetimes.accessToken;
        refresh_token = cfg.lifetimes.refreshToken;
        inherit (cfg.lifetimes) login session;
        signing_key = cfg.lifetimes.signingKey;
        unused_client = cfg.lifetimes.unusedClient;
        unconfirmed_user = cfg.lifetimes.unconfirmedUser;
      };
      limits = mkDefaults {
        registrations_per_hour = cfg.limits.registrationsPerHour;
        unused_clients = cfg.limits.unusedClients;
        grants_per_client = cfg.limits.grantsPerClient;
        token_requests_per_minute = cfg.limits.tokenRequestsPerMinute;
        rates = cfg.rateLimits;
      };
      clients = lib.mkIf (cfg.clients.redirectSchemes != { }) {
        redirect_schemes = cfg.clients.redirectSchemes;
      };
      client_documents = {
        enabled = lib.mkDefault cfg.clientDocuments.enable;
        probe_urls = mkUnlessNull cfg.clientDocuments.probeUrls;
        proxy = mkUnlessNull cfg.clientDocuments.proxy;
        proxy_resolves_names = lib.mkIf (cfg.clientDocuments.proxy != null) (
          lib.mkDefault cfg.clientDocuments.proxyResolvesNames
        );
        allowed_hosts = mkUnlessNull cfg.clientDocuments.allowedHosts;
      };
      declared_clients = lib.mkIf (cfg.declaredClients != { }) (
        lib.mapAttrs (_: declaredClient) cfg.declaredClients
      );
      trusted_issuers = lib.mkIf (cfg.trustedIssuers != { }) (
        lib.mapAttrs trustedIssuer cfg.trustedIssuers
      );
      home_page = mkDefaults {
        enabled = cfg.homePage.enable;
        inherit (cfg.homePage) public;
      };
      tracing = lib.mkIf (cfg.tracing.endpoint != null) (mkDefaults {
        inherit (cfg.tracing) endpoint;
        sample_ratio = cfg.tracing.sampleRatio;
      });
      default_resource = mkUnlessNull cfg.defaultServer;
      instances = lib.mkIf (topology.instances != [ ]) topology.instances;
      resources = lib.mapAttrs resource topology.enabled;
    };
  };
}
