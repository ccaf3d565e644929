"""The egress proxy: by it alone, servers with `sandbox.network.domains` reach the internet."""
