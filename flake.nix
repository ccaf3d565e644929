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
        ] (system: build nixpkgs.legacyPackages.${system} self.packages.${system}.default);
    in
    {
      # A set, since some versions of `nix flake check` take no path.
      nixosModules = {
        default = self.nixosModules.mcp-oauth-gateway;
        mcp-oauth-gateway.imports = [ ./modules ];
      };

      overlays.default = final: _: { mcp-oauth-gateway = final.callPackage ./nix/package.nix { }; };

      packages = forEachSystem (
        pkgs: _: {
          default = pkgs.callPackage ./nix/package.nix { };
          mcp-server-everything = pkgs.callPackage ./nix/packages/mcp-server-everything { };
          tmux-mcp = pkgs.callPackage ./nix/packages/tmux-mcp.nix { };
        }
      );

      apps = forEachSystem (
        pkgs: package: {
          local = {
            type = "app";
            program = lib.getExe (pkgs.callPackage ./nix/local.nix { inherit package; });
            meta.description = "The whole gateway on this machine, to try it";
          };
        }
      );

      checks = forEachSystem (
        pkgs: package:
        # callPackage's own additions are no derivations.
        lib.filterAttrs (_: lib.isDerivation) (
          pkgs.callPackage ./nix/checks.nix {
            inherit package;
            inherit (lib) nixosSystem;
          }
        )
      );

      devShells = forEachSystem (pkgs: _: { default = pkgs.callPackage ./nix/devshell.nix { }; });

      formatter = forEachSystem (pkgs: _: pkgs.nixfmt-tree);

      templates.default = {
        path = ./templates/host;
        description = "A NixOS host with the gateway in front of two MCP servers";
        welcomeText = ''
          Put your domain and your GitHub application into gateway.nix, your host's hardware into flake.nix, and the
          application's secret into secrets.yaml, then follow docs/operations.md of mcp-oauth-gateway.
        '';
      };
    };
}
