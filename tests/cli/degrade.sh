# Over a fallback whose primary is a real redis-server that comes and goes: what the command line says
# of it, what a command is told, and that one host excludes itself throughout.
. "$(dirname "$0")/common.sh"

keys() { redis-cli -s redis.sock --scan --pattern "${1:-*}"; }
in_redis() { keys "belay:$1" | grep -q .; }
recovered() { belay status --json >health && [ "$(json health 'd["degraded"]')" = False ]; }

# hold NAME [OPTION...]: NAME is held by $holder, until its folder has `stop.NAME`; what it finds is in out.NAME.
hold() {
    local name=$1
    shift
    "${B[@]}" run -t 2s "$@" "$name" -- sh -c '
        trap "echo told >>told.$1; exit 0" TERM
        mkdir busy.$1 || { echo "two at once" >>both.$1; exit 1; }
        echo "$BELAY_SCOPE $BELAY_DEGRADED" >out.$1
        while [ ! -e stop.$1 ]; do sleep 0.02; done
        rmdir busy.$1' sh "$name" 2>"err.$name" &
    holder=$!
    until_true "$name is held" exists "out.$name"
}
says() { grep -q -e "$2" "err.$1"; }
# What was said to have happened to NAME, in the order.
history() { sed -n "s/^belay: $1: the lock reaches \\(the fleet\\|this host\\).*/\\1/p" "err.$1" | tr '\n' ' '; }

nothing_is_left() {
    until_true "the locks are gone" no_locks
    [ "$(keys)" = fence:belay: ] || fail "in Redis: $(keys)"
}
no_locks() { [ -z "$(belay list)" ] && [ "$(keys)" = fence:belay: ]; }

t_with_all_well_a_lock_is_the_fleets() {
    server
    fallback
    hold x
    [ "$(cat out.x)" = 'fleet 0' ] || fail "$(cat out.x)"
    in_redis x || fail "it is not in Redis: $(keys)"
    status 75 belay run -n x -- true
    status 0 belay status
    out_has '^ready: .*ha.conf: ha (fallback); scope fleet; 1 held$'
    [ "$(wc -l <out)" = 1 ] || fail "$(cat out)"
    status 0 belay status --json
    [ "$(json out 'sorted(d) == sorted(["ready", "status", "node", "text", "where", "held", "reach", "scope",
        "degraded", "backend", "since_ms", "why", "next_probe_ms", "other"]) and not d["degraded"] and
        (d["reach"], d["scope"], d["backend"], d["why"], d["since_ms"], d["other"]) ==
        ("fleet", "fleet", "ha", None, None, None)')" = True ] || fail "$(cat out)"
    touch stop.x
    ended $holder
    [ $ended = 0 ] || fail "status $ended: $(cat err.x)"
    [ ! -s err.x ] || fail "$(cat err.x)"
    nothing_is_left
}

t_without_the_primary_a_lock_is_this_hosts_and_says_so() {
    fallback
    hold x
    [ "$(cat out.x)" = 'host 1' ] || fail "$(cat out.x)"
    says x '^belay: ha: degraded: locks reach this host alone: .*redis.sock' || fail "$(cat err.x)"
    status 75 belay run -nq x -- true
    touch stop.x
    ended $holder
    [ $ended = 0 ] || fail "status $ended"
    status 0 belay run -n x -- true
}

