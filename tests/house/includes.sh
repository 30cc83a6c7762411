#!/usr/bin/env bash
# Who may include whom, and who may ask the world: DESIGN's rules, read from the sources.
# Before it judges the tree it judges two made-up ones: a clean one must pass, and each single
# violation must be found, so that a rule that can't fail is noticed here.
set -euo pipefail
src=${BELAY_SRC:-$(cd "$(dirname "$0")/../.." && pwd)}

# includes DIR...: "file:line:header" of every include in the .c and .h files below.
includes() {
    local dirs=() d
    for d in "$@"; do [ ! -e "$d" ] || dirs+=("$d"); done
    [ ${#dirs[@]} -gt 0 ] || return 0
    grep -rnoE --include='*.c' --include='*.h' \
        '^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"][^">]+[">]' "${dirs[@]}" |
        sed -E 's/^([^:]+:[0-9]+):[^<"]*([<"])/\1:\2/' || true
}

# Comments and string literals blanked, line numbers kept: what is left is code.
code_of() {
    python3 - "$1" <<'PY'
import re, sys
text = open(sys.argv[1], encoding="utf-8", errors="replace").read()
def blank(m):
    return re.sub(r"[^\n]", " ", m.group(0))
pattern = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
print(re.sub(pattern, blank, text, flags=re.S))
PY
}

broken=0
rule() {   # rule TEXT: every line on stdin breaks it
    local line text=$1
    while IFS= read -r line; do
        printf '  %s  -- %s\n' "$line" "$text"
        broken=$((broken + 1))
    done
}

# Headers of ours, as they may be spelled: <belay/...>, core/, backends/, tools/, tests/ ... or a
# quoted name. Everything else in <...> is the system's or another library's.
judge() {   # judge TREE: prints what is broken; fails if anything is
    broken=0
    cd "$1"
    local all=(include core backends tools tests bench examples)

    # Programs see belay.h alone; a quoted include may only reach a file of their own directory.
    local room
    for room in tools bench examples; do
        rule "$room may include <belay/belay.h> of ours and nothing else" < <(
            includes $room | awk -v room=$room -F: '
                $3 ~ /^<belay\// && $3 != "<belay/belay.h>" {
                    # a third-party backend is written against backend.h and tested with testing.h
                    if (room == "examples" && $1 ~ /_backend\.[ch]$/ &&
                        ($3 == "<belay/backend.h>" || $3 == "<belay/testing.h>")) next
                    print; next }
                $3 ~ /^<(core|backends|tests|include)\// { print; next }
                $3 ~ /^"/ && $3 ~ /\// && $3 !~ ("^\"" room "/") { print }')
    done
    rule "backends include <belay/backend.h>, backends/ and nothing else of ours" < <(
        includes backends | awk -F: '
            $3 ~ /^<belay\// && $3 != "<belay/backend.h>" { print; next }
            $3 ~ /^[<"](\.\.\/)*(core|tools|tests|bench|examples|include)\// { print }')
    rule "a file beside backends/resp/ includes of backends/ only backends/resp/" < <(
        includes backends | awk -F: '
            $1 !~ /^backends\/resp\// && $3 ~ /^"/ && $3 !~ /^"(backends\/)?resp\// {
                # a backend split in several files shares a private header of its own name
                name = $1; sub(/^backends\//, "", name); sub(/[_.].*$/, "", name)
                h = $3; gsub(/"/, "", h); sub(/^backends\//, "", h); sub(/[_.].*$/, "", h)
                if (name != h) print }')
    rule "core includes include/ and itself, never backends/" < <(
        includes core | awk -F: '
            $3 ~ /^[<"](\.\.\/)*(backends|tools|tests|bench|examples)\// ||
            $3 == "<belay/testing.h>" { print }')
    rule "a public header includes public headers and the system's" < <(
        includes include | awk -F: '
            $3 ~ /^"/ || $3 ~ /^<(core|backends|tests|tools)\// ||
            $3 ~ /^<(hiredis|sqlite3|libconfig|openssl|cmocka)/ { print }')

    # Each library has its room. (Tests and benches may use them: as peers, and as the floor.)
    local ours=(include core backends tools examples)
    rule "hiredis belongs to backends/resp/" < <(includes "${ours[@]}" | awk -F: '
        $3 ~ /hiredis/ && $1 !~ /^backends\/resp\// { print }')
    rule "sqlite3 belongs to backends/sqlite*.c" < <(includes "${ours[@]}" | awk -F: '
        $3 ~ /sqlite3/ && $1 !~ /^backends\/sqlite[a-z_]*\.[ch]$/ { print }')
    rule "libconfig belongs to core/config*.c" < <(includes "${ours[@]}" | awk -F: '
        $3 ~ /libconfig/ && $1 !~ /^core\/config[a-z_]*\.[ch]$/ { print }')
    rule "OpenSSL belongs to backends/resp/tls*.c" < <(includes "${ours[@]}" | awk -F: '
        $3 ~ /openssl\// && $1 !~ /^backends\/resp\/tls[a-z_]*\.[ch]$/ { print }')
    rule "cmocka belongs to tests/" < <(includes "${ours[@]}" bench | awk -F: '$3 ~ /cmocka/ { print }')

    # A backend's time, chance and waiting come from its env.
    local file forbidden
    forbidden='clock_gettime|clock_nanosleep|gettimeofday|timespec_get|time|getrandom|getentropy'
    forbidden+='|arc4random|rand|rand_r|random|drand48|sleep|usleep|nanosleep|poll|ppoll|select'
    forbidden+='|pselect|epoll_wait|epoll_pwait|pthread_create|sqlite3_sleep|sqlite3_busy_timeout'
    if [ -d backends ]; then
        while IFS= read -r file; do
            rule "backends ask belay_env for time, chance and waiting" < <(
                code_of "$file" | grep -nE "(^|[^A-Za-z0-9_.>])($forbidden)[[:space:]]*\(" |
                    sed "s|^|$file:|" || true)
        done < <(find backends -name '*.[ch]' | sort)
    fi
    [ "$broken" -eq 0 ]
}

# --- the check of the check --------------------------------------------------------------------
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

clean_tree() {
    rm -rf "$tmp/tree"
    mkdir -p "$tmp"/tree/{include/belay,core,backends/resp,tools,bench,examples,tests/unit}
    cd "$tmp/tree"
    echo '#include <stdint.h>' >include/belay/belay.h
    echo '#include <belay/belay.h>' >include/belay/backend.h
    printf '#include <libconfig.h>\n#include "core/loop.h"\n' >core/config.c
    printf '#include "loop.h"\n#include <belay/backend.h>\n#include <time.h>\n' >core/loop.c
    : >core/loop.h
    printf '/* never time() here */ #include <belay/backend.h>\nint settle_time(int); int a = 1;\n' \
        >backends/memory.c
    printf '#include <belay/backend.h>\n#include <sqlite3.h>\nconst char *q = "time(x)";\n' \
        >backends/sqlite.c
    printf '#include <belay/backend.h>\n#include "backends/resp/link.h"\n' >backends/redis.c
    printf '#include <hiredis/hiredis.h>\n#include "link.h"\n' >backends/resp/link.c
    : >backends/resp/link.h
    echo '#include <openssl/ssl.h>' >backends/resp/tls.c
    printf '#include <belay/belay.h>\n#include "tool.h"\n' >tools/main.c
    printf '#include <belay/belay.h>\n#include <sqlite3.h>\n' >bench/sqlite.c
    printf '#include <belay/backend.h>\n#include <belay/testing.h>\n' >examples/toy_backend.c
    printf '#include "core/loop.h"\n#include <cmocka.h>\n' >tests/unit/loop_test.c
}

clean_tree
(judge "$tmp/tree") || { echo "self-check: a clean tree was refused"; exit 1; }

checked=0
must_find() {   # must_find FILE LINE: this line in that file breaks a rule
    clean_tree
    printf '%s\n' "$2" >>"$tmp/tree/$1"
    if (judge "$tmp/tree") >/dev/null; then
        echo "self-check: '$2' in $1 was not found"
        exit 1
    fi
    checked=$((checked + 1))
}
must_find tools/main.c '#include <belay/backend.h>'
must_find tools/main.c '#include "core/loop.h"'
must_find tools/main.c '#  include "../core/loop.h"'
must_find tools/main.c '#include <sqlite3.h>'
must_find bench/sqlite.c '#include "core/clock.h"'
must_find examples/hello.c '#include <belay/backend.h>'
must_find core/loop.c '#include "backends/memory.h"'
must_find core/loop.c '#include "../backends/resp/link.h"'
must_find core/loop.c '#include <libconfig.h>'
must_find core/loop.c '#include <sqlite3.h>'
must_find core/loop.c '#include <belay/testing.h>'
must_find core/loop.c '#include <hiredis/hiredis.h>'
must_find backends/memory.c '#include "core/loop.h"'
must_find backends/memory.c '#include <belay/belay.h>'
must_find backends/memory.c '#include "sqlite.h"'
must_find backends/redis.c '#include <hiredis/hiredis.h>'
must_find backends/resp/link.c '#include <openssl/ssl.h>'
must_find backends/fault.c '#include <libconfig.h>'
must_find include/belay/belay.h '#include "core/loop.h"'
must_find include/belay/belay.h '#include <sqlite3.h>'
must_find core/loop.c '#include <cmocka.h>'
for call in clock_gettime getrandom time usleep nanosleep sleep poll rand random; do
    must_find backends/memory.c "int x(void) { return $call(0); }"
done

# --- the tree ----------------------------------------------------------------------------------
echo "self-check: $checked violations found"
judge "$src" || { echo "the include rules are broken"; exit 1; }
echo "the include rules hold"
