#!/usr/bin/env bash
# The shared library exports belay_<letter>... and nothing else, everything the headers promise, and
# carries the soname that says so.
set -euo pipefail
lib=${BELAY_BUILD:?}/lib/libbelay.so
failed=0

names=$(nm -D --defined-only "$lib" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u)
[ -n "$names" ] || { echo "$lib exports nothing"; exit 1; }
if strange=$(grep -vE '^belay_[a-z]' <<<"$names"); then
    printf 'exported, but not belay_<letter>:\n%s\n' "$strange"
    failed=1
fi

# Every function that a public header declares with BELAY_API must be there to link with.
# testing.h describes belay-testing, a library of its own.
promised=$(cat "$BELAY_SRC"/include/belay/belay.h "$BELAY_SRC"/include/belay/backend.h |
    "${CC:-cc}" -E -P -fpreprocessed -w -x c - | tr '\n' ' ' | tr ';{}' '\n\n\n' |
    grep -E '(^|[^A-Za-z_])BELAY_API([^A-Za-z_]|$)' | grep -vE '# *define' |
    grep -oE '[^A-Za-z0-9_]belay_[a-z][a-z0-9_]*[[:space:]]*\(' | grep -oE 'belay_[a-z0-9_]+' |
    sort -u || true)
[ -n "$promised" ] || { echo "no BELAY_API declaration was found in the headers"; failed=1; }
if lacking=$(comm -13 <(printf '%s\n' "$names") <(printf '%s\n' "$promised") | grep .); then
    printf 'declared with BELAY_API, but not exported:\n%s\n' "$lacking"
    failed=1
fi
if extra=$(comm -23 <(printf '%s\n' "$names") <(printf '%s\n' "$promised") | grep .); then
    printf 'exported, but not declared with BELAY_API in a public header:\n%s\n' "$extra"
    failed=1
fi

soname=$(readelf -d "$lib" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
[ "$soname" = libbelay.so.0 ] || { echo "soname is $soname, not libbelay.so.0"; failed=1; }

# No writable, executable or relocatable surprise.
if readelf -dW "$lib" | grep -q TEXTREL; then
    echo "text relocations"
    failed=1
fi
echo "$(wc -l <<<"$names") exported, $(wc -l <<<"$promised") declared, soname $soname"
exit $failed
