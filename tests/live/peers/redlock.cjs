// redlock.cjs PORTS KEY FILE SECONDS: node-redlock on ioredis, on one server or on several
// ("1,2,3"), contending with the others of peers_test.c and redlock_peers_test.c; see redis_py.py.
// NODE_PATH says where `./dev deps` has put the two packages.
"use strict";

const fs = require("node:fs");
const { setTimeout: pause } = require("node:timers/promises");
const readline = require("node:readline");
const Redis = require("ioredis");
const { default: Redlock, ExecutionError } = require("redlock");

const TTL_MS = 10000;
const PAUSE_MS = 1;

async function count(path) {
  const number = Number.parseInt(fs.readFileSync(path, "utf8"), 10);
  await pause(PAUSE_MS);
  fs.writeFileSync(path, String(number + 1));
}

async function main() {
  const [ports, key, path, seconds] = process.argv.slice(2);
  const clients = ports.split(",").map((port) => new Redis({ host: "127.0.0.1", port: Number(port) }));
  const redlock = new Redlock(clients);
  redlock.on("error", () => {}); // each refusal is one
  await Promise.all(clients.map((client) => client.ping()));
  console.log("ready");
  await readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]().next();
  const end = performance.now() + 1000 * Number(seconds);
  let grants = 0;
  while (performance.now() < end) {
    let lock;
    try {
      lock = await redlock.acquire([key], TTL_MS);
    } catch (error) {
      if (error instanceof ExecutionError) continue; // tried ten times
      throw error;
    }
    await count(path);
    await lock.release();
    grants++;
  }
  console.log(JSON.stringify({ client: "node-redlock", grants }));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
