#!/usr/bin/env bash
# What must not be in the repository: compiled files, big files, paths of somebody's machine, the
# names of package mirrors; scripts without their run bit.
set -euo pipefail
src=${BELAY_SRC:-$(cd "$(dirname "$0")/../.." && pwd)}

# complain TEXT: every line on stdin is a fault; true if there was none
complain() {
    local line bad=0
    while IFS= read -r line; do
        printf '%s: %s\n' "$line" "$1"
        bad=1
    done
    return $bad
}

# inspect DIR: the git repository in DIR
inspect() {
    local bad=0 empty_tree others=(-- ':!tests/house/files.sh')   # that one names the patterns
    cd "$1"
    empty_tree=$(git hash-object -t tree /dev/null)
    { git ls-files -z | xargs -0 -r stat -c '%s %n' 2>/dev/null || true; } | awk '$1 > 524288 { print $2 }' |
        complain "bigger than half a megabyte" || bad=1
    # git's own word on what is not text: "-" instead of a number of lines.
    git diff --cached --numstat "$empty_tree" | awk -F '\t' '$1 == "-" { print $3 }' |
        { grep -vE '\.png$|^tests/.*corpus/' || true; } | complain "not text" || bad=1
    { git grep -nIE '(^|[^A-Za-z0-9_./])(/work/|/root/|/home/[a-z]+/|/Users/|[A-Z]:\\)' \
        "${others[@]}" || true; } | complain "a path of somebody's machine" || bad=1
    { git grep -niIE '(deb|security|ftp)[a-z0-9.-]*\.debian\.org|registry\.npmjs|pypi\.org|artifact[-]?registry|pkg\.dev|artifactory|proxy\.golang|mirror\.[a-z0-9-]+\.[a-z]+' \
        "${others[@]}" || true; } | complain "a package registry's host" || bad=1
    git ls-files -s -- dev .ci/run | awk '$1 != "100755" { print $4 }' | complain "no run bit" || bad=1
    return $bad
}

git -C "$src" rev-parse --git-dir >/dev/null 2>&1 || { echo "not a git checkout"; exit 77; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
must_find() {   # must_find WHAT: the repository in $tmp/repo is bad
    git -C "$tmp/repo" add -A
    if (inspect "$tmp/repo") >/dev/null; then
        echo "self-check: $1 was not found"
        exit 1
    fi
    rm -rf "$tmp/repo"
    fresh
}
fresh() {
    git init -q "$tmp/repo"
    echo 'text with https://example.org/ and ~/.config and /run/lock' >"$tmp/repo/a.txt"
    printf '#!/bin/sh\n' >"$tmp/repo/dev"
    chmod +x "$tmp/repo/dev"
    git -C "$tmp/repo" add -A
}
fresh
(inspect "$tmp/repo") || { echo "self-check: a clean repository was refused"; exit 1; }
cp "$(type -P true)" "$tmp/repo/tool"; must_find "a binary"
echo 'cd /root/belay' >"$tmp/repo/b.txt"; must_find "a machine's path"
echo 'https://deb.debian.org/debian' >"$tmp/repo/c.txt"; must_find "a registry's host"
chmod -x "$tmp/repo/dev"; must_find "a lost run bit"
head -c 600000 /dev/zero | tr '\0' 'x' >"$tmp/repo/d.txt"; must_find "a big file"

inspect "$src"
echo "nothing strange among $(git -C "$src" ls-files | wc -l) files"
