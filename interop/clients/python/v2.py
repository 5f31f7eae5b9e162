"""The MCP Python SDK of the second generation, with the way of finding a version that the argument names."""

import asyncio
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

import job


async def main() -> None:
    mode = sys.argv[1]
    todo = job.read()

    statuses: list[int] = []

    async def note(response: httpx2.Response) -> None:
        statuses.append(response.status_code)

    def connect(token: str) -> Client:
        hooks = {"response": [note]}  # the SDK's error does not tell the status
        http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30, event_hooks=hooks)
        return Client(streamable_http_client(todo["url"], http_client=http), mode=mode)

    async with connect(todo["token"]) as client:
        outcome = {
            "version": client.protocol_version,
            "tools": [t.name for t in (await client.list_tools()).tools],
            "call": job.seen(await client.call_tool(todo["call"]["name"], todo["call"]["arguments"])),
            "denied": job.seen(await client.call_tool(todo["denied"]["name"], todo["denied"]["arguments"])),
        }

    async def expired() -> None:
        async with connect(todo["expired"]) as client:
            await client.list_tools()

    statuses.clear()
    outcome["expired"] = await job.refused(expired)
    if outcome["expired"]:
        outcome["expired"] += f"; statuses {statuses}"
    job.report(outcome)


asyncio.run(main())
