# `belay run`: what the command finds, what it excludes, what is left afterwards.
. "$(dirname "$0")/common.sh"

t_the_command_finds_its_lock_in_the_environment() {
    status 0 belay run nightly -- sh -c 'echo "$BELAY_LOCK $BELAY_SCOPE $BELAY_DEGRADED $BELAY_TOKEN"'
    grep -Eq '^nightly host 0 [1-9][0-9]*$' out || fail "$(cat out)"
}

t_tokens_grow() {
    local last=0 token
    for _ in 1 2 3 4 5; do
        token=$(belay run x -- printenv BELAY_TOKEN)
        [ "$token" -gt "$last" ] || fail "$token after $last"
        last=$token
    done
}

t_any_name_is_carried_exactly() {
    local name
    for name in x '{}' '{' '%n%s%s' $'new\nline' $'\xff\xfe' 'ü' '-n' ' ' '../../etc/passwd' '*' \
        "$(printf 'x%.0s' {1..512})"; do
        status 0 belay run -- "$name" -- printenv BELAY_LOCK
        [ "$(cat out; echo .)" = "$name"$'\n.' ] || fail "'$name' became '$(cat out)'"
    done
}

t_arguments_are_carried_exactly() {
    status 0 belay run x -- printf '[%s]' '' 'a b' '--' -n $'\n' '*'
    [ "$(cat out)" = $'[][a b][--][-n][\n][*]' ] || fail "$(cat out)"
}

t_the_command_reads_standard_input() {
    [ "$(echo hello | belay run x -- cat)" = hello ] || fail "it did not"
}

t_no_descriptor_of_ours_reaches_the_command() {
    ls /proc/self/fd >plain
    "${B[@]}" run x -- ls /proc/self/fd >under
    cmp -s plain under || fail "$(diff plain under)"
}

t_the_callers_descriptors_do() {
    echo word >file
    [ "$(exec 9<file; belay run x -- cat <&9)" = word ] || fail "descriptor 9 was closed"
    [ "$(exec 9<file; belay run x -- sh -c 'cat <&9')" = word ] || fail "descriptor 9 was closed"
}

t_closed_standard_descriptors_stay_out_of_the_file() {
    status 0 belay run x -- true
    for closed in '<&-' '>&-' '2>&-' '<&- >&-' '<&- >&- 2>&-'; do
        for arguments in 'run x -- ls -l /proc/self/fd' 'run y -- /does/not/exist' 'status x' 'list' 'nonsense'; do
            eval '"${B[@]}" $arguments '"$closed" >out 2>err
        done
        ! grep -q locks.db out || fail "with $closed: $(cat out)"
    done
    echo 'l=$(readlink /proc/$$/fd/$1); echo "$l" >link' >look
    for closed in 0 1 2; do
        rm -f link
        sh -c "exec \"\$@\" $closed>&-" sh "${B[@]}" run x -- sh look $closed || fail "it failed"
        [ "$(cat link)" = /dev/null ] || fail "descriptor $closed became $(cat link)"
    done
    [ "$(head -c 15 locks.db)" = 'SQLite format 3' ] || fail "something was written into the file"
    status 0 belay run x -- true
}

t_signals_of_the_command_are_as_they_were() {
    look='grep ^Sig[^Q] /proc/self/status'
    for before in 'true' 'trap "" INT HUP' 'trap "" PIPE CHLD TSTP'; do
        plain=$(eval "$before"; exec $look)
        under=$(eval "$before"; exec "${B[@]}" run x -- $look)
        [ "$plain" = "$under" ] || fail "after $before: $plain and $under"
    done
}

t_an_ignored_sigchld_keeps_the_status() {
    (trap '' CHLD; exec "${B[@]}" run x -- sh -c 'exit 7')
    [ $? = 7 ] || fail "it did not"
}

