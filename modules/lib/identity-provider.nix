# The identity provider that the operator has chosen.
{ cfg }:
rec {
  isOidc = cfg.identityProvider.oidc.issuer != null;
  name = if isOidc then "oidc" else "github";
  chosen = cfg.identityProvider.${name};
}
