"""Run a command that does not outlive its parent: `python die_with_parent.py PARENT-PID COMMAND ARG…`.

The kernel sends the command SIGTERM when the parent ends, even if the parent was killed and could not clean up.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> None:
    """Set a process attribute, which only Linux has: on other systems only an orderly stop cleans up."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def main() -> None:
    """Become the command. Exit at once if the parent has ended already."""
    parent, *command = sys.argv[1:]
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the launcher is gone")
    os.execvp(command[0], command)  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    main()
