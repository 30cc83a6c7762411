# doctor: every backend that is used is asked, and the exit status says how it went.
. "$(dirname "$0")/common.sh"

three_backends() {
    cat >three.conf <<CONF
use = "shaky";
backends: {
  here: { type = "sqlite"; path = "$dir/locks.db"; };
  shaky: { type = "fault"; child = "here"; };
  unused: { type = "memory"; };
};
CONF
}

t_a_sound_place_is_fine() {
    status 0 belay doctor
    out_has '^sqlite'
    out_has '^  fine     filesystem: .*locks.db on '
    out_has '^  fine     integrity: ok; every row can be read$'
    out_has '^  fine     a lock: taken and released in [0-9.]* ms; scope host; token [0-9]*$'
    out_has '^all is well$'
    grep -q 'warning\|broken\|to do' out && fail "$(cat out)"
    status 0 belay list
    out_is ''
}

t_a_backend_with_nothing_to_tell_is_named() {
    status 0 "$BELAY_BIN" --config memory: doctor
    out_has '^memory:'
    out_has '^  fine     itself: it has nothing to tell$'
    out_has 'scope process'
}

t_every_backend_that_is_used_is_asked() {
    three_backends
    status 1 "$BELAY_BIN" --config three.conf doctor
    out_has '^here (sqlite)$'
    out_has '^shaky (fault)$'
    out_has '^  warning  faults: it makes faults on purpose$'
    out_has '^           that means: '
    out_has '^           to do: '
    out_has '^0 broken, 1 warning, [0-9]* fine$'
    grep -q unused out && fail "$(cat out)"
    [ "$(grep -c '^here ' out)" = 1 ] || fail "$(cat out)"
}

t_json_has_every_finding() {
    three_backends
    status 1 "$BELAY_BIN" doctor --json --config three.conf
    [ "$(json out '[d["verdict"], [f["backend"] for f in d["findings"] if f["severity"] != "fine"],
        sorted({f["type"] for f in d["findings"]}), d["where"].endswith("shaky (fault)")]')" = \
        "['warning', ['shaky'], ['', 'fault', 'sqlite'], True]" ] || fail "$(cat out)"
    status 0 belay --json doctor
    [ "$(json out 'd["verdict"]')" = fine ] || fail "$(cat out)"
}

t_a_place_that_does_not_answer_is_broken() {
    status 0 belay doctor
    block_file
    status 69 belay doctor
    out_has '^  broken   itself: it could not be asked: '
    out_has '^  broken   a lock: not taken: '
    out_has '^[1-9] broken, '
    status 69 belay doctor --json
    [ "$(json out 'd["verdict"]')" = broken ] || fail "$(cat out)"
    unblock_file
}

t_a_file_that_is_no_database_is_broken() {
    printf 'this is no database, and long enough to be sure of that' >locks.db
    status 78 belay doctor
    rm locks.db
    mkdir locks.db
    status 78 belay doctor
}

t_a_wrong_configuration_is_78() {
    printf 'use = "nowhere";\n' >bad.conf
    status 78 "$BELAY_BIN" --config bad.conf doctor
    err_has 'bad.conf:1: '
    out_is ''
}

run_tests "$@"
