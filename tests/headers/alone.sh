#!/usr/bin/env bash
# alone.sh HEADER: a public header must compile by itself, strictly, as C11, C++11 and C++17, with
# every compiler at hand; included twice; and with nothing of ours but include/.
set -euo pipefail
header=$1
src=${BELAY_SRC:-$(cd "$(dirname "$0")/../.." && pwd)}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

printf '#include <belay/%s>\n#include <belay/%s>\nint main(void) { return 0; }\n' \
    "$header" "$header" >"$tmp/alone.c"
cp "$tmp/alone.c" "$tmp/alone.cc"

strict=(-Wall -Wextra -Wpedantic -Wundef -Werror -fsyntax-only "-I$src/include")
compiled=0 failed=0
try() {   # try COMPILER STANDARD FILE FLAGS...
    local cc=$1 std=$2 file=$3
    shift 3
    command -v "$cc" >/dev/null || return 0
    if "$cc" "-std=$std" "${strict[@]}" "$@" "$file"; then
        compiled=$((compiled + 1))
    else
        echo "belay/$header: refused by $cc -std=$std" >&2
        failed=$((failed + 1))
    fi
}
for cc in gcc clang; do
    try $cc c11 "$tmp/alone.c" -Wstrict-prototypes -Wmissing-prototypes
    try $cc c2x "$tmp/alone.c" -Wstrict-prototypes
done
for cxx in g++ clang++; do
    try $cxx c++11 "$tmp/alone.cc"
    try $cxx c++17 "$tmp/alone.cc"
done

# No type of a library of ours may show in a public header.
if grep -nE '#[[:space:]]*include[[:space:]]*[<"](hiredis|sqlite3|libconfig|openssl|cmocka)' \
    "$src/include/belay/$header"; then
    echo "belay/$header includes another library's header" >&2
    failed=$((failed + 1))
fi

echo "belay/$header: $compiled compilations passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$compiled" -gt 0 ]
