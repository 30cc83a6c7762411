#!/usr/bin/env bash
# What must not be in the repository: compiled files, big files, paths of somebody's machine, the
# names of package mirrors; scripts without their run bit.
set -euo pipefail
src=${BELAY_SRC:-$(cd "$(dirname "$0")/../.." && pwd)}

# inspect DIR: the git repository in DIR
inspect() {
    local bad=0 file size
    cd "$1"
    while IFS= read -r -d '' file; do
        [ -f "$file" ] && [ ! -L "$file" ] || continue
        size=$(stat -c %s "$file")
        if [ "$size" -gt 524288 ]; then
            echo "$file: $size bytes"
            bad=1
        fi
        case $(head -c 4 "$file" | od -An -tx1 | tr -d ' \n') in
        7f454c46* | 213c6172* | cafebabe | 0061736d)
            echo "$file: a compiled binary"
            bad=1
            continue ;;
        esac
        if [ "$size" -gt 0 ] && ! grep -qI . "$file"; then
            case $file in
            *.png | tests/*/corpus/*) ;;
            *)
                echo "$file: not text"
                bad=1 ;;
            esac
            continue
        fi
        # This file names the patterns that it looks for.
        [ "$file" = tests/house/files.sh ] && continue
        if grep -nHE '(^|[^A-Za-z0-9_./])(/work/|/root/|/home/[a-z]+/|/Users/|[A-Z]:\\)' "$file"; then
            echo "$file: a path of somebody's machine"
            bad=1
        fi
        if grep -nHiE '(deb|security|ftp)[a-z0-9.-]*\.debian\.org|registry\.npmjs|pypi\.org|artifact[-]?registry|pkg\.dev|artifactory|proxy\.golang|mirror\.[a-z0-9-]+\.[a-z]+' "$file"; then
            echo "$file: a package registry's host"
            bad=1
        fi
    done < <(git ls-files -z)
    # A script that starts with #! at the top or in .ci is meant to be run.
    for file in dev .ci/run; do
        if git ls-files --error-unmatch "$file" >/dev/null 2>&1; then
            [ "$(git ls-files -s "$file" | cut -c1-6)" = 100755 ] || { echo "$file: no run bit"; bad=1; }
        fi
    done
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
