// Claude Code, as far as it goes without a model: the first event of a run lists the servers' states and
// the tools. The model's address is a closed port, so the run ends there.
import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { readJob, report } from "./job.mjs";

const job = await readJob();
const require = createRequire(import.meta.url);
const binary = [`${process.platform}-${process.arch}`, `${process.platform}-${process.arch}-musl`]
  .map((p) => join(dirname(require.resolve("@anthropic-ai/claude-code/package.json")), "..", `claude-code-${p}`, "claude"))
  .find(existsSync);
if (!binary) throw new Error("there is no Claude Code for this machine");

function run(token) {
  const config = { mcpServers: { atlas: { type: "http", url: job.url, headers: { Authorization: `Bearer ${token}` } } } };
  const args = ["-p", "hi", "--output-format", "stream-json", "--verbose", "--strict-mcp-config", "--mcp-config", JSON.stringify(config)];
  const env = {
    PATH: process.env.PATH, HOME: job.home, ANTHROPIC_API_KEY: "none", ANTHROPIC_BASE_URL: "http://127.0.0.1:9",
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1",
  };
  return new Promise((resolve, reject) => {
    const child = execFile(binary, args, { env, timeout: 60_000, maxBuffer: 16 << 20 });
    let out = "";
    let init;
    child.stderr.on("data", (d) => process.stderr.write(d));
    child.stdout.on("data", (d) => {
      out += d;
      for (const line of out.split("\n").slice(0, -1)) {
        const event = parse(line);
        if (event?.subtype === "init" && !init) {
          init = event;
          child.kill();
        }
      }
    });
    child.on("error", reject);
    // Not before it has ended: it writes into its home until then.
    child.on("exit", () => (init ? resolve(init) : reject(new Error(`it ended without an init event: ${out.slice(0, 2000)}`))));
    child.stdin.end();
  });
}

function parse(line) {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

const good = await run(job.token);
const bad = await run(job.expired);
const prefix = "mcp__atlas__";
const names = (event) => event.tools.filter((t) => t.startsWith(prefix)).map((t) => t.slice(prefix.length));
const state = bad.mcp_servers.find((s) => s.name === "atlas")?.status;
report({
  version: job.version,
  tools: names(good),
  expired: names(bad).length === 0 && state !== "connected" ? `status ${state}` : "",
});
