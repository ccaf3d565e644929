"""`python -m local`: the whole gateway on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from auth_service.oauth.document_probe import find_problems, targets_of
from auth_service.oauth.safe_fetch import make_fetcher
from auth_service.protocol.client_programs import describe_clients
from auth_service.settings import ClientDocuments
from local.launcher import current_launcher
from local.options import UsageError, parse_options
from local.processes import Console, Part, Processes
from local.stack import Stack, prepare

START_SECONDS = 90
POLL_SECONDS = 0.1


class NotHealthyError(Exception):
    """A part does not serve in time; the text names it and its last problem."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stack; return the exit status: 0 after Ctrl-C, 1 if a part failed, 2 for invalid input."""
    try:
        options = parse_options(sys.argv[1:] if arguments is None else arguments)
        stack = prepare(options)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return asyncio.run(_run(stack, options.notices))


async def _run(stack: Stack, notices: Sequence[str]) -> int:
    console = Console(sys.stdout, ["gateway", *stack.part_names])
    processes = Processes(console)
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            processes.kill()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    stopped = asyncio.create_task(stopping.wait())
    explaining = asyncio.create_task(asyncio.to_thread(_explain_documents, stack.client_documents))
    serving = asyncio.create_task(_start(stack, processes, console))
    try:
        await _first_of(serving, stopped, processes.ended)
        if serving.done() and serving.exception() is None:
            await _first_of(explaining, stopped, processes.ended)
            for notice in (*notices, *([explaining.result()] if explaining.done() else [])):
                console.write("gateway", notice)
            console.write_plain(_instructions(stack))
            console.write("gateway", "everything is healthy: Ctrl-C stops it; clients and grants are kept")
            await _first_of(stopped, processes.ended)
        if stopped.done():
            console.write("gateway", "stopping; Ctrl-C again kills the parts that are slow")
            return 0
        if serving.done() and (error := serving.exception()) is not None:
            console.write("gateway", f"{error}: stopping")
        else:
            console.write("gateway", f"{processes.ended.result()}: stopping. Its own lines above say why.")
        return 1
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError, NotHealthyError):
            await serving
        # Parts that end from now on were told to.
        if not processes.ended.done():
            processes.ended.cancel()
        await processes.stop()
        stopped.cancel()
        explaining.cancel()


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _start(stack: Stack, processes: Processes, console: Console) -> None:
    """Start the stages, each once the previous one serves. Raises NotHealthyError."""
    for stage in stack.stages:
        for part in stage:
            await processes.start(part)
        await asyncio.gather(*(_wait_until_healthy(part) for part in stage))
        console.write("gateway", f"serving: {', '.join(part.name for part in stage)}")


async def _wait_until_healthy(part: Part) -> None:
    deadline = time.monotonic() + START_SECONDS
    while (problem := await asyncio.to_thread(part.find_problem)) is not None:
        if time.monotonic() > deadline:
            raise NotHealthyError(f"{part.name} does not serve after {START_SECONDS} s ({problem})")
        await asyncio.sleep(POLL_SECONDS)


def _explain_documents(documents: ClientDocuments) -> str:
    """Say whether client documents can be fetched here, by the same check as the service's."""
    if not documents.enabled:
        return "client documents are off: every client registers"
    if problems := find_problems(make_fetcher(documents), targets_of(documents)):
        return (
            "client documents cannot be fetched from here, so every client registers instead. "
            f"{'; '.join(problems)}. If there is a proxy for it: make run ARGS='--client-documents-proxy http://HOST:PORT'"
        )
    return "client documents can be fetched: Claude Code, Codex and VS Code need no registration"


def _instructions(stack: Stack) -> str:
    """Return what to paste into each client for the first server, the URLs of the others, and how to operate it."""
    (first, url), *others = stack.resources.items()
    home = f"The home page, which shows this for every server: {stack.issuer}/"
    lines = ["", describe_clients(first, url), "", home, ""]
    if others:
        lines += ["The other servers:", *(f"{name} {other}" for name, other in others), ""]
    lines += [f"Who may log in: {', '.join(stack.users)}", ""]
    settings, credentials = shlex.quote(str(stack.settings_file)), shlex.quote(str(stack.credentials_directory))
    lines += [
        "How to operate it, in another terminal:",
        f"export MCP_GATEWAY_SETTINGS={settings} CREDENTIALS_DIRECTORY={credentials}",
        f"{current_launcher().gatewayctl} --help",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
