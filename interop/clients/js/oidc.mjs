// An identity provider of its own make: npm oidc-provider with one client for each user of the trial,
// which gets tokens by client credentials and resource indicators (RFC 8707). It prints its issuer once
// it listens. A line "rotate" on its input has it sign with a new key, "withdraw" has it forget the old.
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import Provider from "oidc-provider";

// Standard output is for answers only.
const answer = (value) => process.stdout.write(JSON.stringify(value) + "\n");
console.log = console.info = console.warn = console.error;

const setup = JSON.parse(process.argv[2]); // audience, stranger (another audience), users

function newKey() {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg: "ES256" };
}

function provider(issuer, keys) {
  return new Provider(issuer, {
    jwks: { keys },
    clients: setup.users.map((u) => ({
      client_id: u.name, client_secret: u.secret, grant_types: ["client_credentials"], response_types: [], redirect_uris: [],
      id_token_signed_response_alg: "ES256",
    })),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => {
          if (![setup.audience, setup.stranger].includes(resource)) throw new Error("no such resource");
          return { scope: "", audience: resource, accessTokenTTL: 300, accessTokenFormat: "jwt", jwt: { sign: { alg: "ES256" } } };
        },
      },
    },
    extraTokenClaims: (_, token) => {
      const user = setup.users.find((u) => u.name === token.clientId);
      return { groups: user.groups, ...(user.organization ? { "https://idp.example/organization": user.organization } : {}) };
    },
  });
}

const server = createServer((req, res) => handle(req, res));
let handle;
let keys = [newKey()];
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const serve = () => (handle = provider(issuer, keys).callback());
  serve();
  answer({ issuer });
  const commands = createInterface({ input: process.stdin });
  commands.on("line", (line) => {
    if (line === "rotate") keys = [newKey(), ...keys];
    if (line === "withdraw") keys = keys.slice(0, 1);
    serve();
    answer({ done: line });
  });
  commands.on("close", () => process.exit(0));
});
