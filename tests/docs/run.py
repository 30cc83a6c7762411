#!/usr/bin/env python3
"""Runs every fenced block of a page, by the word after its fence.

  sh, bash         run by `bash -eu` in an empty directory, with a home of its own and the built
                   `belay` on PATH; must exit 0
  c                with `int main`: compiled against an installed copy of belay (pkg-config), run
                   without: compiled as a function's body; as a file, when that fails
  libconfig, conf  must pass `belay config check`
  text, json, ...  not run (see INERT)
  anything else    an error: a block nobody runs must say that it is one

A comment on the line before the fence changes that:

  <!-- doctest: skip WHY -->          not run; the reason is required, and printed
  <!-- doctest: expect-exit=75 -->    this exit status, and no other
  <!-- doctest: file=NAME -->         also kept as NAME for the blocks after it (a C program isn't run)
  <!-- doctest: same-dir -->          run where the block before ran
  <!-- doctest: fragment -->          c: never a whole program; libconfig: `use` is added
  <!-- doctest: fragment=backends --> libconfig: the inside of `backends: { }`
  <!-- doctest: timeout=SECONDS -->   instead of 60

`./dev` and `git clone` work in blocks, as do tests/, examples/ and config/: a clone is a directory
of links into this tree, and so is the directory of a block that names one of these. ./dev there
really runs `run` and `install --prefix`, while of the others (`./dev test` would call us
again) it only checks that they exist. Relative links of the page must lead to something.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

INERT = {"text", "json", "ini", "sql", "diff", "cmake", "lua", "mermaid"}
SRC = Path(os.environ.get("BELAY_SRC") or Path(__file__).resolve().parents[2])
BUILD = Path(os.environ.get("BELAY_BUILD") or SRC / "build" / "release")
BELAY = Path(os.environ.get("BELAY_BIN") or BUILD / "bin" / "belay")
CC = os.environ.get("CC") or "cc"

C_PRELUDE = """#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <belay/backend.h>
#include <belay/belay.h>
"""
# What a fragment may take for granted; it may as well declare its own.
C_GIVEN = """extern belay *client;
extern belay_lock *lock;
extern belay_status status;
extern belay_error err;
"""

DEV_SHIM = """#!/usr/bin/env bash
# The page's ./dev; see tests/docs/run.py.
real=@SRC@/dev
"$real" help | grep -qE "^  \\./dev ${1:-run}( |\\$)" || { echo "no such ./dev command: $1" >&2; exit 64; }
case "$1 $*" in
'run '* | 'install '*--prefix*)
    if [ @BUILD@ = @SRC@/build/release ]; then exec "$real" "$@"; fi
    if [ "$1" = run ]; then exec @BELAY@ "$@"; fi ;;
' ') exec "$real" ;;
esac
"""

GIT_SHIM = """#!/usr/bin/env bash
# git, but `clone` makes links to the tree that is tested.
if [ "${1:-}" != clone ]; then exec @GIT@ "$@"; fi
url= dir=
for a in "${@:2}"; do
    case $a in -*) ;; *) if [ -z "$url" ]; then url=$a; else dir=$a; fi ;; esac
done
[ -n "$dir" ] || dir=$(basename "${url%/}" .git)
mkdir "$dir" && @POPULATE@ "$dir"
"""

# A server that a block starts ends with it, also when that is killed.
SERVER_SHIM = """#!/usr/bin/env bash
exec setpriv --pdeathsig KILL @SERVER@ "$@"
"""

POPULATE = """#!/usr/bin/env bash
for f in @SRC@/* ; do
    case ${f##*/} in dev | build) ;; *) ln -sfn "$f" "$1/" ;; esac
