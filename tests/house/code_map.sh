#!/usr/bin/env bash
# docs/code-map.md has every C file of the tree, and nothing that is not there.
set -euo pipefail
src=${BELAY_SRC:-$(cd "$(dirname "$0")/../.." && pwd)}

# listed PAGE: the files and patterns of its text block, one a line, as paths.
listed() {
    awk '/^```/ { inside = !inside; next }
         !inside || NF == 0 { next }
         /^[^ ]/ { room = $1; next }
         { print room $1
           if ($2 ~ /^\.[a-z]+$/) { name = $1; sub(/\.[^.]*$/, "", name); print room name $2 } }' "$1"
}

# judge PAGE FILES: says what is wrong, or nothing.
judge() {
    local page=$1 files=$2 entry
    local -a entries
    mapfile -t entries < <(listed "$page")
    [ "${#entries[@]}" -gt 0 ] || echo "the page lists nothing"
    for entry in "${entries[@]}"; do
        # shellcheck disable=SC2053
        while IFS= read -r file; do [[ $file == $entry ]] && continue 2; done <"$files"
        echo "listed, and not there: $entry"
    done
    while IFS= read -r file; do
        # shellcheck disable=SC2053
        for entry in "${entries[@]}"; do [[ $file == $entry ]] && continue 2; done
        echo "there, and not listed: $file"
    done <"$files"
}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$src"
{ git ls-files -- '*.c' '*.h' 2>/dev/null || find . -name '*.[ch]' -not -path './build/*' | cut -c3-; } |
    while IFS= read -r file; do if [ -f "$file" ]; then echo "$file"; fi; done >"$tmp/files"
[ -s "$tmp/files" ] || { echo "no C files found"; exit 1; }

# A page that lacks a file, and one that has one too many, must be found out.
printf '```text\na/\n  x.c .h   both\n  y*   some\n```\n' >"$tmp/page"
printf 'a/x.c\na/x.h\na/y1.c\n' >"$tmp/good"
printf 'a/x.c\na/x.h\na/y1.c\na/z.c\n' >"$tmp/more"
printf 'a/x.c\na/y1.c\n' >"$tmp/less"
[ -z "$(judge "$tmp/page" "$tmp/good")" ] || { echo "self-check: a good page was refused"; exit 1; }
[ -n "$(judge "$tmp/page" "$tmp/more")" ] || { echo "self-check: a missing line was not found"; exit 1; }
[ -n "$(judge "$tmp/page" "$tmp/less")" ] || { echo "self-check: a line too many was not found"; exit 1; }

wrong=$(judge docs/code-map.md "$tmp/files")
if [ -n "$wrong" ]; then
    echo "docs/code-map.md:"
    echo "$wrong"
    exit 1
fi
echo "docs/code-map.md has all $(wc -l <"$tmp/files") files"
