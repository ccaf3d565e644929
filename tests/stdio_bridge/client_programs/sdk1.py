"""The Python SDK 1.x: sdk1.py URL TOOL ARGUMENTS, run by a Python that has it."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def main(url: str, tool: str, arguments: str) -> None:
    """List the tools and call one."""
    assert version("mcp").startswith("1.")
    async with streamable_http_client(url) as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()
        tools = await session.list_tools()
        result = await session.call_tool(tool, json.loads(arguments))
        sys.stdout.write(f"{[tool.name for tool in tools.tools]} {result.content}\n")


asyncio.run(main(*sys.argv[1:]))
