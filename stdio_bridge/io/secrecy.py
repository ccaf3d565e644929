"""Protects the bridge's secrets from the servers that it starts, which run as the same user."""

from __future__ import annotations

import ctypes
import os
import resource

from stdio_bridge.protocol.errors import UsageError

_PR_SET_DUMPABLE = 4  # linux/prctl.h
# core(5): the limit 1 also forbids dumps to a program that collects them; 0 forbids only dumps to files.
_NO_CORE_DUMP = 1


def hide_memory() -> None:
    """Keep other processes of the same user from this one's memory, environment, descriptors and core dumps.

    For ptrace(2) and /proc/PID, the kernel then treats this process as one of root's. That ends at the next execve, so
    that it does not change the servers. Raises UsageError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise UsageError(f"--require-identity: the key cannot be protected from the server: prctl: {reason}")


def forbid_core_dumps() -> None:
    """Forbid core dumps of servers that are started from now on, as these would contain their users' credentials."""
    resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE_DUMP, _NO_CORE_DUMP))
