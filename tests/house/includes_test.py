#!/usr/bin/env python3
"""Who may include whom, and who may ask the world: DESIGN's rules, read from the sources.

Before it judges the tree it judges made-up ones: a clean one must pass, and each single violation
must be found, so that a rule that can't fail is noticed here."""

import os
import re
import sys
import tempfile
from pathlib import Path

SRC = Path(os.environ.get("BELAY_SRC") or Path(__file__).resolve().parents[2])
ROOMS = ("include", "core", "backends", "tools", "tests", "bench", "examples")

# Each library's room. Tests and benches may use them all: as peers, and as the floor.
LIBRARIES = {
    "hiredis": r"backends/resp/",
    "sqlite3": r"backends/sqlite[a-z_]*\.[ch]$",
    "libconfig": r"core/config[a-z_]*\.[ch]$",
    "openssl/": r"backends/resp/tls[a-z_]*\.[ch]$",
    "cmocka": r"tests/",
}

# A backend's time, chance and waiting come from its env.
ASKS_THE_WORLD = re.compile(
    r"(?<![\w.>])(clock_gettime|clock_nanosleep|gettimeofday|timespec_get|time|getrandom|getentropy"
    r"|arc4random|rand|rand_r|random|drand48|sleep|usleep|nanosleep|thrd_sleep|poll|ppoll|select"
    r"|pselect|epoll_wait|epoll_pwait|pthread_create|thrd_create|sqlite3_sleep"
    r"|sqlite3_busy_timeout)\s*\(")

# Not safe in a library that others' threads use. (The environment: secure_getenv, in core alone.)
NOT_FOR_THREADS = re.compile(
    r"(?<![\w.>])(getenv|setenv|unsetenv|putenv|strtok|localtime|gmtime|asctime|ctime|setlocale"
    r"|srand|getpwuid|getpwnam|inet_ntoa|umask|chdir|exit|signal|sigaction)\s*\(")

NOT_CODE = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.S)
INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*([<\"])([^>\"]+)[>\"]", re.M)


def code_of(text):
    """Comments and literals blanked, lines kept."""
    return NOT_CODE.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def resolve(tree, path, quote, name):
    """An include of ours as a path in the tree ('core/loop.h', 'include/belay/belay.h'), else None."""
    if name.startswith("belay/"):
        return "include/" + name
    if quote == '"':
        beside = os.path.normpath(os.path.join(os.path.dirname(path), name))
        if (tree / beside).is_file() or name.startswith("../"):
            return beside
    name = os.path.normpath(name)
    if name.split("/")[0] in ROOMS or (tree / name).is_file() or quote == '"':
        return name
    return None


def stem(path):
    return re.split(r"[_.]", os.path.basename(path))[0]


def judge_include(path, target):
    """Why the file at path may not include target (both paths in the tree), or None."""
    room, target_room = path.split("/")[0], target.split("/")[0]
    public = target_room == "include"
    header = target.removeprefix("include/belay/")
    if room in ("tools", "bench", "examples"):
        # A third-party backend is written against backend.h and tested with testing.h.
        author = room == "examples" and path.endswith(("_backend.c", "_backend.h"))
        if public:
            allowed = header == "belay.h" or (author and header in ("backend.h", "testing.h"))
        else:
            # A bench may put the tests' peers between belay and a server.
            allowed = target_room == room or (room == "bench" and target.startswith("tests/fake/"))
        return None if allowed else f"{room}/ includes <belay/belay.h> of ours alone"
    if room == "backends":
        if public:
            allowed = header == "backend.h"
        elif path.startswith("backends/resp/"):
            allowed = target.startswith("backends/resp/")
        else:
            # One backend in several files shares a private header of its own name.
            allowed = target.startswith("backends/resp/") or (
                target_room == "backends" and stem(target) == stem(path))
        return None if allowed else "backends include <belay/backend.h> and backends/resp/"
    if room == "core":
        allowed = target_room == "core" or (public and header != "testing.h")
        return None if allowed else "core includes include/ and itself"
    if room == "include":
        return None if public else "a public header includes public headers and the system's"
    return None


def judge(tree):
    """Everything that breaks a rule, as 'file:line: what: the rule'."""
    broken = []
    for room in ROOMS:
        for file in sorted((tree / room).rglob("*.[ch]")):
            path = str(file.relative_to(tree))
            text = file.read_text(encoding="utf-8", errors="replace")
            # Comments go, but the quotes of an include must stay.
            bare = re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group(0)), text,
                          flags=re.S)
            for found in INCLUDE.finditer(bare):
                where = f"{path}:{bare.count(chr(10), 0, found.start()) + 1}: {found.group(2)}"
                target = resolve(tree, path, *found.groups())
                library = next((l for l in LIBRARIES if found.group(2).startswith(l)), None)
                if library:
                    free = room in ("tests",) or (room == "bench" and library != "cmocka")
                    if not free and not re.match(LIBRARIES[library], path):
                        broken.append(f"{where}: {library.strip('/')} is at home in "
                                      f"{LIBRARIES[library].split('[')[0]} alone")
                elif target and (why := judge_include(path, target)):
                    broken.append(f"{where}: {why}")
            code = code_of(text) if room in ("core", "backends") else ""
            for found in NOT_FOR_THREADS.finditer(code):
                line = code.count("\n", 0, found.start()) + 1
                broken.append(f"{path}:{line}: {found.group(1)}(): not in a library")
            if room == "backends":
                for found in ASKS_THE_WORLD.finditer(code):
                    line = code.count("\n", 0, found.start()) + 1
                    broken.append(f"{path}:{line}: {found.group(1)}(): backends ask belay_env for "
                                  "time, chance and waiting")
    return broken


