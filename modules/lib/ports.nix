{ lib }:
{
  # The usual port of a server's bridge: from the name alone, so that adding a server moves no other one.
  # A clash is an assertion's to report.
  bridge =
    name:
    20000 + lib.mod (lib.fromHexString (lib.substring 0 7 (builtins.hashString "sha256" name))) 10000;
}
