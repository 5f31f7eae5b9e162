// A person at a browser: headless Chromium goes through login and consent for a client that has no
// token yet. The argument names the client: ts2 or mcp-remote.
import { mkdirSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createServer as createTrap } from "node:net";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { readJob, report, seen } from "./job.mjs";

const job = await readJob(); // as of job.mjs, and: chromium, screenshots, persona
const which = process.argv[2];
const browser = await chromium.launch({
  executablePath: job.chromium,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
mkdirSync(job.screenshots, { recursive: true });

// person signs in as the persona and answers the consent page at url; it tells what the pages said.
async function person(url, decision = "allow") {
  const page = await (await browser.newContext({ viewport: { width: 900, height: 900 } })).newPage();
  const shot = (name) => page.screenshot({ path: join(job.screenshots, `${which}-${name}.png`), fullPage: true });
  const said = {};
  await page.goto(String(url));
  said.login = await page.textContent("main");
  await shot("login");
  await page.click(`button[name=persona][value="${job.persona}"]`);
  await page.waitForSelector("button[name=decision]");
  said.consent = await page.textContent("main");
  await shot(decision === "allow" ? "consent" : "cancel");
  await page.click(`button[name=decision][value=${decision}]`);
  await page.waitForURL((u) => !String(u).startsWith(new URL(url).origin));
  await page.context().close();
  return said;
}

// document asks for a client that says it is described on this machine (a Client ID Metadata Document).
// The authorization server must not be led to addresses that are not public: nothing may arrive there.
async function document() {
  let visits = 0;
  const trap = createTrap((socket) => {
    visits++;
    socket.destroy();
  });
  await new Promise((resolve) => trap.listen(0, "127.0.0.1", resolve));
  const url = new URL("/oauth/authorize", job.url);
  url.search = new URLSearchParams({
    response_type: "code", client_id: `https://127.0.0.1:${trap.address().port}/client.json`, state: "s", resource: job.url,
    redirect_uri: "http://127.0.0.1:1/callback", code_challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", code_challenge_method: "S256",
  });
  const page = await browser.newPage();
  await page.goto(String(url));
  const text = await page.textContent("main");
  await page.screenshot({ path: join(job.screenshots, `${which}-document.png`), fullPage: true });
  await page.close();
  trap.close();
  return { visits, text };
}

async function useIt(client) {
  return {
    tools: (await client.listTools()).tools.map((t) => t.name),
    call: seen(await client.callTool({ name: job.call.name, arguments: job.call.arguments })),
    denied: seen(await client.callTool({ name: job.denied.name, arguments: job.denied.arguments })),
  };
}

// callbacks listens where the authorization server sends the browser back.
async function callbacks() {
  let got;
  const server = createServer((req, res) => {
    const url = new URL(req.url, "http://127.0.0.1");
    if (url.pathname === "/callback") got?.(url.searchParams);
    res.end("done");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/callback`,
    next: () => new Promise((resolve) => (got = resolve)),
    close: () => server.close(),
  };
}

// ts2 registers itself, as the SDK does with an authorization server that it does not know.
async function ts2() {
  const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
  const back = await callbacks();
  const saved = {};
  const provider = (decision) => ({
    redirectUrl: back.url,
    clientMetadata: {
      client_name: "Interop client", redirect_uris: [back.url], grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"], token_endpoint_auth_method: "none",
    },
    state: () => (saved.state = crypto.randomUUID()),
    clientInformation: () => saved.client,
    saveClientInformation: (v) => void (saved.client = v),
    tokens: () => saved.tokens,
    saveTokens: (v) => void (saved.tokens = v),
    saveCodeVerifier: (v) => void (saved.verifier = v),
    codeVerifier: () => saved.verifier,
    saveDiscoveryState: (v) => void (saved.discovery = v),
    discoveryState: () => saved.discovery,
    redirectToAuthorization: async (url) => {
      const answer = back.next();
      saved.said = await person(url, decision);
      saved.answer = await answer;
    },
  });
  const connect = async (decision) => {
    const make = () => new StreamableHTTPClientTransport(new URL(job.url), { authProvider: provider(decision) });
    const client = () => new Client({ name: "interop", version: "1" }, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
    const first = make();
    const firstClient = client();
    try {
      await firstClient.connect(first);
      await firstClient.listTools();
      throw new Error("it needed no sign-in");
    } catch (err) {
      if (!saved.answer) throw err;
    }
    if (saved.answer.get("state") !== saved.state) throw new Error("another state came back");
    if (saved.answer.get("error")) return { error: saved.answer.get("error"), iss: saved.answer.get("iss") };
    await first.finishAuth(saved.answer);
    const second = client();
    await second.connect(make());
    return { client: second };
  };
  const cancelled = await connect("deny");
  delete saved.answer;
  const { client } = await connect("allow");
  const outcome = { ...(await useIt(client)), ...saved.said, cancelled: cancelled.error, version: client.getNegotiatedProtocolVersion() };
  // With the refresh token alone, as after the access token's end.
  await client.close();
  saved.tokens = { ...saved.tokens, access_token: job.expired };
  const old = saved.tokens.refresh_token;
  const again = await connectAgain(Client, StreamableHTTPClientTransport, provider("deny"));
  outcome.refreshed = saved.tokens.refresh_token !== old && again.length > 0;
  outcome.document = await document();
  back.close();
  return outcome;
}

async function connectAgain(Client, Transport, authProvider) {
  const client = new Client({ name: "interop", version: "1" }, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
  await client.connect(new Transport(new URL(job.url), { authProvider }));
  const { tools } = await client.listTools();
  await client.close();
  return tools;
}

// mcp-remote prints the address that a person should open.
async function mcpRemote() {
  const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
  const { StdioClientTransport } = await import("@modelcontextprotocol/sdk/client/stdio.js");
  const require = createRequire(import.meta.url);
  const manifest = require.resolve("mcp-remote/package.json");
  const script = new URL(require(manifest).bin["mcp-remote"], "file://" + manifest).pathname;
  const transport = new StdioClientTransport({
    command: process.execPath,
    args: [script, job.url, "--allow-http", "--transport", "http-only"],
    env: { PATH: process.env.PATH, HOME: job.home, MCP_REMOTE_CONFIG_DIR: job.home, BROWSER: "true" }, // opens nothing
    stderr: "pipe",
  });
  let text = "";
  const signedIn = new Promise((resolve, reject) => {
    let asked = false;
    transport.stderr.on("data", (chunk) => {
      text += chunk;
      process.stderr.write(chunk);
      const url = text.match(/visiting:\s+(https?:\/\/\S+)\s/)?.[1];
      if (url && !asked) {
        asked = true;
        person(url).then(resolve, reject);
      }
    });
  });
  const client = new Client({ name: "interop", version: "1" });
  const [said] = await Promise.all([signedIn, client.connect(transport, { timeout: 60_000 })]);
  const outcome = { ...(await useIt(client)), ...said, version: job.version };
  await client.close();
  return outcome;
}

try {
  const outcome = await { ts2, "mcp-remote": mcpRemote }[which]();
  await browser.close();
  report(outcome);
} catch (err) {
  await browser.close();
  throw err;
}
