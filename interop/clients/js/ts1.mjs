// The TypeScript SDK of the first generation, which speaks 2025-11-25.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { drive, readJob, report } from "./job.mjs";

const job = await readJob();
report(
  await drive(job, async (token) => {
    const client = new Client({ name: "interop", version: "1" });
    const transport = new StreamableHTTPClientTransport(new URL(job.url), { requestInit: { headers: { Authorization: `Bearer ${token}` } } });
    await client.connect(transport);
    const version = transport.protocolVersion;
    return { client, version: () => version };
  }),
);
