# `belay run` and signals, without a terminal.
. "$(dirname "$0")/common.sh"

# start ARGS: belay run -t 1h ARGS, in the background; $wrapper is its process.
start() {
    "${B[@]}" run -t 1h "$@" &
    wrapper=$!
}
child_of() { pgrep -P "$1" | head -n 1; }

t_signals_are_passed_on_to_the_whole_group() {
    for signal in TERM HUP USR1 USR2 ALRM PROF; do
        rm -f got-* ready
        cat >script <<S
trap 'echo inner >got-inner; exit 0' $signal
sh -c 'trap "echo group >got-group; exit 0" $signal; echo yes >ready; sleep 100 & wait' &
wait
wait
exit 5
S
        start x -- sh script
        until_true "the command runs" exists ready
        kill -$signal $wrapper
        ended $wrapper
        [ -e got-inner ] || fail "$signal did not reach the command"
        until_true "$signal reaches its child" exists got-group
    done
}

t_a_passed_on_sigterm_ends_with_143() {
    start x -- sh -c 'echo yes >ready; exec sleep 100'
    until_true "the command runs" exists ready
    kill -TERM $wrapper
    ended $wrapper
    [ $ended = 143 ] || fail "status $ended"
    status 0 belay run -n x -- true
}

t_a_command_may_refuse_to_end() {
    start x -- sh -c 'trap "" TERM; echo yes >ready; while [ ! -e stop ]; do sleep 0.01; done; exit 4'
    until_true "the command runs" exists ready
    kill -TERM $wrapper
    status 75 belay run -n x -- true
    touch stop
    ended $wrapper
    [ $ended = 4 ] || fail "status $ended"
}

t_the_command_dies_with_a_killed_wrapper_and_frees_the_lock() {
    start x -- sh -c 'echo $$ >pid; exec sleep 100'
    until_true "the command runs" exists pid
    kill -KILL $wrapper
    ended $wrapper
    until_true "the command is gone" gone "$(cat pid)"
    status 0 belay run -w 10s x -- true
}

t_a_killed_wrapper_that_waits_leaves_nothing() {
    start x -- sleep 100
    until_true "x is held" held x
    "${B[@]}" run x -- touch ran &
    waiter=$!
    until_true "the waiter has forked" pgrep -P $waiter
    child=$(child_of $waiter)
    kill -KILL $waiter
    until_true "its child is gone" gone "$child"
    kill $wrapper
    ended $wrapper
    status 0 belay run -n x -- true
    [ ! -e ran ] || fail "the command ran"
}

t_a_signal_ends_the_wait() {
    start x -- sleep 100
    until_true "x is held" held x
    for signal in TERM:143 HUP:129 USR1:138; do
        "${B[@]}" run x -- touch ran &
        waiter=$!
        until_true "the waiter waits" state_is $waiter S
        until_true "the waiter has forked" pgrep -P $waiter
        child=$(child_of $waiter)
        kill -${signal%:*} $waiter
        ended $waiter
        [ $ended = ${signal#*:} ] || fail "$signal: status $ended"
        until_true "its child is gone" gone "$child"
    done
    [ ! -e ran ] || fail "the command ran"
    status 75 belay run -n x -- true
}

t_what_was_ignored_stays_ignored() {
    start x -- sleep 100
    until_true "x is held" held x
    (trap '' HUP; exec "${B[@]}" run x -- touch ran) &
    waiter=$!
    until_true "the waiter has forked" pgrep -P $waiter
    kill -HUP $waiter
    kill $wrapper
    ended $waiter
    [ $ended = 0 ] && [ -e ran ] || fail "status $ended"
}

t_the_lock_is_held_while_wrapper_or_command_live() {
    # A command that undoes its tie to belay's life.
    cat >survivor <<'PY'
import ctypes, os, time
ctypes.CDLL(None).prctl(1, 0)
open("pid", "w").write(str(os.getpid()))
time.sleep(100)
PY
    start x -- python3 survivor
    until_true "the command runs" exists pid
    kill -KILL $wrapper
    ended $wrapper
    status 75 belay run -n x -- true
    kill -KILL "$(cat pid)"
    until_true "it is gone" gone "$(cat pid)"
    status 0 belay run -w 10s x -- true
}

t_a_killed_command_that_waits_is_noticed() {
    start x -- sleep 100
    until_true "x is held" held x
    "${B[@]}" run x -- touch ran &
    waiter=$!
    until_true "the waiter has forked" pgrep -P $waiter
    kill -KILL "$(child_of $waiter)"
    ended $waiter
    [ $ended = 137 ] || fail "status $ended"
    [ ! -e ran ] || fail "the command ran"
}

t_a_stopped_command_keeps_the_lock() {
    "${B[@]}" run -t 300ms x -- sh -c 'echo $$ >pid; while [ ! -e stop ]; do sleep 0.01; done' &
    wrapper=$!
    until_true "the command runs" exists pid
    kill -STOP "$(cat pid)"
    until_true "it is stopped" state_is "$(cat pid)" T
    # Beyond its first TTL: a wait as long as that ends with "held".
    status 75 belay run -w 600ms x -- true
    kill -CONT "$(cat pid)"
    touch stop
    ended $wrapper
    [ $ended = 0 ] || fail "status $ended"
}

t_a_closed_pipe_on_standard_error_is_survived() {
    start y -- sleep 100
    until_true "y is held" held y
    "${B[@]}" run -v x -- sh -c 'exit 3' 2> >(exec true)
    [ $? = 3 ] || fail "it was not"
}

run_tests "$@"
