"""The whole gateway on one machine: the launcher (`python -m local`) and a stand-in for GitHub."""
