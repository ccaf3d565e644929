# nix/options-doc.nix with nixpkgs' lib alone: descriptions name packages, but need none.
{
  lib ? import <nixpkgs/lib>,
}:
import ../../nix/options-doc.nix {
  inherit lib;
  pkgs = import ./packages.nix { inherit lib; };
}