t_only_one_at_a_time() {
    echo 0 >count
    cat >increment <<'S'
read n <count
sleep 0.001
echo $((n + 1)) >count
S
    for _ in 1 2 3 4 5 6; do
        (for _ in 1 2 3 4 5; do "${B[@]}" run x -- sh increment || exit 1; done) &
        workers="${workers-} $!"
    done
    for worker in $workers; do
        ended "$worker"
        [ $ended = 0 ] || fail "a worker failed"
    done
    [ "$(cat count)" = 30 ] || fail "$(cat count) of 30"
}

t_it_is_kept_beyond_its_ttl() {
    cat >probe <<S
for i in 1 2 3 4 5 6 7 8; do
    sleep 0.1
    "$BELAY_BIN" --config "sqlite://$dir/locks.db" run -nqE 99 x -- true
    [ \$? = 99 ] || exit 5
done
S
    status 0 belay run -t 400ms x -- sh probe
}

t_it_is_released_when_the_command_ends() {
    status 0 belay run -t 1h x -- sh -c 'sleep 100 >/dev/null 2>&1 & echo $! >pid'
    status 0 belay run -n x -- true
    kill "$(cat pid)" || fail "the background process did not survive"
}

t_a_name_after_the_dashes_works() {
    status 0 belay run -- -n -- echo one
    out_is one
    status 0 belay run -q -- x echo two
    out_is two
}

t_options_may_stand_anywhere_before_the_dashes() {
    status 0 "$BELAY_BIN" --config "sqlite://$dir/a.db" run x -- true
    status 0 "$BELAY_BIN" run --config="sqlite://$dir/a.db" -t5s x -- true
    status 0 "$BELAY_BIN" run x -t 5s --config "sqlite://$dir/a.db" -- true
    status 0 belay run x -- echo --config nowhere -n
    out_is '--config nowhere -n'
}

t_without_a_config_it_works() {
    status 0 "$BELAY_BIN" run "belay-test-$$" -- printenv BELAY_SCOPE
    out_is host
}

t_verbose_says_what_happens() {
    status 0 belay run -v x -- true
    err_has 'belay: x: ours, scope host, token [0-9]'
}

t_a_verbose_wait_says_once_who_holds_it() {
    "${B[@]}" run --label 'carol: tape' x -- sh -c 'echo yes >ready; while [ ! -e stop ]; do sleep 0.01; done' &
    until_true "x is held" exists ready
    "${B[@]}" run -v x -- true 2>err2 &
    waiter=$!
    until_true "it says so" grep -q '^belay: x: waiting 1s; held by carol: tape (pid [0-9]*) for [0-9]*s$' err2
    touch stop
    ended $waiter
    [ $ended = 0 ] && [ "$(grep -c waiting err2)" = 1 ] || fail "status $ended, $(cat err2)"
}

t_a_run_inside_its_own_lock_is_warned_about() {
    status 75 belay run x -- "${B[@]}" run -w 200ms x -- touch ran
    err_has '^belay: x: waiting for the lock that this command itself runs under'
    status 75 belay run x -- "${B[@]}" run -q -w 200ms x -- touch ran
    err_is ''
    [ ! -e ran ] || fail "it ran"
}

t_a_lock_of_the_same_name_elsewhere_is_no_reason_to_warn() {
    "${B[@]}" run x -- sh -c 'echo yes >ready; exec sleep 100' &
    until_true "x is held" exists ready
    elsewhere=("$BELAY_BIN" --config "sqlite://$dir/elsewhere.db")
    status 75 "${elsewhere[@]}" run x -- "${B[@]}" run -w 200ms x -- true
    ! grep -q 'itself' err || fail "$(cat err)"
    status 0 belay run y -- "${elsewhere[@]}" run y -- true
    err_is ''
}

t_names_are_escaped_on_standard_error() {
    "${B[@]}" run -- $'a\nb\e[31m%n' -- sleep 100 &
    until_true "it is held" sh -c '"$@" | grep -q a' sh "${B[@]}" list
    status 75 belay run -n -- $'a\nb\e[31m%n' -- true
    err_has '^belay: a\\nb\\x1b\[31m%n: held by'
    [ "$(wc -l <err)" = 1 ] || fail "more than one line"
}

run_tests "$@"
