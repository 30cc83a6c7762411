# status, list, break.
. "$(dirname "$0")/common.sh"

hold() {
    "${B[@]}" run -t 1h --label "carol: $1" -- "$1" -- sleep 100 &
    holder=$!
    until_true "$1 is held" held "$1"
}

t_status_tells_who_holds_it() {
    status 0 belay status x
    out_is 'x: free'
    hold x
    status 0 belay status x
    out_has "^x: held by carol: x (pid $holder) for [0-9]*m*s; TTL .*; scope host; token [0-9]*$"
    status 0 belay status --json x
    [ "$(json out "d['held'] and d['pid'] == $holder and d['label'] == 'carol: x' and d['scope'] == 'host' and
        d['held_ms'] >= 0 and 'owner' not in d")" = True ] || fail "$(cat out)"
    status 0 belay status --json y
    [ "$(json out "d == {'name': 'y', 'held': False}")" = True ] || fail "$(cat out)"
}

t_status_counts_who_waits() {
    hold x
    "${B[@]}" run x -- true &
    until_true "one waits" sh -c '"$@" | grep -q "; 1 waiting"' sh "${B[@]}" status x
}

t_status_alone_tells_whether_locks_can_be_taken() {
    status 0 belay status
    out_has '^ready'
    status 0 belay status --json
    [ "$(json out 'd["ready"]')" = True ] || fail "$(cat out)"
    block_file
    status 69 belay status --json
    [ "$(json out 'd["ready"]')" = False ] || fail "$(cat out)"
    unblock_file
}

t_list_lists_what_is_held() {
    status 0 belay list
    out_is ''
    status 0 belay list --json
    out_is '[]'
    hold job:one
    hold job:two
    hold other
    status 0 belay list
    [ "$(wc -l <out)" = 3 ] || fail "$(cat out)"
    status 0 belay list 'job:*'
    [ "$(wc -l <out)" = 2 ] || fail "$(cat out)"
    status 0 belay list --json '*o*'
    [ "$(json out 'sorted(i["name"] for i in d)')" = "['job:one', 'job:two', 'other']" ] || fail "$(cat out)"
}

t_a_line_is_a_lock_whatever_its_name() {
    hold $'two\nlines\e[2J'
    status 0 belay list
    [ "$(wc -l <out)" = 1 ] || fail "$(cat out)"
    out_has '^two\\nlines\\x1b\[2J: held by carol: two\\nlines\\x1b\[2J'
}

t_break_needs_a_yes() {
    hold x
    status 64 belay break x
    status 75 belay run -n x -- true
    status 0 belay break --yes x
    err_has 'broken; it was held by carol: x'
    status 0 belay run -n x -- true
}

t_breaking_a_free_lock_is_done_already() {
    status 0 belay break --yes x
    err_has 'nobody holds it'
    status 0 belay break --yes --json x
    [ "$(json out 'd["broken"]')" = False ] || fail "$(cat out)"
}

t_a_reader_that_went_away_ends_it() {
    hold x
    { "${B[@]}" list; echo $? >status; } | true
    grep -qx '0\|141\|70' status || fail "status $(cat status)"
}

run_tests "$@"
