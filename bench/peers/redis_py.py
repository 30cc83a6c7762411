#!/usr/bin/env python3
"""redis-py's Lock, played as bench/common_peers.h says: a line in, a line of numbers out.

Defaults throughout, but for the TTL that every lock has: a refused waiter polls every 0.1 s."""

import sys
import threading
import time

try:
    import redis
except ImportError as why:
    print(f"missing {sys.executable}: {why}", flush=True)
    sys.exit(0)

TTL_S = 10


def cycles_until(client, number, end_ns):
    cycles = 0
    while time.monotonic_ns() < end_ns:
        lock = client.lock(f"belay:python-{number}-{cycles % 64}", timeout=TTL_S)
        if not lock.acquire(blocking=False):
            sys.exit("a free lock was refused")
        lock.release()
        cycles += 1
    return cycles


def grants_until(client, hold_s, end_ns):
    """Until the end, and one more: whoever waits is let through."""
    grants = 0
    while True:
        lock = client.lock("belay:python-hot", timeout=TTL_S)
        lock.acquire()
        over = time.monotonic_ns() >= end_ns
        if not over:
            grants += 1
            if hold_s > 0:
                time.sleep(hold_s)
        lock.release()
        if over:
            return grants


def threads_run(count, work):
    """The answers of work(i) for each i, and how long all of it took."""
    answers = [0] * count

    def run(i):
        answers[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    began = time.monotonic_ns()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, time.monotonic_ns() - began


def play(client, words):
    if words[0] == "one":
        began = time.monotonic_ns()
        cycles = cycles_until(client, 0, began + int(float(words[1]) * 1e9))
        return [cycles, time.monotonic_ns() - began]
    end_ns = time.monotonic_ns() + int(float(words[-1]) * 1e9)
    if words[0] == "many":
        answers, took = threads_run(int(words[1]), lambda i: cycles_until(client, i, end_ns))
        return [sum(answers), took]
    hold_s = float(words[2]) / 1e3
    answers, _ = threads_run(int(words[1]), lambda i: grants_until(client, hold_s, end_ns))
    return answers


def main():
    client = redis.Redis(host="127.0.0.1", port=int(sys.argv[1]))
    client.ping()
    print(f"ready {redis.__version__}", flush=True)
    for line in sys.stdin:
        print(*play(client, line.split()), flush=True)


if __name__ == "__main__":
    main()
