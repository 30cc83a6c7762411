# What `belay run` exits with.
. "$(dirname "$0")/common.sh"

t_the_commands_status_is_ours() {
    for n in 0 1 3 64 75 255; do status $n belay run x -- sh -c "exit $n"; done
}

t_a_signal_adds_128() {
    status 137 belay run x -- sh -c 'kill -KILL $$'
    status 143 belay run x -- sh -c 'kill -TERM $$'
    status 130 belay run x -- sh -c 'kill -INT $$'
}

hold_x() {
    "${B[@]}" run --label 'carol: tape' x -- sleep 100 &
    holder=$!
    until_true "x is held" held x
}

t_held_is_75() {
    hold_x
    status 75 belay run -n x -- touch ran
    err_has 'belay: x: held by carol: tape (pid '
    status 75 belay run -w 50ms x -- touch ran
    status 75 belay run -w 0s x -- touch ran
    [ ! -e ran ] || fail "the command ran"
    status 0 belay run -n y -- true
}

t_held_status_can_be_chosen() {
    hold_x
    status 1 belay run -n -E 1 x -- true
    status 0 belay run -nE0 x -- true
    status 9 belay run --held-status=9 --no-wait x -- true
}

t_quiet_says_nothing_about_a_held_lock() {
    hold_x
    status 75 belay run -nq x -- true
    err_is ''
    status 75 belay try -q x
    err_is ''
}

t_a_wait_with_time_gets_it() {
    hold_x
    "${B[@]}" run -w 1h x -- touch ran &
    kill -KILL "$holder"
    ended $!
    [ $ended = 0 ] && [ -e ran ] || fail "status $ended"
}

t_a_missing_command_is_127_an_unusable_one_126() {
    status 127 belay run x -- /does/not/exist
    err_has 'belay: /does/not/exist: No such file or directory'
    status 127 belay run x -- no-such-command-at-all
    touch plain
    status 126 belay run x -- ./plain
    err_has 'belay: ./plain: Permission denied'
    status 0 belay run -n x -- true
}

t_wrong_usage_is_64_and_runs_nothing() {
    status 64 belay run x -w 10 -- touch ran
    err_has '-w 10: a duration needs its unit'
    status 64 belay run x -w 10x -- touch ran
    status 64 belay run x -w -1s -- touch ran
    status 64 belay run x -w 99999999999999999999s -- touch ran
    status 64 belay run x -t 5ms -- touch ran
    status 64 belay run x -t 8d -- touch ran
    status 64 belay run x -t 10s -k 4s -- touch ran
    err_has 'more than a third of the TTL'
    status 64 belay run x -k 1h -- touch ran
    status 64 belay run x -n -w 1s -- touch ran
    status 64 belay run x -E 256 -- touch ran
    status 64 belay run x -E one -- touch ran
    status 64 belay run x --on-lost=cry -- touch ran
    status 64 belay run x --no-such-option -- touch ran
    status 64 belay run x --owner 1 -- touch ran
    status 64 belay run x --quiet=yes -- touch ran
    status 64 belay run x --ttl
    status 64 belay run x --
    status 64 belay run x
    status 64 belay run --
    status 64 belay run
    status 64 belay run x touch ran
    err_has 'stands after `--`'
    status 64 belay run '' -- touch ran
    status 64 belay run "$(printf 'x%.0s' {1..513})" -- touch ran
    status 64 belay rum x -- touch ran
    err_has 'did you mean run?'
    status 64 belay run --label "$(printf 'x%.0s' {1..64})" --graze 1s x -- touch ran
    err_has 'did you mean --grace?'
    status 64 belay extend x
    status 64 belay status a b
    status 64 "$BELAY_BIN"
    [ ! -e ran ] || fail "the command ran"
}

t_a_bad_config_is_78() {
    printf 'use = "x";\nbackends: { x: { type = "memory"; }; };\nttll = "10s";\n' >bad.conf
    status 78 "$BELAY_BIN" run --config bad.conf x -- touch ran
    err_has 'bad.conf:3'
    status 78 "$BELAY_BIN" --config ./no-such.conf run x -- touch ran
    status 78 "$BELAY_BIN" run x --config nonsense://x -- touch ran
    [ ! -e ran ] || fail "the command ran"
}

t_a_corrupt_file_is_78_and_stays() {
    printf 'this is no database, and it is long enough to be looked at closely%.0s' {1..40} >locks.db
    cp locks.db before
    status 78 belay run -n x -- touch ran
    err_has 'locks.db'
    cmp -s locks.db before || fail "the file was changed"
    [ ! -e ran ] || fail "the command ran"
}

t_an_unreachable_backend_is_69() {
    status 0 belay run x -- true
    block_file
    status 69 belay run -n x -- touch ran
    [ ! -e ran ] || fail "the command ran"
    unblock_file
    status 0 belay run -n x -- true
}

t_a_symlinked_file_is_78() {
    status 0 belay run x -- true
    mv locks.db real.db
    ln -s real.db locks.db
    status 78 belay run x -- touch ran
    err_has 'locks.db: .*symbolic link'
    [ ! -e ran ] || fail "the command ran"
}

run_tests "$@"
