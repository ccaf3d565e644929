"""The processes of the stack, which start together and end together."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from local import die_with_parent

STOP_SECONDS = 10
LINE_LIMIT = 64 * 1024  # bytes
COLOURS = (36, 33, 32, 35, 34, 31)


@dataclass(frozen=True)
class Part:
    """One program of the stack, with the name that its log lines have.

    `find_problem` returns why it does not serve yet, and None when it does; it may block for a second or two.
    """

    name: str
    command: tuple[str, ...]
    find_problem: Callable[[], str | None]


class Console:
    """Write whole lines, each after the name of its part."""

    def __init__(self, stream: TextIO, names: Sequence[str]) -> None:
        self._stream = stream
        self._width = max(map(len, names))
        self._coloured = stream.isatty() and "NO_COLOR" not in os.environ
        self._colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}

    def write(self, name: str, text: str) -> None:
        """Write `text` with `name` before each of its lines."""
        prefix = f"{name:<{self._width}} |"
        if self._coloured:
            prefix = f"\x1b[{self._colours[name]}m{prefix}\x1b[0m"
        self._stream.writelines(f"{prefix} {line}\n" for line in text.splitlines() or [""])
        self._stream.flush()

    def write_plain(self, text: str) -> None:
        """Write `text` unchanged, so that it can be copied."""
        self._stream.write(f"{text}\n")
        self._stream.flush()


class Processes:
    """The running parts. `ended` resolves to a sentence about the first part that ended by itself."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: list[tuple[Part, asyncio.subprocess.Process]] = []
        self._watchers: list[asyncio.Task[None]] = []
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        # Children of a killed part become children of this process, so that `stop` finds them.
        die_with_parent.prctl(die_with_parent.PR_SET_CHILD_SUBREAPER, 1)

    async def start(self, part: Part) -> None:
        """Start a part in a session of its own, which the terminal's Ctrl-C does not reach."""
        read_end, write_end = os.pipe()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-S", die_with_parent.__file__, str(os.getpid()), *part.command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        os.close(write_end)
        self._running.append((part, process))
        self._watchers.append(asyncio.create_task(self._watch(part, process, read_end)))

    async def stop(self) -> None:
        """Stop all parts, the last started first, and return when no process is left."""
        for part, process in reversed(self._running):
            await self._stop_one(part, process)
        while orphans := _children():
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)  # noqa: ASYNC222 - just killed: it ends at once
        await asyncio.gather(*self._watchers)

    def kill(self) -> None:
        """Kill all parts at once, if the user does not wait for `stop`."""
        for _, process in self._running:
            if process.returncode is None:
                process.kill()

    async def _stop_one(self, part: Part, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._console.write("gateway", f"{part.name} does not stop: killing it")
            process.kill()
            await process.wait()

    async def _watch(self, part: Part, process: asyncio.subprocess.Process, output: int) -> None:
        copying = asyncio.create_task(self._copy_lines(part.name, output))
        status = await process.wait()
        # Its last lines come before the message that it ended; but one of its children may hold the pipe open.
        await asyncio.wait({copying}, timeout=1)
        if not self.ended.done():
            how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
            self.ended.set_result(f"{part.name} ended unexpectedly ({how})")
        await copying

    async def _copy_lines(self, name: str, output: int) -> None:
        reader = asyncio.StreamReader()
        with open(output, "rb", buffering=0) as pipe:  # noqa: ASYNC230 - a descriptor, not a path
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
            pending = b""
            while chunk := await reader.read(LINE_LIMIT):
                *lines, pending = (pending + chunk).split(b"\n")
                if len(pending) >= LINE_LIMIT:
                    lines, pending = [*lines, pending], b""
                for line in lines:
                    self._console.write(name, line.decode(errors="replace"))
            if pending:
                self._console.write(name, pending.decode(errors="replace"))


def _children() -> list[int]:
    with suppress(FileNotFoundError):  # elsewhere than on Linux
        return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]
    return []
