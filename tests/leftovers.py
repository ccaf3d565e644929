"""What tests leave running: a process would outlive them, and a thread would keep the interpreter from ending."""

from __future__ import annotations

import contextlib
import gc
import threading
import time

import psutil

GRACE_SECONDS = 60


class Leftovers:
    """Compares what runs below this process with what ran when this was made."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._processes = set(psutil.Process().children(recursive=True))

    def end(self) -> list[str]:
        """End what has not ended by itself after some time, as far as possible, and return what it was."""
        deadline = time.monotonic() + GRACE_SECONDS
        gc.collect()  # what waits in a pool of threads ends with the pool, which may stand in a cycle
        processes = self._new_processes()
        _, left = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
        found = [f"process {each.pid}: {_command(each)}" for each in left if _runs(each)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        gc.collect()  # the threads of a pool end with it, which may be part of a cycle
        # A daemon thread keeps nothing from ending.
        for thread in set(threading.enumerate()) - self._threads:
            if not thread.daemon:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    found.append(f"thread {thread.name}")
        return found

    def _new_processes(self) -> list[psutil.Process]:
        # Python's own resource tracker ends with this process.
        return [
            each
            for each in psutil.Process().children(recursive=True)
            if each not in self._processes and "multiprocessing.resource_tracker" not in _command(each)
        ]


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return "has ended"
