// node-redlock by ioredis on the servers whose ports it is given, played as bench/common_peers.h says:
// a line in, a line of numbers out.
//
// Defaults throughout, but that a waiter goes on for ever: a refused one polls every 0.2 to 0.3 s.
'use strict';

const fs = require('fs');
const readline = require('readline');

const TTL_MS = 10000;

let Redis, Redlock, version;
try {
    Redis = require('ioredis');
    Redlock = require('redlock');
    // Version 5 does not export its package.json.
    const main = require.resolve('redlock');
    const folder = main.slice(0, main.lastIndexOf('redlock/') + 'redlock/'.length);
    version = JSON.parse(fs.readFileSync(`${folder}package.json`)).version.replace(/^v/, '');
} catch (why) {
    console.log(`missing redlock, ioredis: ${why.code}`);
    process.exit(0);
}

const clients = process.argv.slice(2).map((port) => new Redis(Number(port), '127.0.0.1'));
const redlock = new (Redlock.default || Redlock)(clients, { retryCount: -1 });
redlock.on('error', () => {}); // "held", each time

// Version 4 says lock and unlock, version 5 acquire and release.
const old = version.startsWith('4.');
const take = (name) => (old ? redlock.lock(name, TTL_MS) : redlock.acquire([name], TTL_MS));
const letGo = (lock) => (old ? lock.unlock() : lock.release());

const now = () => process.hrtime.bigint();
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function cyclesUntil(number, endNs) {
    let cycles = 0;
    for (; now() < endNs; cycles++)
        await letGo(await take(`belay:node-${number}-${cycles % 64}`));
    return cycles;
}

// Nanoseconds of one cycle, the median.
async function median(endNs) {
    const took = [];
    for (let began = now(); began < endNs;) {
        await letGo(await take(`belay:node-${took.length % 64}`));
        const ended = now();
        took.push(Number(ended - began));
        began = ended;
    }
    return took.sort((a, b) => a - b)[took.length >> 1];
}

// Until the end, and one more: whoever waits is let through.
async function grantsUntil(holdMs, endNs) {
    for (let grants = 0; ; grants++) {
        const lock = await take('belay:node-hot');
        const over = now() >= endNs;
        if (!over && holdMs > 0) await sleep(holdMs);
        await letGo(lock);
        if (over) return grants;
    }
}

const all = (count, work) => Promise.all(Array.from({ length: count }, (_, i) => work(i)));

async function play(words) {
    const began = now(), endNs = began + BigInt(Math.round(Number(words[words.length - 1]) * 1e9));
    if (words[0] === 'median') return [await median(endNs)];
    if (words[0] === 'hot') return all(Number(words[1]), () => grantsUntil(Number(words[2]), endNs));
    const count = words[0] === 'one' ? 1 : Number(words[1]);
    const cycles = await all(count, (i) => cyclesUntil(i, endNs));
    return [cycles.reduce((a, b) => a + b), now() - began];
}

async function main() {
    await Promise.all(clients.map((client) => client.ping()));
    console.log(`ready ${version}, node ${process.versions.node}`);
    for await (const line of readline.createInterface({ input: process.stdin }))
        console.log((await play(line.split(' '))).join(' '));
    clients.forEach((client) => client.disconnect());
}

main().catch((why) => {
    console.error(why);
    process.exit(1);
});
