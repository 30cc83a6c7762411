#!/usr/bin/env bash
# The model of the fallback's protocol (fallback.pml), searched by spin, whole: what it claims
# holds, and each way of getting it wrong is found out.
#
#   run.sh safety      nothing bad ever happens
#   run.sh liveness    something good happens in the end, once the faults have ceased
#   run.sh             both
#   run.sh -k DIR ...  the same, and keeps what spin made (fallback.pml says what to do with it)
#
# Fails as well when a search was cut short, when a wrong model is not found wrong, and when a step
# of the model never happens.
set -euo pipefail
model=$(cd "$(dirname "$0")" && pwd)/fallback.pml
cc=${CC:-cc}

command -v spin >/dev/null || { echo "no spin here (Debian: apt-get install spin)"; exit 77; }
if [ "${1:-}" = -k ]; then
    dir=$2
    mkdir -p "$dir"
    shift 2
else
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
fi
failures=0

# pan_of NAME "DEFINES" FLAGS...: a checker in $dir/NAME, made of the model with these macros.
pan_of() {
    local at=$dir/$1 defines=$2
    shift 2
    rm -rf "$at"
    mkdir -p "$at"
    # shellcheck disable=SC2086
    (cd "$at" && spin -a -o3 $defines "$model" >spin.out &&
        "$cc" -w -DMEMLIM=1024 "$@" -o pan pan.c) || {
        cat "$at/spin.out"
        exit 1
    }
    printf '%s\n' "$defines" >"$at/defines"
}

# search NAME FLAGS...: pan's whole search; its words in $dir/NAME/out. Liveness needs -f: a process
# that can always take a step takes one in the end.
search() {
    local at=$dir/$1
    shift
    (cd "$at" && rm -f -- *.trail && ./pan -m3000000 -w22 "$@" >out 2>&1) || true
    ! grep -qE 'max search depth too small|out of memory|MEMLIM' "$at/out"
}

# say VERDICT NAME WHAT: one line of what a search came to.
say() {
    local out=$dir/$2/out states seconds
    states=$(sed -nE 's/^ *([0-9]+) states, stored.*/\1/p' "$out")
    seconds=$(sed -nE 's/^pan: elapsed time ([0-9.]+).*/\1/p' "$out")
    printf '%-6s  %-64s %9s states %6s s\n' "$1" "$3 $(cat "$dir/$2/defines")" "${states:-?}" \
        "${seconds:-?}"
    [ "$1" = ok ] && return 0
    failures=$((failures + 1))
    sed '/^unreached in claim/,$d' "$out"
    # The steps that lead there.
    # shellcheck disable=SC2046
    [ ! -e "$dir/$2/fallback.pml.trail" ] || (cd "$dir/$2" && spin -t -p -g -r \
        -k fallback.pml.trail $(cat defines) "$model" 2>&1 | grep -v '^ltl' | tail -n 150)
}

# claimed NAME CLAIM: that is the claim it looked at.
claimed() { grep -qE "^[[:space:]]*never claim[[:space:]]+\+ \($2\)" "$dir/$1/out"; }

whole() {
    grep -q '^Full statespace search for:' "$dir/$1/out" &&
        ! grep -q 'Search not completed' "$dir/$1/out" && grep -q ' errors: 0$' "$dir/$1/out"
}

holds() {   # holds NAME CLAIM [-f]
    local verdict=FAILED
    if search "$1" -a "${@:3}" -N "$2" && whole "$1" && claimed "$1" "$2"; then verdict=ok; fi
    say $verdict "$1" "$2 holds"
}

fails() {   # fails NAME CLAIM [-f]: spin must find it wrong
    local verdict=FAILED kind='^pan:1: assertion violated'
    [ "${3:-}" != -f ] || kind='^pan:1: acceptance cycle'
    if search "$1" -a "${@:3}" -N "$2" && grep -q ' errors: 1$' "$dir/$1/out" &&
        grep -q "$kind" "$dir/$1/out" && claimed "$1" "$2"; then verdict=ok; fi
    say $verdict "$1" "$2 must fail"
}

# never_reached NAME: parts of a process, but for the end that it has not.
never_reached() {
    awk '/^unreached in / { process = $3 == "proctype" }
         process && /, state [0-9]+, / && !/"-end-"$/' "$dir/$1/out"
}

happens() {   # happens NAME: every part of every step, somewhere
    local verdict=FAILED
    if search "$1" && whole "$1" && grep -q '^unreached in proctype' "$dir/$1/out" &&
        [ -z "$(never_reached "$1")" ]; then verdict=ok; fi
    say $verdict "$1" "every step happens"
}

safety() {
    pan_of base "" -O2
    holds base alone_in_fleet
    # What must happen somewhere, and what is not promised.
    fails base never_degraded
    fails base never_demoted
    fails base never_promoted
    fails base never_retaken
    fails base never_conflict
    fails base never_beside

    # A primary that may forget harms the fleet's exclusion, nothing else. (What holds with it holds
    # without: it need not forget.)
    pan_of forgets "-DFORGETS" -O2
    holds forgets alone_on_host
    holds forgets beaten_by_another
    fails forgets alone_in_fleet
    pan_of steps "-DFORGETS -DPIECEWISE" -O2 -DNOCLAIM -DSAFETY
    happens steps

    # Without the host's lock first, two of one host hold. The fleet's lock is not harmed.
    pan_of no_host_first "-DHOST_FIRST=0" -O2
    fails no_host_first alone_on_host
    holds no_host_first alone_in_fleet

    wrong LATE_DEMOTION alone_in_fleet
    wrong STEALING_PROMOTION alone_in_fleet
    wrong SAME_ID alone_in_fleet
    wrong LATE_OK alone_in_fleet
    wrong BLIND_DELETE alone_in_fleet
    wrong HASTY_CONFLICT beaten_by_another
}

wrong() {   # wrong WHAT CLAIM
    pan_of "wrong_$1" "-DWRONG_$1" -O0
    fails "wrong_$1" "$2"
}

liveness() {
    pan_of keeper_0 "-DLIVE -DKEEPER=0 -DFORGETS" -O2
    holds keeper_0 back_to_fleet -f
    pan_of keeper_2 "-DLIVE -DKEEPER=2 -DFORGETS" -O2
    holds keeper_2 back_to_fleet_alone -f
    pan_of no_promotion "-DLIVE -DKEEPER=0 -DWRONG_NO_PROMOTION" -O0
    fails no_promotion back_to_fleet -f

    pan_of quiet "-DLIVE -DQUIET -DFORGETS" -O2
    holds quiet nothing_left -f
    pan_of live "-DLIVE -DFORGETS" -O2
    holds live still_granted -f
    # Only the dead leave anything to the TTL: whoever lives gives everything back.
    pan_of no_ttl "-DLIVE -DQUIET -DNO_TTL" -O0
    fails no_ttl nothing_left -f
    pan_of no_death "-DLIVE -DQUIET -DNO_TTL -DNO_DEATH" -O2
    holds no_death nothing_left -f
    pan_of no_give_back "-DLIVE -DQUIET -DNO_TTL -DNO_DEATH -DWRONG_NO_GIVE_BACK" -O0
    fails no_give_back nothing_left -f
}

case ${1:-all} in
safety) safety ;;
liveness) liveness ;;
all) safety; liveness ;;
*) echo "usage: run.sh [-k DIR] [safety|liveness]"; exit 64 ;;
esac
[ $failures = 0 ] || { echo "$failures FAILED"; exit 1; }
