// Verifies requests with other people's code: `standardwebhooks` and `jose`, both with their default settings.
//
// One JSON object a line comes in, one goes out; `src/verifier.rs` says what is in them. The packages are found from
// the directory that is given, since they are installed outside the sources.

import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(join(process.argv[2], "package.json")));
const { Webhook } = require("standardwebhooks");
const { jwtVerify } = require("jose");

function signature(request) {
  new Webhook(request.secret).verify(Buffer.from(request.body, "base64").toString(), request.headers);
}

async function token(request) {
  const key = Buffer.from(request.secret.replace(/^whsec_/, ""), "base64");
  return (await jwtVerify(request.token, key, { audience: request.audience })).payload;
}

async function check(what, request) {
  try {
    return { claims: (await what(request)) ?? null };
  } catch (error) {
    return { error: `${error.name}: ${error.message}` };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const answer = { signature: await check(signature, request), token: await check(token, request) };
  process.stdout.write(JSON.stringify(answer) + "\n");
}
