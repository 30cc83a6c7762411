# `belay watch`: what happens, a line each, until a signal.
. "$(dirname "$0")/common.sh"

# watch [OPTION...]: $watcher writes to the file `seen`; returns when it has said its first line.
watch() {
    : >seen
    # What bash puts into the background ignores SIGINT otherwise.
    env --default-signal=INT "${B[@]}" watch --every 100ms "$@" >seen 2>seen.err &
    watcher=$!
    until_true "it is there" exists seen
}
saw() { until_true "it says '$1'" grep -q -e "$1" seen; }
kinds() { cut -d ' ' -f 2 seen | tr '\n' ' '; }

t_the_first_line_says_whether_locks_can_be_taken() {
    watch
    grep -Eq '^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\.[0-9]{3}Z ready: sqlite://.*/locks.db.*; scope host$' seen ||
        fail "$(cat seen)"
    kill -INT $watcher
    ended $watcher
    [ $ended = 0 ] || fail "status $ended"
    [ "$(wc -l <seen)" = 1 ] || fail "$(cat seen)"
    [ ! -s seen.err ] || fail "$(cat seen.err)"
    status 0 belay list
    out_is ''
}

t_sigterm_ends_it_as_well_and_another_signal_as_always() {
    watch
    kill -TERM $watcher
    ended $watcher
    [ $ended = 0 ] || fail "status $ended"
    watch
    kill -HUP $watcher
    { ended $watcher; } 2>/dev/null
    [ $ended = 129 ] || fail "status $ended"
}

t_an_outage_is_seen_without_a_fallback_too() {
    watch
    block_file
    saw ' not-ready: .*locks.db'
    unblock_file
    saw ' ready: .*; scope host; after [1-9]' # what failed had waited for a second
    [ "$(kinds)" = 'ready: not-ready: ready: ' ] || fail "$(cat seen)"
}

t_it_begins_with_an_outage() {
    fallback 'policy = "closed";'
    watch
    saw ' degraded ha: redis .*redis.sock'
    saw ' not-ready: ha: .*redis.sock'
    server
    saw ' recovered ha: main is back after .*; scope fleet$'
    saw ' ready: .*ha.conf: ha (fallback); scope fleet'
}

t_a_fallbacks_events_come_in_order() {
    server
    fallback
    watch
    stop_server
    saw ' degraded ha: redis .*redis.sock: .*; scope host$'
    server
    saw ' recovered ha: '
    [ "$(kinds)" = 'ready: degraded recovered ' ] || fail "$(cat seen)"
}

# Of two that are degraded the first says so to the host: here that is the one that runs a command.
t_other_processes_of_this_host_are_heard_of() {
    fallback
    "${B[@]}" run x -- sh -c 'echo yes >runs; while [ ! -e stop ]; do sleep 0.02; done' 2>/dev/null &
    other=$!
    until_true "it runs" exists runs
    watch
    saw " other-degraded ha: process $other: redis .*redis.sock: "
    touch stop
    ended $other
    saw ' other-recovered ha: no other process of this host says that it is degraded$'
}

t_json_has_every_member_in_every_line() {
    fallback
    watch --json
    saw '"kind": "ready"'
    server
    saw '"kind": "recovered"'
    kill $watcher
    ended $watcher
    python3 - <<'PY' || fail "$(cat seen)"
import json
lines = [json.loads(line) for line in open("seen")]
assert all(list(l) == ["time", "kind", "name", "scope", "text", "since_ms", "pid"] for l in lines)
kinds = {l["kind"]: l for l in lines}
assert list(kinds) == ["degraded", "ready", "recovered"], kinds
assert kinds["degraded"]["name"] == "ha" and kinds["degraded"]["scope"] == "host"
assert kinds["ready"]["name"] is None and kinds["ready"]["since_ms"] is None
assert kinds["recovered"]["scope"] == "fleet" and kinds["recovered"]["since_ms"] >= 0
PY
}

t_a_reader_that_went_away_ends_it() {
    { "${B[@]}" watch 2>watch.err; echo $? >status; } | head -n 1 >/dev/null
    grep -qx 141 status || fail "status $(cat status)"
    [ ! -s watch.err ] || fail "$(cat watch.err)"
}

t_a_full_disk_is_said() {
    "${B[@]}" watch >/dev/full 2>err &
    ended $!
    [ $ended = 70 ] || fail "status $ended"
    err_has 'standard output: No space left'
}

t_wrong_usage_is_64() {
    status 64 belay watch --every 10ms
    status 64 belay watch --every 10
    status 64 belay watch x
    status 64 belay status --every 1s
}

run_tests "$@"
