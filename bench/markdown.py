#!/usr/bin/env python3
"""Writes the figures of build/bench/*.json (or of the files given) into docs/benchmarks.md, between its
two `figures` comments. Run `./dev bench` first."""

import json
import re
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
PAGE = TREE / "docs" / "benchmarks.md"
ORDER = ("memory", "valid", "footprint", "sqlite", "handover", "redis", "redis_handover", "fallback",
         "redlock", "run")
ROW = "| {what} | {unit} | {belay} | {floor} | {ratio} | {target} | {ok} | {floor is} |\n"


def shown(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, (int, float)):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return value.strip()


def section(result):
    head = {name: name for name in ("what", "unit", "belay", "floor", "ratio", "target", "ok", "floor is")}
    facts = [f"{key} {shown(result[key])}" for key in
             ("date", "sqlite", "directory", "redis", "hiredis", "redis-py's Lock", "node-redlock",
              "system calls in 1,000,000 calls",
              "processors busy for others") if key in result]
    text = f"**bench_{result['bench']}**: {', '.join(facts)}\n\n"
    text += ROW.format(**head) + "|---|---|---:|---:|---:|---|---|---|\n"
    for row in result["rows"]:
        text += ROW.format(**{key: shown(row.get(key)) for key in head})
    return text


def main():
    files = [Path(name) for name in sys.argv[1:]] or sorted((TREE / "build" / "bench").glob("*.json"))
    results = {}
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        results[result["bench"]] = result
    sections = [section(results[name]) for name in ORDER if name in results]
    if not sections:
        sys.exit("no figures: run ./dev bench")
    machine = next(iter(results[name]["machine"] for name in ORDER if name in results))
    text = f"\nMachine: {machine}.\n\n" + "\n".join(sections)
    page = PAGE.read_text(encoding="utf-8")
    page, found = re.subn(r"(<!-- figures -->\n).*?(<!-- end of figures -->)",
                          lambda m: m.group(1) + text + "\n" + m.group(2), page, flags=re.S)
    if found != 1:
        sys.exit(f"{PAGE}: where do they go?")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
