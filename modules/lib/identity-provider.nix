# The one identity provider that is chosen.
{ cfg }:
rec {
  isOidc = cfg.identityProvider.oidc.issuer != null;
  name = if isOidc then "oidc" else "github";
  chosen = cfg.identityProvider.${name};
}
