#!/usr/bin/env bash
# hiredis1.sh DIR: makes DIR/prefix, the hiredis of a newer Debian (1.x) built from its source package,
# for `./dev check hiredis1`. Nothing of the system is changed: apt works in DIR with a configuration
# of its own, whose one source is this machine's own mirror under the newer suite's name. Does nothing
# when it was made before.
set -euo pipefail
suite=trixie
dir=${1:?where to}
[ -e "$dir/prefix/lib/pkgconfig/hiredis.pc" ] && exit 0

die() { printf 'hiredis1: %s\n' "$*" >&2; exit 1; }

rm -rf "$dir"
mkdir -p "$dir"/{lists/partial,cache/archives/partial,source}
dir=$(cd "$dir" && pwd)
log=$dir/log

# The mirror of the release that runs here: a suite without a '-' in its name.
mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME) $(COMPONENT) $(CREATED_BY)' 2>/dev/null |
    awk '$2 !~ /-/ && $3 == "main" && $4 == "Packages" { print $1; exit }')
[ -n "$mirror" ] || die "apt on this machine names no mirror"
printf 'deb-src %s %s main\n' "$mirror" "$suite" >"$dir/sources.list"
apt=(apt-get -q -y -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=-
    -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" -o APT::Sandbox::User=)
if ! { "${apt[@]}" update && cd "$dir/source" && "${apt[@]}" source --download-only hiredis; } \
    >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    die "could not get $suite's hiredis"
fi

# Without Debian's packaging, which changes no code that we use.
cd "$dir/source"
tar -xf hiredis_*.orig.tar.*
cd hiredis-*/
# A linker's LIBRARY_PATH of the caller's would be taken for where to install.
if ! make PREFIX="$dir/prefix" LIBRARY_PATH=lib install >>"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    die "could not build it"
fi
