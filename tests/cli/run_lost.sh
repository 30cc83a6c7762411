# `belay run` when the lock can't be kept: the command is dead before anybody else can hold it.
. "$(dirname "$0")/common.sh"

t_a_lock_that_is_taken_away_ends_the_command() {
    "${B[@]}" run -t 600ms x -- sh -c 'trap "echo told >told; exit 0" TERM; echo yes >ready; sleep 100 & wait' 2>err2 &
    wrapper=$!
    until_true "the command runs" exists ready
    status 0 belay break --yes x
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    [ -e told ] || fail "the command was not told: $(cat err*)"
    grep -q '^belay: x: the lock is lost' err2 || fail "$(cat err2)"
}

t_a_command_that_will_not_end_is_killed() {
    "${B[@]}" run -t 600ms x -- sh -c 'trap "" TERM; sleep 100 & echo $! >inner; echo $$ >pid; wait' 2>/dev/null &
    wrapper=$!
    until_true "the command runs" exists pid
    status 0 belay break --yes x
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    gone "$(cat pid)" 2>/dev/null || fail "it still runs"
    until_true "its children are gone" gone "$(cat inner)"
}

t_on_lost_kill_gives_no_grace() {
    "${B[@]}" run -t 600ms --on-lost=kill x -- sh -c 'trap "echo told >told; exit 0" TERM; echo yes >ready; sleep 100 & wait' 2>/dev/null &
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

# with_faults SETTINGS: B uses a backend in this process's memory, which misbehaves so.
with_faults() {
    printf 'use = "f";\nbackends: { m: { type = "memory"; }; f: { type = "fault"; child = "m"; %s }; };\n' \
        "$1" >faults.conf
    B=("$BELAY_BIN" --config faults.conf)
}
# Not a loop of sleeps: a shell inside its vfork() can't run its trap.
to_the_end='sleep 100 & wait'

t_the_command_is_told_before_the_lock_ends() {
    with_faults 'extend: { unavailable = 1.0; };'
    status 79 belay run -t 1500ms -k 500ms x -- sh -c "trap 'echo told >told; exit 0' TERM; $to_the_end"
    [ -e told ] || fail "the command was not told: $(cat err*)"
    left=$(sed -n 's/.*could not be extended and ends in \([0-9]*\)ms.*/\1/p' err)
    [ "${left:-0}" -gt 250 ] && [ "$left" -le 500 ] || fail "$(cat err)"
}

t_it_is_killed_before_the_lock_ends() {
    with_faults 'extend: { uncertain_dropped = 1.0; };'
    status 79 belay run -t 1500ms -k 500ms --on-lost=kill x -- sh -c "trap 'echo told >told; exit 0' TERM; $to_the_end"
    [ ! -e told ] || fail "the command was told"
    left=$(sed -n 's/.*could not be extended and ends in \([0-9]*\)ms.*/\1/p' err)
    [ "${left:-0}" -gt 0 ] && [ "$left" -le 250 ] || fail "$(cat err)"
}

t_a_short_outage_is_survived() {
    with_faults 'extend: { schedule = "unavailable*2, ok, uncertain_dropped, ok"; };'
    status 6 belay run -t 900ms x -- sh -c 'trap "echo told >told; exit 0" TERM; sleep 1.2; exit 6'
    [ "$(grep -c 'an extension failed' err)" -ge 2 ] || fail "$(cat err)"
    [ ! -e told ] || fail "the command was told"
}

t_a_lost_answer_at_the_end_is_79() {
    with_faults 'release: { lost = 1.0; };'
    status 79 belay run x -- true
    err_has 'was lost before the command ended'
    status 3 belay run --on-lost=ignore x -- sh -c 'exit 3'
}

t_a_release_that_fails_keeps_the_status() {
    with_faults 'release: { unavailable = 1.0; };'
    status 3 belay run x -- sh -c 'exit 3'
    err_has 'not released yet'
}

# The holder can't extend, the contender sees the file as it is.
t_nobody_holds_the_lock_while_the_command_lives() {
    with_faults "extend: { unavailable = 1.0; };"
    sed -i "s|m: { type = \"memory\"; }|m: { type = \"sqlite\"; path = \"$dir/locks.db\"; }|" faults.conf
    "${B[@]}" run -t 1500ms x -- sh -c 'trap "" TERM; echo yes >ready; while :; do date +%s%N >>beats; done' 2>/dev/null &
    wrapper=$!
    until_true "the command runs" exists ready
    B=("$BELAY_BIN" --config "sqlite://$dir/locks.db")
    status 75 belay run -n x -- true
    status 0 belay run -w 20s x -- date +%s%N
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    last=$(grep -x '[0-9]\{19\}' beats | tail -n 1)
    [ "$(cat out)" -gt "$last" ] || fail "both held it"
}

t_a_wrapper_that_was_stopped_too_long_ends_the_command() {
    "${B[@]}" run -t 400ms x -- sh -c 'trap "" TERM; echo $$ >pid; sleep 100 & wait' 2>err2 &
    wrapper=$!
    until_true "the command runs" exists pid
    kill -STOP $wrapper
    until_true "the lock is free" free x
    kill -CONT $wrapper
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    gone "$(cat pid)" 2>/dev/null || fail "it still runs"
}

# A pipe that is full to its last byte, for 2>full; and emptied, from descriptor 9.
full_pipe() {
    mkfifo full
    exec 9<>full
    python3 -c '
import os
os.set_blocking(9, False)
for size in 4096, 1:
    try:
        while os.write(9, b"x" * size): pass
    except BlockingIOError:
        pass
os.set_blocking(9, True)'
}

# Nobody reads what belay says: it must not wait for a reader while the lock runs out.
t_a_full_pipe_on_standard_error_holds_nothing_up() {
    with_faults 'extend: { unavailable = 1.0; };'
    full_pipe
    "${B[@]}" run -t 600ms x -- sh -c 'echo $$ >pid; exec sleep 100' 2>full 9>&- &
    wrapper=$!
    until_true "the command runs" exists pid
    until_true "the command is ended" gone "$(cat pid)"
    until_true "belay ends" gone $wrapper
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
}

t_with_standard_error_full_the_command_is_dead_before_the_lock_ends() {
    status 0 belay run x -- true
    full_pipe
    "${B[@]}" run -t 1500ms x -- sh -c 'trap "" TERM; echo yes >ready; while :; do date +%s%N >>beats; done' 2>full 9>&- &
    wrapper=$!
    until_true "the command runs" exists ready
    block_file
    last_deadline=$(($(date +%s%N) + 1500000000))
    until_true "belay ends" gone $wrapper
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    unblock_file
    status 0 belay run -w 20s x -- date +%s%N
    last=$(grep -x '[0-9]\{19\}' beats | tail -n 1)
    [ "$last" -lt $last_deadline ] || fail "the command outlived its lock"
    [ "$(cat out)" -gt "$last" ] || fail "both held it"
}

t_lines_that_were_left_out_are_counted() {
    with_faults 'extend: { unavailable = 1.0; };'
    full_pipe
    "${B[@]}" run -t 3s -k 1s x -- sh -c "trap 'echo yes >told' TERM; $to_the_end; $to_the_end" 2>full 9>&- &
    wrapper=$!
    until_true "the command is told" exists told
    cat full >said 9>&- & # by now it has said, often, that it can't extend
    exec 9>&-
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    wait
    grep -Eq '^x*belay: [1-9][0-9]* lines were left out: nobody was reading' said || fail "$(tail -c 999 said)"
    grep -q 'killing the command' said || fail "$(tail -c 999 said)"
}

# as_nobody: B is another user's, and `become` a program that becomes root and sleeps, as sudo would
# have it. Only root can play both; false: nobody can.
as_nobody() {
    B=(setpriv --reuid=65534 --regid=65534 --clear-groups "${B[@]}")
    [ "$(id -u)" = 0 ] && chmod 755 . && chown 65534 . || return
    "${B[@]}" version >out 2>&1 || return # the build is out of its reach
    cp "$(readlink -f /usr/bin/python3)" become
    chmod 4755 become
    cat >root.py <<'PY'
import os, time
os.setresuid(0, 0, 0)
open("pid", "w").write(str(os.getpid()))
time.sleep(100)
PY
}

t_a_command_that_is_beyond_us_is_reported() {
    as_nobody || return 0
    "${B[@]}" run -t 600ms x -- ./become root.py 2>err2 &
    wrapper=$!
    until_true "the command runs" exists pid
    kill -USR1 $wrapper
    until_true "a signal that came to nothing is told" \
        grep -q "signal $(kill -l USR1) did not reach the command: Operation not permitted" err2
    status 0 belay break --yes x
    until_true "it is told" \
        grep -q "can't be signalled (Operation not permitted): it goes on WITHOUT the lock" err2
    kill -KILL "$(cat pid)"
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
}

t_what_is_left_of_a_command_and_beyond_us_is_reported() {
    as_nobody || return 0
    "${B[@]}" run -t 600ms x -- sh -c './become root.py & wait' 2>err2 &
    wrapper=$!
    until_true "the command runs" exists pid
    status 0 belay break --yes x
    ended $wrapper
    [ $ended = 79 ] || fail "status $ended"
    grep -q "another user's processes are left of it" err2 || fail "$(cat err2)"
    kill -KILL "$(cat pid)"
}

t_a_command_does_not_begin_with_the_rest_of_a_lock() {
    with_faults 'acquire: { delay_reply = "240ms"; }; extend: { unavailable = 1.0; };'
    status 79 belay run -t 300ms x -- touch begun
    [ ! -e begun ] || fail "it began"
    err_has 'the command was not begun'
}

run_tests "$@"
