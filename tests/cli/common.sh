# common.sh - sourced by the tests of the command line. A test is a function t_PROMISE; it runs in a
# folder and a shell of its own and calls `fail` when the promise is not kept. Waiting is always for
# a condition, with a deadline; no sleep decides.

set -u
: "${BELAY_BIN:?is the path of belay}"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
patience=20 # seconds a condition may take

fail() {
    printf 'not ok %s - %s\n' "${test_name#t_}" "$*"
    exit 1
}

# belay ARGS: the lock file is the test's own. Where the process itself matters: "${B[@]}" ARGS &
belay() { "${B[@]}" "$@"; }

# status N CMD...: runs it; its exit status must be N. Its output is in $dir/out and $dir/err.
status() {
    local want=$1 got=0
    shift
    "$@" >"$dir/out" 2>"$dir/err" || got=$?
    [ $got = "$want" ] || fail "status $got, not $want: $* ($(cat "$dir/err"))"
}
out_has() { grep -q -e "$1" "$dir/out" || fail "no '$1' on stdout: $(cat "$dir/out")"; }
err_has() { grep -q -e "$1" "$dir/err" || fail "no '$1' on stderr: $(cat "$dir/err")"; }
out_is() { [ "$(cat "$dir/out")" = "$1" ] || fail "stdout is '$(cat "$dir/out")', not '$1'"; }
err_is() { [ "$(cat "$dir/err")" = "$1" ] || fail "stderr is '$(cat "$dir/err")', not '$1'"; }

# until_true WHAT CMD...: waits for it.
until_true() {
    local what=$1 end=$((SECONDS + patience))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "never: $what"
        sleep 0.01
    done
}
exists() { [ -s "$1" ]; }
gone() { ! kill -0 "$1"; }
state_is() { [ "$(awk '/^State:/ { print $2 }' "/proc/$1/status")" = "$2" ]; }
held() { belay status "$1" 2>&1 | grep -q ': held by'; }
free() { belay status "$1" 2>&1 | grep -q ': free$'; }

# ended PID: waits for a job of ours; its status is in $ended.
ended() {
    ended=0
    wait "$1" || ended=$?
}

# json FILE EXPRESSION: prints a Python expression about the document `d`.
json() { python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval("(" + sys.argv[2] + ")"))' "$@"; }

# The file is locked for all others until the process ($blocker) is killed; nothing can be extended.
block_file() {
    rm -f "$dir/blocked"
    python3 - "$dir/locks.db" "$dir/blocked" <<'PY' &
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
open(sys.argv[2], "w").write("yes")
time.sleep(60)
PY
    blocker=$!
    until_true "the file is blocked" exists "$dir/blocked"
}
unblock_file() {
    kill "$blocker"
    wait "$blocker" 2>/dev/null || true
}

# server [LINE OF CONFIG]...: starts one on a unix socket in the test's folder; $redis is its process.
server() {
    printf '%s\n' "port 0" "unixsocket $dir/redis.sock" "dir $dir" 'save ""' 'logfile redis.log' "$@" >redis.conf
    setpriv --pdeathsig KILL redis-server redis.conf &
    redis=$!
    until_true "the server answers" answers
}
answers() { redis-cli -s "$dir/redis.sock" ping | grep -q 'PONG\|NOAUTH'; }

# fallback [SETTINGS]: B uses Redis while it is there and this host otherwise. The times are short ones.
fallback() {
    cat >ha.conf <<CONF
use = "ha";
backends: {
  main: { type = "redis"; path = "$dir/redis.sock"; timeout = "200ms"; };
  local: { type = "sqlite"; path = "$dir/locks.db"; };
  ha: { type = "fallback"; primary = "main"; secondary = "local"; probe_every = "100ms"; probe_most = "200ms"; ${1:-} };
};
CONF
    B=("$BELAY_BIN" --config ha.conf)
}
stop_server() {
    kill -KILL "$redis"
    wait "$redis" 2>/dev/null
}

run_one() {
    test_name=$1
    dir=$(mktemp -d "${TMPDIR:-/tmp}/belay-cli-XXXXXX")
    # shellcheck disable=SC2034
    B=("$BELAY_BIN" --config "sqlite://$dir/locks.db")
    (
        export HOME=$dir
        unset BELAY_CONFIG BELAY_LOCK BELAY_TOKEN BELAY_SCOPE BELAY_DEGRADED
        cd "$dir" || exit 1
        trap 'exec 2>/dev/null; jobs -p | xargs -r kill -9; wait' EXIT
        "$test_name"
        printf 'ok %s\n' "${test_name#t_}"
    ) </dev/null || failures=$((failures + 1))
    rm -rf "$dir"
}

# run_tests [NAME...]: at the end of each file.
run_tests() {
    local name
    failures=0
    if [ $# -gt 0 ]; then
        for name in "$@"; do run_one "t_$name"; done
    else
        for name in $(compgen -A function t_); do run_one "$name"; done
    fi
    [ $failures = 0 ] || exit 1
    exit 0
}
