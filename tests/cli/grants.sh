# try, extend, release: a lock across several commands of a script.
. "$(dirname "$0")/common.sh"

t_try_prints_an_owner_id_and_holds() {
    status 0 belay try x
    grep -Eq '^[0-9a-f]{32}$' out || fail "$(cat out)"
    status 75 belay run -n x -- true
    status 75 belay try x
    err_has 'belay: x: '
    out_is ''
    status 3 belay try -E 3 x
}

t_release_frees_it() {
    id=$(belay try -t 1h x)
    status 0 belay release x --owner "$id"
    out_is ''
    status 0 belay run -n x -- true
    status 79 belay release x --owner "$id"
}

t_a_foreign_id_releases_nothing() {
    id=$(belay try -t 1h x)
    status 79 belay release x --owner 0123456789abcdef0123456789abcdef
    status 79 belay extend x --owner 0123456789abcdef0123456789abcdef
    status 64 belay release x --owner nonsense
    status 75 belay run -n x -- true
    status 0 belay release x --owner "$id"
}

left() { belay status --json x >st; json st 'd["remaining_ms"]'; }

t_extend_lengthens_and_never_shortens() {
    id=$(belay try -t 1m x)
    status 0 belay extend x --owner "$id" -t 1h
    [ "$(left)" -gt 3500000 ] || fail "$(left) ms"
    status 0 belay extend x --owner "$id" -t 1s
    [ "$(left)" -gt 3500000 ] || fail "$(left) ms"
}

t_it_outlives_its_process_and_ends_with_its_ttl() {
    id=$(belay try -t 300ms x)
    status 75 belay run -n x -- true
    status 0 belay run -w 10s x -- true
    status 79 belay extend x --owner "$id"
}

t_json_has_it_all() {
    status 0 belay try --json -t 1h $'odd "name"\n\xff'
    [ "$(json out 'd["name"] == "odd \"name\"\n\udcff" and len(d["owner"]) == 32 and d["token"] > 0 and
        d["scope"] == "host" and 3500000 < d["remaining_ms"] <= 3600000')" = True ] || fail "$(cat out)"
    id=$(json out 'd["owner"]')
    status 0 belay extend --json -t 2h --owner "$id" $'odd "name"\n\xff'
    [ "$(json out 'd["remaining_ms"] > 7000000')" = True ] || fail "$(cat out)"
    status 0 belay release --json --owner "$id" $'odd "name"\n\xff'
    [ "$(json out 'd["released"]')" = True ] || fail "$(cat out)"
}

t_an_id_that_nobody_read_holds_nothing() {
    "${B[@]}" try -t 1h x >/dev/full 2>err
    [ $? = 70 ] || fail "status $?"
    err_has 'standard output: No space left'
    status 0 belay run -n x -- true
}

t_owner_ids_are_not_shown() {
    id=$(belay try -t 1h x)
    status 0 belay status x
    ! grep -q "$id" out || fail "status shows it"
    status 0 belay list --json
    ! grep -q "$id" out || fail "list shows it"
    status 0 belay status --show-owner x
    out_has "$id"
    status 0 belay list --json --show-owner
    out_has "$id"
}

run_tests "$@"
