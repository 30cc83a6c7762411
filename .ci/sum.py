#!/usr/bin/env python3
"""sum.py RESULTS MAY_SKIP: adds up what ./dev test and ./dev check left in build/results.

RESULTS/*.xml are ctest's JUnit files, one for each build; RESULTS/steps has a line for each step of
./dev check, RESULTS/parts one for each part of .ci/run. A step or part that failed counts only
where no test of it accounts for the failure. Exits 1 if anything failed, nothing passed, or a test
skipped itself that may not."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

OWN_SUITE = {"asan": "asan", "tsan": "tsan", "valgrind": "gcc"}   # step -> its JUnit file


def read_suite(path):
    passed, failed, skipped = 0, [], []
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{path.stem}: {case.get('name')}"
        skip = case.find("skipped")
        if skip is not None and skip.get("message", "").startswith("SKIP_"):   # it exited 77
            skipped.append(name)
        elif case.find("failure") is not None or case.find("error") is not None \
                or case.get("status") != "run":
            failed.append(name)
        else:
            passed += 1
    return passed, failed, skipped


def main():
    results, may_skip = Path(sys.argv[1]), set(sys.argv[2].split())
    passed, failed, skipped, suites_failed = 0, [], [], {}
    for path in sorted(results.glob("*.xml")):
        ok, bad, skip = read_suite(path)
        print(f"{path.stem}: {ok} passed, {len(bad)} failed, {len(skip)} skipped")
        passed += ok
        failed += bad
        skipped += skip
        suites_failed[path.stem] = bool(bad)

    def lines(name):
        path = results / name
        return [l.split() for l in path.read_text().splitlines()] if path.exists() else []

    steps_failed = False
    for verdict, step in lines("steps"):
        if verdict == "passed":
            passed += 1
        else:
            steps_failed = True
            if not suites_failed.get(OWN_SUITE.get(step)):
                failed.append(f"check: {step}")
    if not lines("steps"):
        failed.append("check: no step was run")
    for verdict, part in lines("parts"):
        if verdict == "failed":
            told = suites_failed.get("release") if part == "test" else steps_failed
            if part == "deps" or not told:
                failed.append(f"part: {part}")
    if "release" not in suites_failed:
        failed.append("test: no test was run")

    refused = [s for s in skipped if s not in may_skip and s.split(": ", 1)[1] not in may_skip]
    for name in failed:
        print(f"failed: {name}")
    for name in skipped:
        print(f"skipped: {name}" + ("" if name not in refused else " (it may not: counts as a failure)"))
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or refused or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
