// mcp-remote, which gives programs that only speak stdio a server far away, driven by the TypeScript SDK.
import { createRequire } from "node:module";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { drive, readJob, report } from "./job.mjs";

const job = await readJob();
const manifest = createRequire(import.meta.url).resolve("mcp-remote/package.json");
const script = new URL(createRequire(import.meta.url)(manifest).bin["mcp-remote"], "file://" + manifest).pathname;

report(
  await drive(job, async (token) => {
    const client = new Client({ name: "interop", version: "1" });
    const transport = new StdioClientTransport({
      command: process.execPath,
      // No space after the colon: it would end the argument for mcp-remote.
      args: [script, job.url, "--allow-http", "--transport", "http-only", "--header", `Authorization:Bearer ${token}`],
      env: { ...process.env, MCP_REMOTE_CONFIG_DIR: job.home },
      stderr: "pipe",
    });
    let said = "";
    let refuse;
    const refusal = new Promise((_, reject) => (refuse = reject));
    refusal.catch(() => {}); // nobody waits for it after the connection is made
    transport.stderr.on("data", (chunk) => {
      said += chunk;
      process.stderr.write(chunk);
      // Refused, it starts the browser flow, for which nobody is here.
      if (/authorize this client|Browser opened/i.test(said)) refuse(new Error("it asks to authorize"));
    });
    try {
      await Promise.race([client.connect(transport), refusal]);
    } catch (err) {
      await transport.close();
      throw new Error(`${err.message}: ${said.slice(-4000)}`);
    }
    return { client, version: () => job.version };
  }),
);