done
cp @SHIM@ "$1/dev"
"""


class Block:
    def __init__(self, line, lang, text, options):
        self.line, self.lang, self.text, self.options = line, lang, text, options


class PageError(Exception):
    pass


def parse_options(comment, line):
    """'expect-exit=75 file=a.c' -> dict; 'skip why so' -> {'skip': 'why so'}"""
    known = {"skip", "expect-exit", "file", "same-dir", "fragment", "timeout"}
    if comment.split(maxsplit=1)[:1] == ["skip"]:
        reason = comment[4:].strip(" :-")
        if len(reason) < 8:
            raise PageError(f"{line}: skip needs a reason")
        return {"skip": reason}
    options = {}
    for word in comment.split():
        key, _, value = word.partition("=")
        if key not in known:
            raise PageError(f"{line}: doctest option '{key}' is none of {sorted(known)}")
        options[key] = value
    return options


def parse(text):
    """The page's fenced blocks, fences indented (in lists) included."""
    blocks, lines, i, comment = [], text.splitlines(), 0, None
    while i < len(lines):
        opened = re.match(r"^(\s*)(`{3,}|~{3,})\s*([^`]*)$", lines[i])
        if not opened:
            said = re.match(r"^\s*<!--\s*doctest:\s*(.*?)\s*-->\s*$", lines[i])
            if said:
                comment = (said.group(1), i + 1)
            elif lines[i].strip():
                if comment:
                    raise PageError(f"{comment[1]}: a doctest comment with no block after it")
            i += 1
            continue
        indent, fence, info = opened.groups()
        start, body = i + 1, []
        i += 1
        while i < len(lines) and not re.match(rf"^\s*{re.escape(fence[0])}{{{len(fence)},}}\s*$", lines[i]):
            body.append(lines[i][len(indent):] if lines[i].startswith(indent) else lines[i].lstrip())
            i += 1
        if i == len(lines):
            raise PageError(f"{start}: the block is not closed")
        i += 1
        options = parse_options(*comment) if comment else {}
        comment = None
        blocks.append(Block(start, info.split()[0].strip("{}") if info.strip() else "",
                            "\n".join(body) + "\n", options))
    return blocks


