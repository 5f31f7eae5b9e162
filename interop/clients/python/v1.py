"""The MCP Python SDK of the first generation, which speaks 2025-11-25."""

import asyncio

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

import job


async def main() -> None:
    todo = job.read()

    async def use(token: str, work) -> None:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
            async with streamable_http_client(todo["url"], http_client=http) as (read, write, *_):
                async with ClientSession(read, write) as session:
                    await work(session, await session.initialize())

    outcome: dict = {}

    async def everything(session: ClientSession, hello) -> None:
        outcome["version"] = str(hello.protocolVersion)
        outcome["tools"] = [t.name for t in (await session.list_tools()).tools]
        outcome["call"] = job.seen(await session.call_tool(todo["call"]["name"], todo["call"]["arguments"]))
        outcome["denied"] = job.seen(await session.call_tool(todo["denied"]["name"], todo["denied"]["arguments"]))

    async def only_list(session: ClientSession, _) -> None:
        await session.list_tools()

    await use(todo["token"], everything)
    outcome["expired"] = await job.refused(lambda: use(todo["expired"], only_list))
    job.report(outcome)


asyncio.run(main())
