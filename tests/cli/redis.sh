# The command line on a real redis-server of the test's own, as a new user would try it.
. "$(dirname "$0")/common.sh"

here() { B=("$BELAY_BIN" --config "redis+unix://$dir/redis.sock$1"); }

t_run_excludes_and_leaves_nothing_behind() {
    server
    here ''
    "${B[@]}" run x -- sleep 100 &
    until_true "x is held" held x
    status 75 belay run -n x -- true
    status 0 belay list
    out_has '^x: held'
    kill %2
    ended %2
    status 0 belay run -w 10s x -- sh -c 'echo "$BELAY_SCOPE $BELAY_DEGRADED $BELAY_TOKEN"'
    out_has '^fleet 0 [1-9][0-9]*$'
    status 0 belay list
    out_is ''
    [ "$(redis-cli -s redis.sock --scan)" = fence:belay: ] || fail "$(redis-cli -s redis.sock --scan)"
}

t_try_extend_and_release_work_for_scripts() {
    server
    here ''
    id=$(belay try -t 1m x) || fail "try"
    status 0 belay extend x --owner "$id" -t 10m
    status 75 belay run -n x -- true
    status 0 belay release x --owner "$id"
    status 0 belay run -n x -- true
    status 79 belay release x --owner "$id"
}

t_doctor_speaks_of_a_stock_server() {
    server
    here ''
    status 1 belay doctor
    out_has '^  fine     reachable: '
    out_has '^  warning  persistence: '
    out_has '^           to do: '
    out_has '^  fine     a lock: taken and released in .*; scope fleet; token [1-9]'
    status 1 belay doctor --json
    [ "$(json out 'd["verdict"]')" = warning ] || fail "$(cat out)"
}

t_a_server_with_its_data_on_disk_is_well() {
    server 'appendonly yes'
    here ''
    status 0 belay doctor
    out_has '^all is well$'
}

t_a_password_is_asked_for_and_never_shown() {
    server 'requirepass hush' 'appendonly yes'
    here ''
    status 77 belay run x -- true
    err_has NOAUTH
    status 69 belay doctor
    out_has '^  broken   credentials: '
    here '?password=wrong'
    status 77 belay run x -- true
    err_has WRONGPASS
    status 69 belay doctor
    grep -q wrong out err && fail "it is shown: $(cat out err)"
    printf 'hush\n' >password
    here "?password_file=$dir/password"
    status 0 belay run x -- true
    status 0 belay doctor
    grep -q hush out err && fail "it is shown: $(cat out err)"
    return 0
}

t_nobody_there_is_unavailable() {
    here '?timeout=100ms'
    status 69 belay run -w 200ms x -- true
    err_has redis.sock
    status 69 belay run -n x -- true
    status 69 belay status x
    status 69 belay doctor
    out_has '^  broken   reachable: '
}

t_a_server_that_stops_in_the_middle_ends_the_command_in_time() {
    server
    here '?timeout=200ms'
    "${B[@]}" run -t 2s x -- bash -c 'trap "echo \$EPOCHREALTIME >ended; exit" TERM
        echo begun >begun
        while :; do sleep 0.01; done' &
    run=$!
    until_true "it runs" exists begun
    kill -STOP $redis
    began=$EPOCHREALTIME
    ended $run
    [ $ended = 79 ] || fail "status $ended"
    [ "$(python3 -c "print($(cat ended) - $began < 2)")" = True ] || fail "it ended too late"
    status 69 belay run -n y -- true
    kill -CONT $redis
    status 0 belay run -w 10s y -- true
    until_true "nothing is left behind" free x
}

t_a_server_that_comes_back_is_found() {
    server
    here '?timeout=200ms'
    kill -STOP $redis
    "${B[@]}" run -w 20s x -- touch done 2>err &
    run=$!
    until_true "it was tried, and said so" grep -q 'no answer' err
    kill -CONT $redis
    ended $run
    [ $ended = 0 ] && [ -e done ] || fail "status $ended"
}

run_tests "$@"
