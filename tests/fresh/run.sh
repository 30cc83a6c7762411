#!/usr/bin/env bash
# fresh/run.sh [test]: the two commands on a machine where nothing was installed by hand. Makes a
# bare Debian with debootstrap, gives it git and ca-certificates, clones this checkout's HEAD in it
# and runs `./dev run nightly-report -- echo ...`; with "test", `./dev test` as well. Needs root.
# Where packages come from is read from this machine's apt at run time. Not a part of ctest: it
# downloads some hundreds of megabytes. BELAY_FRESH_DIR: where to make it (default: a temporary
# directory); BELAY_FRESH_KEEP=1 leaves it there.
set -euo pipefail
src=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)

say() { printf 'fresh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || die "needs root (chroot and mount)"
if ! command -v debootstrap >/dev/null; then
    say "installing debootstrap"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        debootstrap; } >/dev/null 2>&1 </dev/null || die "could not install debootstrap"
fi

# "deb URI suite component..." of the first source that carries a release called bookworm.
suite=bookworm
mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME) $(COMPONENT) $(CREATED_BY)' 2>/dev/null |
    awk -v s=$suite '$2 == s && $3 == "main" && $4 == "Packages" { print $1; exit }')
[ -n "$mirror" ] || die "apt on this machine has no source for $suite"

root=$(mktemp -d "${BELAY_FRESH_DIR:-${TMPDIR:-/tmp}}/belay-fresh-XXXXXX")
chmod 755 "$root"
mounted=()
cleanup() {
    local status=$? i
    for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do
        umount "${mounted[i]}" 2>/dev/null || umount -l "${mounted[i]}" || true
    done
    mounted=()
    # Never delete through a mount that would not go.
    if grep -q " $root/" /proc/mounts; then
        say "still mounted below $root: left alone"
    elif [ -n "${BELAY_FRESH_KEEP:-}" ]; then
        say "kept: $root"
    else
        rm -rf --one-file-system "$root"
    fi
    exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

into() {   # into ARG...: mount, remembered for the end
    local target=${!#}
    mkdir -p "$target"
    mount "$@"
    mounted+=("$target")
}
inside() {   # inside COMMAND...: nothing of this session's environment but its locale
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        TERM="${TERM:-dumb}" "$@"
}

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
verify=(--keyring="$keyring")
[ -f $keyring ] || verify=(--no-check-gpg)
# debootstrap fetches by itself: tell it what apt knows of proxies.
proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy | head -n 1)
[ -z "$proxy" ] || [ "$proxy" = DIRECT ] || export http_proxy=$proxy

say "making a bare $suite in $root"
debootstrap --variant=minbase "${verify[@]}" $suite "$root" "$mirror" >"$root.log" 2>&1 ||
    { tail -n 20 "$root.log" >&2; rm -f "$root.log"; die "debootstrap failed"; }
rm -f "$root.log"

# The inside fetches as the outside does: sources, keys, proxies, addresses.
rm -rf "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d
for f in sources.list sources.list.d apt.conf apt.conf.d auth.conf auth.conf.d trusted.gpg \
    trusted.gpg.d keyrings preferences preferences.d; do
    [ ! -e "/etc/apt/$f" ] || cp -aT "/etc/apt/$f" "$root/etc/apt/$f"
done
# Hooks of programs that are not in there; but not what apt needs to reach its mirror.
grep -lE '(Post|Pre)-Invoke|Pre-Install-Pkgs' "$root"/etc/apt/apt.conf.d/* 2>/dev/null |
    xargs -r rm -f
for f in /usr/share/keyrings /usr/local/share/ca-certificates; do
    [ ! -d "$f" ] || { mkdir -p "$root$f" && cp -a "$f/." "$root$f/"; }
done
for f in resolv.conf hosts; do [ ! -f /etc/$f ] || cp -L /etc/$f "$root/etc/$f"; done

into -t proc proc "$root/proc"
into -t sysfs -o ro sysfs "$root/sys"
into -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    into --bind /dev/$node "$root/dev/$node" || true
done 2>/dev/null
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
into -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
into -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
into -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -m 1777 "$root/run/lock"

say "installing git and ca-certificates, as a newcomer would have"
{ inside apt-get -q update && inside env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y --no-install-recommends install git ca-certificates; } >"$root/apt.log" 2>&1 \
    </dev/null || { tail -n 20 "$root/apt.log" >&2; die "apt-get inside failed"; }

# What is committed, through a bundle: the clone sees no file of the work tree.
git -c safe.directory='*' -C "$src" bundle create -q "$root/belay.bundle" HEAD
inside git -c advice.detachedHead=false clone -q /belay.bundle /opt/belay

say "./dev run nightly-report -- echo ..."
start=$SECONDS
said=$(inside bash -c 'cd /opt/belay && ./dev run nightly-report -- echo "only one of us runs this"' \
    </dev/null) || die "./dev run failed"
[ "$said" = "only one of us runs this" ] || die "./dev run printed: $said"
say "it ran, after $((SECONDS - start)) s"
start=$(date +%s%N)
inside bash -c 'cd /opt/belay && ./dev run nightly-report -- true' </dev/null || die "the second ./dev run failed"
say "once more: $((($(date +%s%N) - start) / 1000000)) ms"
for process in /proc/[0-9]*; do
    [ "$(readlink "$process/root")" != "$root" ] ||
        die "left running: $(tr '\0' ' ' <"$process/cmdline")"
done

case ${1:-} in
test | check)
    say "./dev $1"
    inside bash -c "cd /opt/belay && ./dev $1" </dev/null || die "./dev $1 failed"
    ;;
esac
say "all went well"
