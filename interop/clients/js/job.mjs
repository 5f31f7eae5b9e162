// What the drivers have in common: a job comes on standard input, its outcome goes to standard output.
//
// A job has a url, a token that is good and one that has expired, a call that is allowed and one that
// the policy denies. The outcome has what the client saw, as far as the client shows it.

export async function readJob() {
  let text = "";
  for await (const chunk of process.stdin) text += chunk;
  return JSON.parse(text);
}

export function report(outcome) {
  process.stdout.write(JSON.stringify(outcome) + "\n", () => process.exit(0));
}

// sees a result of tools/call as text and flag.
export function seen(result) {
  const text = (result.content ?? []).map((c) => c.text ?? "").join("\n");
  return { isError: result.isError === true, text };
}

// refused runs what should be refused and returns the error's words, or "" if it was not.
export async function refused(attempt) {
  try {
    await attempt();
    return "";
  } catch (err) {
    return words(err);
  }
}

export function words(err) {
  const parts = [];
  for (let e = err; e; e = e.cause) parts.push([e.name, e.code, e.status, e.message].filter((p) => p !== undefined && p !== "").join(" "));
  return parts.join("; ");
}

// drive runs the whole job with a client of connect(token), which returns the client and its version.
export async function drive(job, connect) {
  const { client, version } = await connect(job.token);
  const listed = await client.listTools();
  const call = seen(await client.callTool({ name: job.call.name, arguments: job.call.arguments }));
  const denied = seen(await client.callTool({ name: job.denied.name, arguments: job.denied.arguments }));
  await client.close();
  const expired = await refused(async () => {
    const { client } = await connect(job.expired);
    try {
      await client.listTools();
    } finally {
      await client.close().catch(() => {});
    }
  });
  return { version: version(), tools: listed.tools.map((t) => t.name), call, denied, expired };
}
