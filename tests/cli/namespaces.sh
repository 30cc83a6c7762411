# Holders in other namespaces than ours. Needs root, and a kernel with time namespaces.
. "$(dirname "$0")/common.sh"

unshare --time --boottime 1000 --fork -- true 2>/dev/null || exit 77

# /proc shows start times shifted by the reader's time namespace: a live holder must not look like a reused pid.
t_a_live_holder_of_another_time_namespace_keeps_its_lock() {
    "${B[@]}" run -t 1h x -- sleep 100 &
    until_true "x is held" held x
    status 78 unshare --time --boottime 1000 --fork -- "${B[@]}" run -n x -- echo two
    err_has 'another time namespace'
    out_is ''
    status 0 unshare --time --boottime 1000 --fork -- "${B[@]}" status x
    out_has '^x: held by'
}

t_a_dead_holder_of_another_time_namespace_is_dead() {
    unshare --time --boottime 1000 --fork -- "${B[@]}" run -t 1h x -- sleep 100 &
    local shell=$!
    until_true "x is held" held x
    local pid
    pid=$(pgrep -P "$shell" -x belay)
    kill -9 "$pid"
    until_true "x is free" free x
    status 0 belay run -n x -- true
}

# A sandboxed unit and cron would else exclude each other in two files without a word.
t_a_read_only_default_place_is_not_passed_over_in_silence() {
    # By descriptor: the binary itself may lie below /tmp.
    status 0 unshare --mount sh -c 'exec 3<"$0" && mount -t tmpfs -o ro tmpfs /run/lock &&
        mount -t tmpfs tmpfs /tmp && exec /proc/self/fd/3 "$@"' "$BELAY_BIN" run x -- echo yes
    out_is yes
    err_has '/tmp/belay-0/locks.db: chosen because /run/lock/belay-0: Read-only'
}

run_tests "$@"
