"""The rules of OAuth 2.1 as this gateway applies them: pure functions and values, no I/O and no clock."""
