# `belay run` when the lock can't be kept: the command is dead before anybody else can hold it.
. "$(dirname "$0")/common.sh"

t_a_lock_that_is_taken_away_ends_the_command() {
    "${B[@]}" run -t 600ms x -- sh -c 'trap "echo told >told; exit 0" TERM; echo yes >ready; while :; do sleep 0.01; done' 2>err2 &
    wrapper=$!
    until_true "the command runs" exists ready
    status 0 belay break --yes x
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    [ -e told ] || fail "the command was not told"
    grep -q '^belay: x: the lock is lost' err2 || fail "$(cat err2)"
}

t_a_command_that_will_not_end_is_killed() {
    "${B[@]}" run -t 600ms x -- sh -c 'trap "" TERM; echo $$ >pid; while :; do sleep 0.01; done' 2>/dev/null &
    wrapper=$!
    until_true "the command runs" exists pid
    status 0 belay break --yes x
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    gone "$(cat pid)" 2>/dev/null || fail "it still runs"
}

t_on_lost_kill_gives_no_grace() {
    "${B[@]}" run -t 600ms --on-lost=kill x -- sh -c 'trap "echo told >told; exit 0" TERM; echo yes >ready; while :; do sleep 0.01; done' 2>/dev/null &
    wrapper=$!
    until_true "the command runs" exists ready
    status 0 belay break --yes x
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    [ ! -e told ] || fail "the command was told"
}

t_on_lost_ignore_lets_it_go_on() {
    "${B[@]}" run -t 300ms --on-lost=ignore x -- sh -c 'echo yes >ready; while [ ! -e stop ]; do sleep 0.01; done; exit 5' 2>err2 &
    wrapper=$!
    until_true "the command runs" exists ready
    status 0 belay break --yes x
    until_true "it is noticed" grep -q 'the command goes on' err2
    touch stop
    ended $wrapper
    [ $ended = 5 ] || fail "status $ended"
}

t_a_deleted_file_ends_the_command() {
    "${B[@]}" run -t 600ms x -- sh -c 'echo yes >ready; exec sleep 100' 2>/dev/null &
    wrapper=$!
    until_true "the command runs" exists ready
    rm -f locks.db*
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
}

# The file can be reached by nobody for a while: no extension, but no loss yet either.
t_the_command_is_told_before_the_lock_ends() {
    "${B[@]}" run -t 2s -k 600ms x -- sh -c 'trap "cut -d\" \" -f1 /proc/uptime >told; exit 0" TERM; echo yes >ready; while :; do sleep 0.01; done' 2>err2 &
    wrapper=$!
    until_true "the command runs" exists ready
    block_file
    ended $wrapper
    unblock_file
    [ $ended = 79 ] || fail "status $ended"
    [ -e told ] || fail "the command was not told"
    grep -q 'could not be extended and ends in [45][0-9][0-9]ms\|ends in 600ms' err2 || fail "$(cat err2)"
}

t_nobody_holds_the_lock_while_the_command_lives() {
    "${B[@]}" run -t 1500ms x -- sh -c 'trap "" TERM; echo yes >ready; while :; do date +%s%N >last; done' 2>/dev/null &
    wrapper=$!
    until_true "the command runs" exists ready
    block_file
    "${B[@]}" run -w 20s x -- sh -c 'date +%s%N >first' &
    contender=$!
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    unblock_file
    ended $contender
    [ $ended = 0 ] || fail "the contender: status $ended"
    [ "$(cat first)" -gt "$(cat last)" ] || fail "both held it"
}

t_a_wrapper_that_was_stopped_too_long_ends_the_command() {
    "${B[@]}" run -t 400ms x -- sh -c 'trap "" TERM; echo $$ >pid; while :; do sleep 0.01; done' 2>err2 &
    wrapper=$!
    until_true "the command runs" exists pid
    kill -STOP $wrapper
    until_true "the lock is free" free x
    kill -CONT $wrapper
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    gone "$(cat pid)" 2>/dev/null || fail "it still runs"
}

t_extensions_through_a_short_outage_keep_it() {
    "${B[@]}" run -t 3s x -- sh -c 'echo yes >ready; while [ ! -e stop ]; do sleep 0.01; done; exit 6' 2>err2 &
    wrapper=$!
    until_true "the command runs" exists ready
    block_file
    until_true "one extension has failed" sh -c 'sleep 1' # a third of 3s - 750ms
    unblock_file
    until_true "it is held, and younger than its TTL" held x
    status 75 belay run -w 3s x -- true
    touch stop
    ended $wrapper
    [ $ended = 6 ] || fail "status $ended: $(cat err2)"
}

run_tests "$@"
