"""A legacy stdio server that misbehaves as its command line says, and whose tools misbehave as they are named."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

ANSWERED = object()
LONG = 16 * 1024 * 1024


def say(**message: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def complain(data: bytes) -> None:
    sys.stderr.buffer.write(data)
    sys.stderr.flush()


def text(request: dict[str, Any], value: object) -> None:
    say(id=request["id"], result={"content": [{"type": "text", "text": str(value)}]})


def call(request: dict[str, Any]) -> None:
    if misbehave(request) is not ANSWERED:
        text(request, os.getpid())


def misbehave(request: dict[str, Any]) -> object:  # noqa: PLR0911, PLR0912, PLR0915 - one branch for each fault
    match request["params"]["name"]:
        case "exit":
            complain(b"the last words\n")
            write(b"Traceback on stdout\n{secret}\n")
            os._exit(7)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "never":
            return ANSWERED
        case "log and never":
            say(method="notifications/message", params={"level": "info", "data": "working"})
            return ANSWERED
        case "close stdout":
            os.close(1)
            time.sleep(60)
        case "close stdin":
            text(request, "heard enough")
            os.close(0)
            time.sleep(60)
        case "asleep":
            time.sleep(600)
        case "garbage":
            write(b"Starting up...\n\x00\xff\xfe\n{]\n[]\n7\nnull\n\r\n" + b'{"jsonrpc":"1.0"}\n')
        case "raw":
            written = bytes.fromhex(request["params"]["arguments"]["hex"])
            write(written.replace(b"ID", str(request["id"]).encode()).replace(b"FILL", b"x" * 1000) + b"\n")
            return ANSWERED
        case "in pieces":
            answer = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": {"text": "€"}}, ensure_ascii=False)
            for byte in answer.encode() + b"\n":
                write(bytes([byte]))
            return ANSWERED
        case "long lines":
            write(b"x" * (LONG + 1) + b"\n")
        case "long answer":
            text(request, "y" * (LONG - 1000))
            return ANSWERED
        case "too long":
            text(request, "z" * (LONG + 1))
            return ANSWERED
        case "unreadable answer":
            result = request["params"]["arguments"]["template"]
            write(
                json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result})
                .encode()
                .replace(b'"FILL"', b"[]," * 1_000_000 + b"[]")
                + b"\n"
            )
            return ANSWERED
        case "stderr":
            complain(b"e" * 500_000 + b"\n" + b"short\n" * 80_000)
        case "twice":
            text(request, "first")
            say(id=request["id"], error={"code": -32603, "message": "second"})
        case "unknown ids":
            say(id=999_999, result={})
            say(id="made up", result={})
            say(id=None, error={"code": -32700, "message": "what?"})
            say(method="notifications/cancelled", params={"requestId": 999_999})
            say(method="notifications/progress", params={"progressToken": 999_999, "progress": 1})
        case "flood":
            token = request["params"]["_meta"]["progressToken"]
            for number in range(3000):
                params = {"progressToken": token, "progress": number, "message": "f" * 65536}
                say(method="notifications/progress", params=params)
    return None


def wait_at(gate: str) -> None:
    """Tell who listens there of the start, and wait for a byte."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(gate)
        connection.sendall(f"{os.getpid()}\n".encode())
        connection.recv(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--exit-at-start", action="store_true")
    parser.add_argument("--strict", action="store_true", help="exit at any first request but initialize")
    parser.add_argument("--mute", action="store_true", help="answer nothing")
    parser.add_argument("--stubborn", action="store_true", help="go on after SIGTERM and without stdin, with a child")
    parser.add_argument("--bom", action="store_true", help="begin with a byte order mark")
    parser.add_argument("--json-log", action="store_true", help="begin with JSON that is no message")
    parser.add_argument("--gate", help="wait there at the start")
    options = parser.parse_args()
    if options.exit_at_start:
        complain(b"no such database\n")
        sys.exit(5)
    if options.bom:
        write(b"\xef\xbb\xbf")
    if options.json_log:
        write(b'{"level": "info"}\n')
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "600"])
    if options.gate:
        wait_at(options.gate)
    for line in sys.stdin:
        request = json.loads(line)
        if options.mute:
            continue
        if options.strict and request.get("method") != "initialize":
            complain(b"expected initialize\n")
            sys.exit(6)
        options.strict = False
        if request.get("method") == "initialize":
            version = request["params"]["protocolVersion"]
            info = {"name": "faulty", "version": "1"}
            say(id=request["id"], result={"protocolVersion": version, "capabilities": {}, "serverInfo": info})
        elif request.get("method") == "tools/call":
            call(request)
        elif "id" in request:
            say(id=request["id"], error={"code": -32601, "message": "unknown"})
    while options.stubborn:
        signal.pause()


main()