class Runner:
    def __init__(self, page_dir):
        self.page_dir = page_dir
        self.tmp = Path(tempfile.mkdtemp(prefix="belay-docs-"))
        self.files = {}
        self.count = 0
        self.dir = None
        (self.tmp / "home").mkdir()
        bin_dir = self.tmp / "bin"
        bin_dir.mkdir()
        if BELAY.exists():
            (bin_dir / "belay").symlink_to(BELAY)
        names = {"@SRC@": str(SRC), "@BUILD@": str(BUILD), "@BELAY@": str(BELAY),
                 "@GIT@": shutil.which("git") or "git", "@SHIM@": str(self.tmp / "dev-shim"),
                 "@POPULATE@": str(self.tmp / "populate"),
                 "@SERVER@": shutil.which("redis-server") or "redis-server"}
        for path, text in ((self.tmp / "dev-shim", DEV_SHIM), (bin_dir / "git", GIT_SHIM),
                           (bin_dir / "redis-server", SERVER_SHIM),
                           (self.tmp / "populate", POPULATE)):
            for key, value in names.items():
                text = text.replace(key, value)
            path.write_text(text)
            path.chmod(0o755)
        keep = ("PATH", "LANG", "TERM", "USER", "LOGNAME")
        self.env = {k: os.environ[k] for k in keep if k in os.environ}
        prefix = self.tmp / "prefix"
        self.env.update(HOME=str(self.tmp / "home"), TMPDIR=str(self.tmp), CC=CC,
                        PATH=f"{bin_dir}:{self.env.get('PATH', '/usr/bin:/bin')}",
                        PKG_CONFIG_PATH=f"{prefix}/lib/pkgconfig",
                        CMAKE_PREFIX_PATH=str(prefix), LD_LIBRARY_PATH=f"{prefix}/lib")
        self.prefix = prefix

    def close(self):
        shutil.rmtree(self.tmp, ignore_errors=True)

    def install(self):
        """belay as a user has it, for C programs."""
        if self.prefix.exists():
            return
        done = subprocess.run(["cmake", "--install", str(BUILD), "--prefix", str(self.prefix)],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise PageError(f"cmake --install failed:\n{done.stdout}{done.stderr}")

    def workdir(self, block):
        if "same-dir" in block.options and self.dir:
            return self.dir
        self.count += 1
        self.dir = self.tmp / f"block{self.count}"
        self.dir.mkdir()
        for name, text in self.files.items():
            path = self.dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o600 if name.endswith(".conf") else 0o755)
        return self.dir

    def command(self, argv, cwd, expect, timeout):
        """None when it exits as expected, else what went wrong."""
        proc = subprocess.Popen(argv, cwd=cwd, env=self.env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                errors="replace", start_new_session=True)
        try:
            out, _ = proc.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(proc.pid, signal.SIGKILL)
            out, _ = proc.communicate()
            return f"still running after {timeout} s; it had said:\n{out}"
        finally:
            try:   # what the block left in the background
                os.killpg(proc.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if proc.returncode != expect:
            return f"exit {proc.returncode}, expected {expect}:\n{out}"
        return None

    def run(self, block):
        options = block.options
        expect = int(options.get("expect-exit") or 0)
        timeout = float(options.get("timeout") or 60)
        if block.lang in ("sh", "bash", "shell"):
            self.install()
            cwd = self.workdir(block)
            # A block that speaks of the tree stands in it.
            if re.search(r"\./dev\b|\b(tests|examples|config)/", block.text) \
                    and "git clone" not in block.text:
                subprocess.run([str(self.tmp / "populate"), str(cwd)], check=True)
            problem = self.command(["bash", "-eu", "-c", block.text], cwd, expect, timeout)
        elif block.lang == "c":
            problem = self.run_c(block, expect, timeout)
        elif block.lang in ("libconfig", "conf"):
            text = block.text
            if options.get("fragment") == "backends":
                text = f"backends: {{\n{text}\n}};\n"
            if "fragment" in options and not re.search(r"^\s*use\s*=", text, re.M):
                text = 'use = "memory:";\n' + text
            cwd = self.workdir(block)
            path = cwd / (options.get("file") or "page.conf")
            path.write_text(text)
            path.chmod(0o600)
            problem = self.command([str(BELAY), "--config", str(path), "config", "check"], cwd,
                                   expect, timeout)
        else:
            where = "nothing" if not block.lang else f"'{block.lang}'"
            problem = f"the fence says {where}; say sh, c, libconfig, or one of {sorted(INERT)}"
        if options.get("file"):
            self.files[options["file"]] = block.text
        return problem

    def run_c(self, block, expect, timeout):
        self.install()
        cwd = self.workdir(block)
        modules = ["belay"]
        if "belay/testing.h" in block.text:
            modules.insert(0, "belay-testing")
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", *modules], env=self.env,
                               capture_output=True, text=True, check=False)
        if flags.returncode:
            return flags.stderr
        strict = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused", "-pthread"]
        whole = re.search(r"\bint\s+main\s*\(", block.text) and "fragment" not in block.options
        source = cwd / (block.options.get("file") or "page.c")
        if whole:
            source.write_text(block.text)
            problem = self.command([CC, *strict, str(source), "-o", str(cwd / "page"),
                                    *flags.stdout.split()], cwd, 0, timeout)
            if problem or "file" in block.options:
                return problem
            return self.command([str(cwd / "page")], cwd, expect, timeout)
        body = (f"{C_PRELUDE}{C_GIVEN}int page_fragment(void);\nint page_fragment(void)\n{{\n    {{\n"
                f'#line {block.line + 1} "page"\n{block.text}\n    }}\n    return 0;\n}}\n')
        page = f'{C_PRELUDE}#line {block.line + 1} "page"\n{block.text}\n'
        first = None
        for text in (body, page):
            source.write_text(text)
            problem = self.command([CC, *strict, "-fsyntax-only", str(source),
                                    *flags.stdout.split()], cwd, 0, timeout)
            if problem is None:
                return None
            first = first or problem
        return f"compiles neither as a function's body:\n{first}\nnor as a file:\n{problem}"


def broken_links(text, page):
    prose = re.sub(r"^(\s*)(`{3,}|~{3,}).*?^\s*\2\s*$", "", text, flags=re.S | re.M)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    for target in re.findall(r"\]\(\s*<?([^)>\s]+)", prose):
        if re.match(r"^[a-z][a-z0-9+.-]*:|^#", target):
            continue
        path = page.parent / target.split("#")[0]
        if not path.exists():
            yield target


