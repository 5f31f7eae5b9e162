// The TypeScript SDK of the second generation, with the way of finding a version that the argument names.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { drive, readJob, report } from "./job.mjs";

const mode = process.argv[2] === "pin" ? { pin: "2026-07-28" } : process.argv[2];
const job = await readJob();
report(
  await drive(job, async (token) => {
    const client = new Client({ name: "interop", version: "1" }, { versionNegotiation: { mode } });
    const transport = new StreamableHTTPClientTransport(new URL(job.url), { requestInit: { headers: { Authorization: `Bearer ${token}` } } });
    await client.connect(transport);
    const version = client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;
    return { client, version: () => version };
  }),
);
