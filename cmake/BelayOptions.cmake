# Options, the language level, warnings and sanitizers. Everything here applies to the whole tree.
option(BELAY_WERROR "Warnings are errors" OFF)
option(BELAY_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(BELAY_BENCH "Build the benches" ${PROJECT_IS_TOP_LEVEL})
option(BELAY_EXAMPLES "Build the examples" ${PROJECT_IS_TOP_LEVEL})
option(BELAY_FUZZ "The fuzz targets are libFuzzer's (clang)" OFF)
set(BELAY_SANITIZE "" CACHE STRING "Sanitizers: address,undefined or thread")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release)
endif()
if(PROJECT_IS_TOP_LEVEL)
    # -O2 as the distributions build; -g so that a crash of an installed belay can be read.
    set(CMAKE_C_FLAGS_RELEASE "-O2 -g -DNDEBUG")
    set(CMAKE_C_FLAGS_DEBUG "-Og -g3")
    set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
endif()

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)

# The engine and the command line are made of epoll, futex, eventfd, pidfd and CLOCK_BOOTTIME. The
# empty value is what a file's own `#define _GNU_SOURCE` gives it, so both may stand. Public headers,
# examples and benches do without.
set(BELAY_LINUX _GNU_SOURCE=)

add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes
                    -Wvla -Wpointer-arith -Wwrite-strings -Wformat-security -Wundef
                    -fno-common -ffunction-sections -fdata-sections)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    # snprintf is used because it truncates; what gcc can prove of it changes with the optimisation.
    add_compile_options(-Wno-format-truncation)
endif()
if(BELAY_WERROR)
    add_compile_options(-Werror)
endif()

if(BELAY_SANITIZE)
    add_compile_options(-fsanitize=${BELAY_SANITIZE} -fno-sanitize-recover=all
                        -fno-omit-frame-pointer)
    add_link_options(-fsanitize=${BELAY_SANITIZE})
endif()
if(BELAY_FUZZ)
    add_compile_options(-fsanitize=fuzzer-no-link)
endif()
