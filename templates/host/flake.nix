{
  description = "A host with the MCP OAuth gateway";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    mcp-oauth-gateway = {
      # OWNER: see docs/operations.md, "Install", of the repository that this template comes from.
      url = "github:OWNER/mcp-oauth-gateway";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    sops-nix = {
      url = "github:Mic92/sops-nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      nixpkgs,
      mcp-oauth-gateway,
      sops-nix,
      ...
    }:
    {
      nixosConfigurations.gateway = nixpkgs.lib.nixosSystem {
        modules = [
          mcp-oauth-gateway.nixosModules.default
          sops-nix.nixosModules.sops
          ./gateway.nix
          # ./hardware-configuration.nix, as nixos-generate-config writes it.
        ];
      };
    };
}
