#!/usr/bin/python3
"""redis_py.py PORT KEY FILE SECONDS: redis-py's Lock, contending with the others of peers_test.c.

Says "ready", waits for a line, then counts in FILE while it holds KEY, for SECONDS; the end is one
line of JSON. The file is read and written with a pause between: whoever comes in meanwhile loses an
update, or makes us lose ours."""
import json
import sys
import time

import redis

TTL = 10.0
PAUSE = 0.001


def count(path):
    with open(path, "r+") as file:
        number = int(file.read())
        time.sleep(PAUSE)
        file.seek(0)
        file.write(str(number + 1))


def main():
    port, key, path, seconds = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
    client = redis.Redis(host="127.0.0.1", port=port)
    client.ping()
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + seconds
    grants = 0
    while (left := end - time.monotonic()) > 0:
        lock = client.lock(key, timeout=TTL, blocking_timeout=left)
        if not lock.acquire():
            break
        count(path)
        lock.release()
        grants += 1
    print(json.dumps({"client": "redis-py", "grants": grants}))


main()
