// The Inspector's command line, one process for each request, in the era that the argument names.
import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { readJob, report, seen } from "./job.mjs";

const era = process.argv[2];
const job = await readJob();
const manifest = createRequire(import.meta.url).resolve("@modelcontextprotocol/inspector/package.json");
const bin = createRequire(import.meta.url)(manifest).bin;
const script = join(dirname(manifest), typeof bin === "string" ? bin : (bin["mcp-inspector"] ?? Object.values(bin)[0]));

function inspect(token, ...args) {
  const all = [script, "--cli", "--transport", "http", "--server-url", job.url, "--format", "json", "-q", "--stored-auth-only",
    "--header", `Authorization: Bearer ${token}`, "--protocol-era", era, ...args];
  return new Promise((resolve) => {
    execFile(process.execPath, all, { env: { ...process.env, HOME: job.home }, timeout: 60_000, maxBuffer: 16 << 20 }, (err, stdout, stderr) => {
      process.stderr.write(stderr);
      let json;
      try {
        json = JSON.parse(stdout);
      } catch {
        // it failed before there was an answer
      }
      resolve({ code: err ? err.code : 0, json, stdout, stderr });
    });
  });
}

const call = (token, c) => inspect(token, "--method", "tools/call", "--tool-name", c.name, "--tool-args-json", JSON.stringify(c.arguments));

const list = await inspect(job.token, "--method", "tools/list");
const allowed = await call(job.token, job.call);
const denied = await call(job.token, job.denied);
const expired = await inspect(job.expired, "--method", "tools/list");
const answer = (r) => (r.json ? seen(r.json.result ?? r.json) : { isError: true, text: r.stderr });
report({
  version: era === "modern" ? "2026-07-28" : "2025-11-25",
  tools: (list.json?.result ?? list.json)?.tools?.map((t) => t.name) ?? [],
  call: answer(allowed),
  denied: answer(denied),
  expired: expired.code === 0 ? "" : `exit code ${expired.code}: ${expired.stderr.trim()} ${expired.stdout.trim()}`,
});
