"""Keeping what the bridge knows from the servers that it starts, which run as the same user."""

from __future__ import annotations

import ctypes
import os
import resource

from stdio_bridge.protocol.errors import UsageError

_PR_SET_DUMPABLE = 4  # linux/prctl.h
# core(5): no dump, not even to a program that collects them. 0 would forbid those to files alone.
_NO_CORE_DUMP = 1


def hide_memory() -> None:
    """Keep other processes of the same user out of this one: its memory, environment, descriptors, and core dumps.

    The kernel takes such a process for root's in ptrace(2) and in all of /proc/PID that shows what is inside. It holds
    until the next execve, so that the servers are as they would be without. Raises UsageError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise UsageError(f"--require-identity: the key cannot be protected from the server: prctl: {reason}")


def forbid_core_dumps() -> None:
    """Let the servers that are started from now on leave no core dumps, in which their users' credentials would be."""
    resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE_DUMP, _NO_CORE_DUMP))
