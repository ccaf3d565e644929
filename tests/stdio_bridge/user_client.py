"""A client of one era whose requests carry the identity and the scopes of a user."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.stdio_bridge.modern_client import ModernClient
from tests.stdio_bridge.running import Bridge, assertion, rpc

Message = dict[str, Any]

RESOURCE = "https://mcp.example.com/notes/mcp"


@dataclass
class Said:
    status: int
    headers: dict[str, str]
    messages: list[Message]

    @property
    def message(self) -> Message:
        return self.messages[-1]

    @property
    def challenge(self) -> str:
        return self.headers["www-authenticate"]


class Client:
    """A user's client of one era. The scopes are those of the token; `grantable` ones can still be granted."""

    def __init__(self, bridge: Bridge, era: str, *, user: str = "u", scope: str = "read", grantable: str = "") -> None:
        self.bridge = bridge
        self.era = era
        self.user = user
        self._session = bridge.initialize("2025-11-25", **self.identity(scope, grantable)) if era == "legacy" else ""
        self.set_scopes(scope, grantable)

    def identity(self, scope: str | None, grantable: str | None) -> dict[str, str]:
        claims = {"aud": RESOURCE, "scope": scope, "grantable_scope": grantable}
        present: Message = {name: value for name, value in claims.items() if value is not None}
        return {"X_Gateway_Identity": assertion(self.user, **present)}

    def set_scopes(self, scope: str | None, grantable: str | None = "") -> None:
        """Go on with another token."""
        self.headers = self.identity(scope, grantable)
        if self.era == "legacy":
            self.headers["Mcp_Session_Id"] = self._session
        self.modern = ModernClient(self.bridge, None, **self.headers)

    def send(self, method: str, params: Message | None = None, **headers: Any) -> Said:
        if self.era == "modern":
            answer = self.modern.request(method, params, **headers)
            return Said(answer.status, answer.headers, answer.messages)
        return self.post(rpc(method, params or {}))

    def post(self, body: object) -> Said:
        status, headers, content = self.bridge.request("POST", body, **self.headers)
        if headers.get("content-type") == "text/event-stream":
            return Said(status, headers, [json.loads(line[6:]) for line in content.splitlines() if b"data: {" in line])
        read = json.loads(content) if content else []
        return Said(status, headers, read if isinstance(read, list) else [read])

    def call(self, tool: str) -> Said:
        return self.send("tools/call", {"name": tool, "arguments": {}})

    def reached(self) -> list[Message]:
        """Return the requests and notifications that have reached the server, but those of this question's kind."""
        said = self.call("seen").message
        reached: list[Message] = json.loads(said["result"]["content"][0]["text"])
        return [each for each in reached if each["params"].get("name") != "seen"]

    def names(self, method: str, member: str, name: str) -> list[str]:
        """Return a whole list, page by page."""
        found: list[str] = []
        params: Message = {}
        while True:
            result = self.send(method, params).message["result"]
            found += [each[name] for each in result[member]]
            if "nextCursor" not in result:
                return found
            params = {"cursor": result["nextCursor"]}