def run_page(page, quiet=False):
    """The number of blocks that failed."""
    def say(text):
        if not quiet:
            print(text, flush=True)
    text = page.read_text(encoding="utf-8")
    try:
        name = str(page.relative_to(SRC))
    except ValueError:
        name = page.name
    ran = skipped = inert = failed = 0
    runner = Runner(page.parent)
    try:
        for block in parse(text):
            where = f"{name}:{block.line}: {block.lang}"
            if "skip" in block.options:
                skipped += 1
                say(f"{where}: not run: {block.options['skip']}")
            elif block.lang in INERT:
                inert += 1
            else:
                problem = runner.run(block)
                ran += 1
                if problem:
                    failed += 1
                    say(f"{where}: FAILED: {problem}")
                else:
                    say(f"{where}: ok")
    except PageError as error:
        failed += 1
        say(f"{name}:{error}")
    finally:
        runner.close()
    for target in broken_links(text, page):
        failed += 1
        say(f"{name}: a link to {target} leads nowhere")
    say(f"{name}: {ran} blocks run, {failed} failed, {skipped} skipped with a reason, {inert} not code")
    return failed


def self_check():
    """A page of each fault must fail, and a good one pass."""
    good = [
        "```sh\ntrue\n```\n",
        "<!-- doctest: expect-exit=3 -->\n```sh\nexit 3\n```\n",
        "<!-- doctest: file=a.txt -->\n```sh\ntrue\n```\n\n```sh\ntest -f a.txt\n```\n",
        "```sh\ngit clone https://example.org/belay.git\ncd belay\n./dev\n./dev test\n```\n",
        "```c\n#include <belay/belay.h>\nint main(void) { return belay_version() == 0; }\n```\n",
        "```c\nbelay_lock *other = lock;\n```\n",
        "```c\nstatic int f(void)\n{\n    return 1;\n}\n```\n",
        "1. a list\n\n   ```sh\n   true\n   ```\n",
        "<!-- doctest: skip needs a second machine -->\n```sh\nfalse\n```\n",
        "```text\nanything\n```\n",
    ]
    bad = [
        "```sh\nfalse\ntrue\n```\n",
        "```sh\necho $unset\n```\n",
        "<!-- doctest: expect-exit=3 -->\n```sh\ntrue\n```\n",
        "<!-- doctest: skip -->\n```sh\ntrue\n```\n",
        "<!-- doctest: bogus -->\n```sh\ntrue\n```\n",
        "<!-- doctest: timeout=0.2 -->\n```sh\nexec sleep 30\n```\n",
        "```sh\n./dev no-such-command\n```\n",
        "```c\n#include <belay/belay.h>\nint main(void) { return 1; }\n```\n",
        "```c\n#include <belay/belay.h>\nint main(void) { return no_such_function(); }\n```\n",
        "```c\nno such thing;\n```\n",
        "```libconfig\nno_such_setting = 1;\n```\n",
        "```\nwhat am I\n```\n",
        "```console\n$ true\n```\n",
        "```sh\ntrue\n",
        "see [this](no-such-file.md)\n",
    ]
    wrong = 0
    with tempfile.TemporaryDirectory() as tmp:
        page = Path(tmp) / "page.md"
        for text, want_failure in [(t, False) for t in good] + [(t, True) for t in bad]:
            page.write_text(text)
            if bool(run_page(page, quiet=True)) != want_failure:
                wrong += 1
                print(f"self-check: should have {'failed' if want_failure else 'passed'}:\n{text}")
                run_page(page)
    print(f"self-check: {len(good)} good pages, {len(bad)} bad ones, {wrong} misjudged")
    return wrong


def main():
    if sys.argv[1:] == ["--self-check"]:
        return 1 if self_check() else 0
    if len(sys.argv) < 2:
        print(__doc__)
        return 64
    failed = 0
    for page in sys.argv[1:]:
        failed += run_page(SRC / page)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
