"""What an agent on LangChain does: langchain_agent.py URL TOOL ARGUMENTS, run by a Python that has it.

Logs in once, and calls the tool until the token has been refreshed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio import StreamReader, StreamWriter
from urllib.parse import parse_qs, urlsplit

from langchain_mcp_adapters.client import MultiServerMCPClient
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

MAX_CALLS = 1000
"""Until the token has ended."""


class MemoryStorage:
    """Where the SDK keeps what it got, and how many token responses that were."""

    def __init__(self) -> None:
        self.responses = 0
        self._tokens: OAuthToken | None = None
        self._client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.responses += 1
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


async def main(url: str, tool: str, arguments: str) -> None:
    """List the tools and call one. A second login would fail: the answer of the first is taken."""
    answer: asyncio.Future[tuple[str, str | None]] = asyncio.get_running_loop().create_future()

    async def receive(reader: StreamReader, writer: StreamWriter) -> None:
        target = (await reader.readline()).split()[1].decode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        query = parse_qs(urlsplit(target).query)
        answer.set_result((query["code"][0], query["state"][0]))

    async def open_browser(url: str) -> None:
        await asyncio.create_subprocess_exec(os.environ["BROWSER"], url)

    async def wait_for_answer() -> tuple[str, str | None]:
        return await answer

    storage = MemoryStorage()
    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    provider = OAuthClientProvider(
        server_url=url,
        client_metadata=OAuthClientMetadata.model_validate(
            {"client_name": "LangChain", "redirect_uris": [f"http://127.0.0.1:{port}/callback"]}
        ),
        storage=storage,
        redirect_handler=open_browser,
        callback_handler=wait_for_answer,  # type: ignore[arg-type]  # a pair in the SDK 1.x
    )
    client = MultiServerMCPClient({"time": {"transport": "streamable_http", "url": url, "auth": provider}})
    tools = {each.name: each for each in await client.get_tools()}
    for _ in range(MAX_CALLS):
        result = await tools[tool].ainvoke(json.loads(arguments))
        if storage.responses == 2:
            sys.stdout.write(f"{sorted(tools)} {result} refreshed\n")
            break
    server.close()


asyncio.run(main(*sys.argv[1:]))
