{
  description = "OAuth 2.1 login in front of any unmodified MCP server";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forEachSystem =
        build:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: build nixpkgs.legacyPackages.${system});
    in
    {
      nixosModules.default = ./modules;

      overlays.default = final: _: { mcp-oauth-gateway = final.callPackage ./nix/package.nix { }; };

      packages = forEachSystem (pkgs: {
        default = pkgs.callPackage ./nix/package.nix { };
      });

      apps = forEachSystem (pkgs: {
        local = {
          type = "app";
          program = lib.getExe (
            pkgs.callPackage ./nix/local.nix { package = self.packages.${pkgs.stdenv.hostPlatform.system}.default; }
          );
        };
      });

      checks = forEachSystem (
        pkgs:
        # callPackage's own additions are no derivations.
        lib.filterAttrs (_: lib.isDerivation) (
          pkgs.callPackage ./nix/checks.nix {
            package = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
          }
        )
      );

      devShells = forEachSystem (pkgs: {
        default = pkgs.callPackage ./nix/devshell.nix { };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
