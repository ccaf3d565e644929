"""The authorization server: clients, users, codes, tokens, and when they end."""
