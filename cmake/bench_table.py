#!/usr/bin/env python3
"""bench_table.py FILE: a bench's JSON as a table. `./dev bench` runs each bench once, with --json.

A bench prints one object. Its scalars are facts about the run; each array of objects in it is a
table (usually "rows"), one column for each key."""

import json
import sys


def shown(value):
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if value else "0"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)


def table(rows):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[shown(row[c]) if c in row else "" for c in columns] for row in rows]
    number = [all(isinstance(r.get(c, 0), (int, float)) for r in rows) for c in columns]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  " + "  ".join(text.rjust(w) if num else text.ljust(w)
                               for text, w, num in zip(line, widths, number)).rstrip())


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        result = json.load(file)
    facts = {k: v for k, v in result.items() if not isinstance(v, (list, dict))}
    print("\n".join(f"{k}: {shown(v)}" for k, v in facts.items()))
    for key, value in result.items():
        if isinstance(value, dict):
            print(f" {key}: " + ", ".join(f"{k} {shown(v)}" for k, v in value.items()))
        elif isinstance(value, list) and value and all(isinstance(r, dict) for r in value):
            if key != "rows":
                print(f" {key}:")
            table(value)
        elif isinstance(value, list):
            print(f" {key}: " + ", ".join(shown(v) for v in value))


if __name__ == "__main__":
    main()
