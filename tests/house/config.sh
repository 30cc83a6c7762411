#!/usr/bin/env bash
# Every annotated file of config/ passes `belay config check`; a broken copy of it does not.
set -euo pipefail
src=${BELAY_SRC:?} belay=${BELAY_BIN:?}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export HOME=$tmp
failed=0 checked=0

for file in "$src"/config/*.conf; do
    [ -f "$file" ] || { echo "config/ has no .conf file"; exit 1; }
    name=${file##*/}
    # Copied, so that owner and mode are those a user would give it.
    install -m 600 "$file" "$tmp/$name"
    if ! "$belay" --config "$tmp/$name" config check; then
        echo "refused: config/$name"
        failed=1
    fi
    { cat "$file"; echo 'no_such_setting_anywhere = true;'; } >"$tmp/broken.conf"
    rc=0
    "$belay" --config "$tmp/broken.conf" config check >/dev/null 2>"$tmp/err" || rc=$?
    if [ $rc -ne 78 ] || ! grep -q no_such_setting_anywhere "$tmp/err"; then
        echo "config/$name with an unknown key: exit $rc (not 78), and said: $(cat "$tmp/err")"
        failed=1
    fi
    # What is commented out must be keys that there are: each alone, uncommented.
    while IFS=: read -r line _; do
        sed "${line}s/# //" "$file" >"$tmp/one.conf"
        "$belay" --config "$tmp/one.conf" config check >"$tmp/said" 2>&1 || true
        if grep -E 'no key|syntax' "$tmp/said"; then
            echo "config/$name:$line, uncommented"
            failed=1
        fi
    done < <(grep -nE '^ *# [a-z_]+ = .*;' "$file")
    checked=$((checked + 1))
done
echo "$checked files checked"
exit $failed