CLEAN = {
    "include/belay/belay.h": "#include <stdint.h>\n",
    "include/belay/backend.h": "#include <belay/belay.h>\n",
    "include/belay/testing.h": "#include <belay/backend.h>\n",
    "core/config.c": '#include <libconfig.h>\n#include "core/loop.h"\n',
    "core/loop.c": '#include "loop.h"\n#include <belay/backend.h>\n#include <time.h>\n',
    "core/loop.h": "#include <stdint.h>\n",
    "backends/memory.c": "/* never time() here */ #include <belay/backend.h>\n"
                         "int settle_time(int); int (*f)(int); int b(struct s *p) { return p->poll(1); }\n",
    "backends/sqlite.c": '#include <belay/backend.h>\n#include <sqlite3.h>\n#include "sqlite_file.h"\n'
                         'const char *q = "time(x)";\n',
    "backends/sqlite_file.h": "",
    "backends/redis.c": '#include <belay/backend.h>\n#include "backends/resp/link.h"\n',
    "backends/fault.c": "#include <belay/backend.h>\n",
    "backends/resp/link.c": '#include <hiredis/hiredis.h>\n#include "link.h"\n',
    "backends/resp/link.h": "",
    "backends/resp/tls.c": "#include <openssl/ssl.h>\n",
    "tools/main.c": '#include <belay/belay.h>\n#include "tool.h"\n',
    "tools/tool.h": "",
    "bench/sqlite.c": '#include <belay/belay.h>\n#include <sqlite3.h>\n#include "common.h"\n',
    "bench/common.h": "",
    "bench/far.c": '#include <belay/belay.h>\n#include "tests/fake/relay.h"\n',
    "tests/fake/relay.h": "",
    "examples/hello.c": "#include <belay/belay.h>\n",
    "examples/toy_backend.c": "#include <belay/backend.h>\n#include <belay/testing.h>\n",
    "tests/unit/loop_test.c": '#include "core/loop.h"\n#include <cmocka.h>\n',
}
VIOLATIONS = [
    ("tools/main.c", "#include <belay/backend.h>"),
    ("tools/main.c", '#include "core/loop.h"'),
    ("tools/main.c", '#  include "../core/loop.h"'),
    ("tools/main.c", "#include <core/loop.h>"),
    ("tools/main.c", "#include <sqlite3.h>"),
    ("bench/sqlite.c", '#include "core/clock.h"'),
    ("bench/far.c", '#include "tests/live/server.h"'),
    ("bench/sqlite.c", "#include <belay/backend.h>"),
    ("examples/hello.c", "#include <belay/backend.h>"),
    ("examples/toy_backend.c", '#include "core/loop.h"'),
    ("core/loop.c", '#include "backends/memory.h"'),
    ("core/loop.c", '#include "../backends/resp/link.h"'),
    ("core/loop.c", "#include <libconfig.h>"),
    ("core/loop.c", "#include <sqlite3.h>"),
    ("core/loop.c", "#include <belay/testing.h>"),
    ("core/loop.c", "#include <hiredis/hiredis.h>"),
    ("core/loop.c", "#include <cmocka.h>"),
    ("backends/memory.c", '#include "core/loop.h"'),
    ("backends/memory.c", "#include <belay/belay.h>"),
    ("backends/memory.c", '#include "sqlite_file.h"'),
    ("backends/redis.c", "#include <hiredis/hiredis.h>"),
    ("backends/resp/link.c", "#include <openssl/ssl.h>"),
    ("backends/fault.c", "#include <libconfig.h>"),
    ("include/belay/belay.h", '#include "core/loop.h"'),
    ("include/belay/belay.h", "#include <sqlite3.h>"),
    ("core/loop.c", "char *x(void) { return getenv(0); }"),
    ("core/loop.c", "void x(void) { exit(1); }"),
] + [("backends/memory.c", f"int x(void) {{ return {call}(0); }}") for call in (
    "clock_gettime", "getrandom", "time", "usleep", "nanosleep", "sleep", "poll", "rand", "random")]


def make_tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def self_check():
    wrong = []
    with tempfile.TemporaryDirectory() as tmp:
        tree = Path(tmp)
        make_tree(tree, CLEAN)
        wrong += [f"a clean tree was refused: {b}" for b in judge(tree)]
        for name, line in VIOLATIONS:
            path = tree / name
            path.write_text(CLEAN[name] + line + "\n")
            broken = judge(tree)
            if len(broken) != 1 or not broken[0].startswith(name):
                wrong.append(f"'{line}' in {name} should break one rule; found {broken}")
            path.write_text(CLEAN[name])
    return wrong


def main():
    wrong = self_check()
    for line in wrong:
        print(f"self-check: {line}")
    print(f"self-check: {len(VIOLATIONS)} violations tried, {len(wrong)} misjudged")
    broken = judge(SRC)
    for line in broken:
        print(line)
    print(f"the tree: {len(broken)} include rules broken")
    return 1 if wrong or broken else 0


if __name__ == "__main__":
    sys.exit(main())
