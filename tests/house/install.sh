#!/usr/bin/env bash
# What is installed can be used: a program builds and runs through pkg-config (shared and static)
# and through find_package (shared, static, testing), from a prefix that was moved after install.
set -euo pipefail
src=${BELAY_SRC:?} build=${BELAY_BUILD:?}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"

step() { printf -- '-- %s\n' "$*"; }

cmake --install "$build" --prefix "$tmp/first" >install.log
mv first prefix    # a package is unpacked elsewhere than it was built for
prefix=$tmp/prefix

step "the files"
for f in include/belay/belay.h include/belay/backend.h include/belay/testing.h bin/belay \
    lib/libbelay.so lib/libbelay.so.0 lib/libbelay.a lib/libbelay-testing.a \
    lib/pkgconfig/belay.pc lib/pkgconfig/belay-testing.pc \
    lib/cmake/belay/belayConfig.cmake lib/cmake/belay/belayConfigVersion.cmake; do
    [ -e "prefix/$f" ] || { echo "not installed: $f"; exit 1; }
done
for f in "$src"/config/*.conf; do
    [ -e "$f" ] || continue    # tests/house/config.sh says so
    [ -e "prefix/share/doc/belay/config/${f##*/}" ] ||
        { echo "not installed: config/${f##*/}"; exit 1; }
done
if grep -rIlF -e "$src" -e "$build" -e "$tmp/first" prefix; then
    echo "the files above name the place they were built in"
    exit 1
fi

step "the installed command"
prefix/bin/belay version >/dev/null

cat >user.c <<'C'
#include <stdio.h>
#include <string.h>

#include <belay/belay.h>

int main(int argc, char **argv)
{
    belay *client = NULL;
    belay_lock *lock = NULL;
    if (belay_open(&client, "memory:", NULL, NULL) != BELAY_OK) return 2;
    if (belay_acquire(client, "house", NULL, &lock, NULL) != BELAY_OK) return 3;
    if (!belay_lock_valid(lock, 1)) return 4;
    if (belay_release(lock, NULL) != BELAY_OK) return 5;
    belay_close(client);
    puts(belay_version());
    return argc > 1 && strcmp(belay_version(), argv[1]) != 0 ? 6 : 0;
}
C
# A backend's author links the suite; naming anything of testing.h is enough to prove the link line.
cat >author.c <<'C'
#include <belay/backend.h>
#include <belay/testing.h>

int main(void)
{
    return belay_version() == 0;
}
C

cc=${CC:-cc}
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
version=$(pkg-config --modversion belay)
[ "$version" = "$(sed -n 's/^project(belay VERSION \([0-9.]*\).*/\1/p' "$src/CMakeLists.txt")" ] ||
    { echo "belay.pc says $version"; exit 1; }

step "pkg-config, shared"
# shellcheck disable=SC2046
"$cc" -Wall -Werror user.c -o user-shared $(pkg-config --cflags --libs belay)
./user-shared "$version"
readelf -d user-shared | grep -q 'NEEDED.*libbelay\.so\.0' || { echo "not linked with libbelay.so.0"; exit 1; }
! readelf -d user-shared | grep -qE 'NEEDED.*(sqlite|config|hiredis|ssl|crypto)' ||
    { echo "a user of the shared library was made to link its dependencies"; exit 1; }

step "pkg-config, static"
# -lbelay would find the .so first: the archive by name, its dependencies from --static.
libs=$(pkg-config --static --libs belay | sed 's/-lbelay\b/-l:libbelay.a/')
# shellcheck disable=SC2046,SC2086
"$cc" -Wall -Werror user.c -o user-static $(pkg-config --cflags belay) $libs
env -u LD_LIBRARY_PATH ./user-static "$version"
! readelf -d user-static | grep -q 'NEEDED.*libbelay' || { echo "static, yet needs libbelay.so"; exit 1; }

step "pkg-config, belay-testing"
# shellcheck disable=SC2046
"$cc" -Wall -Werror author.c -o author $(pkg-config --cflags --libs belay-testing)
./author

step "find_package"
mkdir user
cp user.c author.c user/
cat >user/CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(user C)
find_package(belay 0.1 REQUIRED)
add_executable(user_shared user.c)
target_link_libraries(user_shared PRIVATE belay::belay)
add_executable(user_static user.c)
target_link_libraries(user_static PRIVATE belay::static)
add_executable(author author.c)
target_link_libraries(author PRIVATE belay::testing)
CMAKE
cmake -G Ninja -S user -B user/build -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" \
    -DCMAKE_BUILD_TYPE=Release >cmake.log 2>&1 || { cat cmake.log; exit 1; }
ninja -C user/build >ninja.log 2>&1 || { cat ninja.log; exit 1; }
user/build/user_shared "$version"
env -u LD_LIBRARY_PATH user/build/user_static "$version"
user/build/author
! readelf -d user/build/user_static | grep -q 'NEEDED.*libbelay' ||
    { echo "belay::static, yet needs libbelay.so"; exit 1; }

step "find_package refuses another minor version"
sed -i 's/find_package(belay 0.1/find_package(belay 0.99/' user/CMakeLists.txt
if cmake -G Ninja -S user -B user/other -DCMAKE_PREFIX_PATH="$prefix" >cmake.log 2>&1; then
    echo "find_package(belay 0.99) was satisfied by $version"
    exit 1
fi
echo "installed, moved, found and used"
