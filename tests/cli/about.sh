# config, version, help, completion.
. "$(dirname "$0")/common.sh"

t_config_check_says_ok() {
    printf 'backends: { here: { type = "sqlite"; path = "%s/locks.db"; }; };\nuse = "here";\n' "$dir" >good.conf
    status 0 "$BELAY_BIN" config check good.conf
    out_has '^OK: .*good.conf'
    status 0 "$BELAY_BIN" --config good.conf config check
    out_has '^OK: .*good.conf'
    status 0 "$BELAY_BIN" config check memory:
    status 0 "$BELAY_BIN" config check --json good.conf
    [ "$(json out 'd["valid"]')" = True ] || fail "$(cat out)"
}

t_config_check_says_what_is_wrong_and_where() {
    printf 'use = "here";\nttl = 10;\nbackends: { here: { type = "sqlite"; }; };\n' >bad.conf
    status 78 "$BELAY_BIN" config check bad.conf
    err_has '^belay: .*bad.conf:2: '
    out_is ''
}

t_config_show_lists_types_and_keys() {
    status 0 "$BELAY_BIN" config show
    out_has sqlite
    out_has memory
    status 0 "$BELAY_BIN" config show sqlite
    out_has path
    status 64 "$BELAY_BIN" config show no-such-type
    status 64 "$BELAY_BIN" config
    status 64 "$BELAY_BIN" config burn
}

t_the_config_is_found_by_its_variable() {
    printf 'backends: { here: { type = "sqlite"; path = "%s/mine.db"; }; };\nuse = "here";\n' "$dir" >my.conf
    BELAY_CONFIG=$dir/my.conf status 0 "$BELAY_BIN" run x -- true
    [ -s mine.db ] || fail "another file was used"
}

t_the_working_directory_is_not_searched() {
    printf 'nonsense' >belay.conf
    status 0 "$BELAY_BIN" run "belay-test-$$" -- true
}

t_version_is_one_line() {
    status 0 "$BELAY_BIN" version
    grep -Eq '^belay [0-9]+\.[0-9]+\.[0-9]+$' out || fail "$(cat out)"
    status 0 "$BELAY_BIN" --version
    grep -Eq '^belay [0-9]+\.[0-9]+\.[0-9]+$' out || fail "$(cat out)"
    status 0 "$BELAY_BIN" version --json
    json out 'd["version"]' >/dev/null || fail "$(cat out)"
}

t_help_knows_every_command() {
    status 0 "$BELAY_BIN" help
    for verb in run try extend release status watch list break config doctor version; do out_has "belay $verb "; done
    for verb in run try extend release status watch list break config doctor version; do
        status 0 "$BELAY_BIN" help $verb
        out_has "^usage: belay $verb"
        status 0 "$BELAY_BIN" $verb --help
        out_has "^usage: belay $verb"
    done
    status 64 "$BELAY_BIN"
    out_is ''
    err_has 'belay run'
}

t_completion_completes() {
    "$BELAY_BIN" completion bash >completion
    bash -c '. ./completion
        complete_for() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _belay; echo "${COMPREPLY[*]}"; }
        complete_for belay ru
        complete_for belay --config /x st
        complete_for belay run --on-l
        complete_for belay run --on-degrade t
        complete_for belay watch --ev
        complete_for belay config ch' >out || fail "bash refuses it"
    out_is $'run\nstatus\n--on-lost\nterm\n--every\ncheck'
}

t_data_goes_to_stdout_alone() {
    status 0 belay status x
    err_is ''
    status 0 belay list
    err_is ''
    status 0 belay version
    err_is ''
}

run_tests "$@"