t_status_tells_the_mode_why_and_the_next_probe() {
    fallback 'probe_every = "1h"; probe_most = "1h";'
    sed -i 's/probe_every = "100ms"; probe_most = "200ms";//' ha.conf
    status 0 belay status
    out_has '^ready: .*; scope host; 0 held$'
    out_has '^degraded: redis .*redis.sock: .*; locks reach this host alone; the next probe is in \(59m..s\|[45].m..s\)$'
    err_is ''
    status 0 belay status --json
    [ "$(json out 'd["ready"] and d["degraded"] and d["reach"] == "fleet" and d["scope"] == "host" and
        0 <= d["since_ms"] < 20000 and "redis.sock" in d["why"] and 2000000 < d["next_probe_ms"] <= 3600000')" = True ] ||
        fail "$(cat out)"
}

t_status_tells_what_another_process_of_this_host_says() {
    fallback
    hold x
    until_true "it is told" sh -c '"$@" | grep -q "^process '$holder' of this host has been degraded.*: redis .*redis.sock"' sh "${B[@]}" status
    status 0 belay status --json
    [ "$(json out "d['other']['pid'] == $holder and d['other']['since_ms'] >= 0 and 'redis.sock' in d['other']['why']")" = True ] ||
        fail "$(cat out)"
    kill -KILL $holder
    wait $holder 2>/dev/null
    until_true "who is dead is not believed" sh -c '! "$@" | grep -q "^process"' sh "${B[@]}" status
}

t_no_degrade_takes_nothing_less() {
    fallback
    status 69 belay run -n --no-degrade x -- touch ran
    [ ! -e ran ] || fail "it ran"
    err_has 'x: .*redis.sock'
    status 69 belay try --no-degrade x
    status 0 belay status
    status 69 belay status --no-degrade
    err_has 'degraded'
    server
    status 0 belay run -n --no-degrade x -- true
    status 0 belay try --no-degrade x
    status 0 belay status --no-degrade
    B=("$BELAY_BIN" --config "sqlite://$dir/other.db")
    status 0 belay run --no-degrade x -- sh -c 'echo "$BELAY_SCOPE $BELAY_DEGRADED"'
    out_is 'host 0'
}

t_a_closed_policy_has_no_locks_without_the_primary() {
    fallback 'policy = "closed";'
    status 69 belay run -n x -- true
    status 69 belay status
    out_has '^degraded: .*redis.sock: .*; there are no locks until it is back; the next probe is in '
    err_has 'redis.sock'
    status 69 belay status --json
    [ "$(json out 'not d["ready"] and d["degraded"] and d["scope"] is None and "redis.sock" in d["text"]')" = True ] || fail "$(cat out)"
    server
    status 0 belay run x -- true
}

t_an_outage_is_outlived_and_told() {
    server
    fallback
    hold x
    stop_server
    until_true "it is demoted" says x '^belay: x: the lock reaches this host alone now: the command goes on'
    says x '^belay: x: demoted, it reaches this host alone: ' || fail "$(cat err.x)"
    status 75 belay run -nq x -- true
    server
    until_true "it is promoted" says x '^belay: x: the lock reaches the fleet now$'
    says x '^belay: x: promoted, it reaches the fleet: ' || fail "$(cat err.x)"
    in_redis x || fail "it is not in Redis: $(keys)"
    status 75 belay run -nq x -- true
    touch stop.x
    ended $holder
    [ $ended = 0 ] || fail "status $ended: $(cat err.x)"
    [ ! -e told.x ] || fail "the command was told"
    nothing_is_left
}

t_a_server_that_hangs_is_as_good_as_gone() {
    server
    fallback
    hold x
    kill -STOP $redis
    status 0 belay run y -- sh -c 'echo "$BELAY_SCOPE $BELAY_DEGRADED"'
    out_is 'host 1'
    until_true "it is demoted" says x '^belay: x: the lock reaches this host alone now'
    kill -CONT $redis
    until_true "it is promoted" says x '^belay: x: the lock reaches the fleet now'
    touch stop.x
    ended $holder
    [ $ended = 0 ] || fail "status $ended: $(cat err.x)"
    nothing_is_left
}

t_on_degrade_term_ends_the_command() {
    server
    fallback
    hold x --on-degrade=term
    stop_server
    ended $holder
    [ $ended = 79 ] || fail "status $ended: $(cat err.x)"
    [ -e told.x ] || fail "the command was not told"
    says x '^belay: x: the lock reaches this host alone now: ending the command$' || fail "$(cat err.x)"
}

t_a_command_that_will_not_end_is_killed_after_the_grace() {
    server
    fallback
    "${B[@]}" run -t 2s --on-degrade=term x -- bash -c 'trap "" TERM; echo yes >ready; while :; do sleep 0.02; done' 2>err.x &
    holder=$!
    until_true "the command runs" exists ready
    stop_server
    ended $holder
    [ $ended = 79 ] || fail "status $ended: $(cat err.x)"
    says x 'it goes on: killing the command' || fail "$(cat err.x)"
}

t_what_began_degraded_is_not_ended_for_it() {
    fallback
    hold x --on-degrade=term
    [ "$(cat out.x)" = 'host 1' ] || fail "$(cat out.x)"
    server
    until_true "it is promoted" says x 'the lock reaches the fleet now'
    touch stop.x
    ended $holder
    [ $ended = 0 ] || fail "status $ended: $(cat err.x)"
}

t_a_lock_that_wants_the_fleet_is_lost_in_an_outage() {
    server
    fallback
    hold x --no-degrade
    stop_server
    ended $holder
    [ $ended = 79 ] || fail "status $ended: $(cat err.x)"
    [ -e told.x ] || fail "the command was not told"
    [ -z "$(history x)" ] || fail "$(cat err.x)"
}

t_quiet_says_nothing_of_it() {
    server
    fallback
    hold x -q
    stop_server
    until_true "it is demoted" sh -c '"$@" status x | grep -q "held by.*scope host"' sh "${B[@]}"
    server
    until_true "it is promoted" in_redis x
    touch stop.x
    ended $holder
    [ $ended = 0 ] || fail "status $ended"
    [ ! -s err.x ] || fail "$(cat err.x)"
}

t_what_contradicts_itself_is_64() {
    fallback
    status 64 belay run --no-degrade --on-degrade=term x -- true
    err_has 'one of them'
    status 64 belay run --no-degrade --on-degrade=continue x -- true
    status 64 belay run --on-degrade=term --on-lost=ignore x -- true
    status 64 belay run --on-degrade=stop x -- true
    err_has 'it is one of continue|term'
    status 64 belay status --no-degrade x
    status 64 belay list --no-degrade
}

# Two terminals with `belay run`, while a third stops and starts redis-server: what docs/command-line.md
# shows. Whose turn it is, is the same all the time; what it is worth on other hosts is said.
t_two_terminals_while_a_third_stops_and_starts_redis() {
    server
    fallback
    hold x --label one
    first=$holder
    [ "$(cat out.x)" = 'fleet 0' ] || fail "$(cat out.x)"
    "${B[@]}" run -t 2s --label two x -- sh -c '
        mkdir busy.x || { echo "two at once" >>both.x; exit 1; }
        echo "$BELAY_SCOPE $BELAY_DEGRADED" >second
        while [ ! -e stop.second ]; do sleep 0.02; done
        rmdir busy.x' 2>err.second &
    second=$!
    until_true "the second waits" sh -c '"$@" status x | grep -q "held by one.*; 1 waiting"' sh "${B[@]}"

    stop_server
    until_true "the first is demoted" says x 'the lock reaches this host alone now: the command goes on'
    [ ! -e second ] || fail "both have it"
    status 0 belay status
    out_has '^degraded'

    touch stop.x
    ended $first
    [ $ended = 0 ] || fail "the first: status $ended: $(cat err.x)"
    until_true "the second has it" exists second
    [ "$(cat second)" = 'host 1' ] || fail "$(cat second)"

    server
    until_true "the second is promoted" says second 'the lock reaches the fleet now'
    in_redis x || fail "it is not in Redis: $(keys)"
    until_true "all is well" recovered
    touch stop.second
    ended $second
    [ $ended = 0 ] || fail "the second: status $ended: $(cat err.second)"
    [ ! -e both.x ] || fail "both had it"
    [ "$(history x)" = 'this host ' ] || fail "$(history x)"
    nothing_is_left
}

run_tests "$@"
