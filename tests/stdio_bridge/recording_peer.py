"""Who is at the other end of a connection, in tests without a process or a socket."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]


class RecordingPeer:
    """A client, or a reply, that remembers what it was told."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.answers: list[Message] = []

    def receive(self, message: Message) -> None:
        self.received.append(message)

    send = receive

    def finish(self, message: Message) -> None:
        self.answers.append(message)
