{ lib }:
{
  # The default port of a server's bridge. It depends only on the name, so that a new server changes no other port; an
  # assertion reports clashes.
  bridge =
    name:
    20000 + lib.mod (lib.fromHexString (lib.substring 0 7 (builtins.hashString "sha256" name))) 10000;
}
