# The suites. A label is the directory a test lives in. 77 is "skipped", which CI counts as a
# failure for every required test.
#
#   tests/unit/*_test.c       one program each: cmocka, the static library, core's private headers
#   tests/contract/*_test.c   the conformance suite on each backend, built the same way
#   tests/live/*_test.c       one program each: real redis-servers, the fake peer and the relay
#   tests/sim/*.c             one program, run with many seeds: the fallback in a simulated world
#   tests/cli/*.sh            the built `belay`, from the outside
#   tests/house/*.sh, *_test.py   include rules, exports, packaging
#   tests/fuzz/*_fuzz.c       libFuzzer targets, on their corpus
#   tests/model/run.sh        the fallback's protocol as a model, searched by spin
#   tests/headers, docs       every public header alone; every snippet of every page
#
# Other .c files in tests/unit are helpers, linked into every unit test.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

set(BELAY_TEST_TIMEOUT 120 CACHE STRING "Seconds a test may take")
set(test_env "BELAY_SRC=set:${PROJECT_SOURCE_DIR}" "BELAY_BUILD=set:${PROJECT_BINARY_DIR}"
             "BELAY_BIN=set:${PROJECT_BINARY_DIR}/bin/belay"
             "BELAY_SANITIZE=set:${BELAY_SANITIZE}"
             "CC=set:${CMAKE_C_COMPILER}"
             # Nothing of the person who runs the tests may reach them.
             "HOME=set:${PROJECT_BINARY_DIR}/home" "XDG_CONFIG_HOME=unset:"
             "BELAY_CONFIG=unset:" "BELAY_LOCK=unset:" "BELAY_TOKEN=unset:")
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/home)
if(BELAY_SANITIZE)
    list(APPEND test_env
         "ASAN_OPTIONS=set:detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=1"
         "UBSAN_OPTIONS=set:halt_on_error=1:print_stacktrace=1"
         # Children of tests that have threads (a relay) open clients with threads of their own.
         "TSAN_OPTIONS=set:halt_on_error=1:second_deadlock_stack=1:die_after_fork=0")
endif()

function(belay_test name label)   # belay_test(name label command...)
    add_test(NAME ${name} COMMAND ${ARGN} WORKING_DIRECTORY ${PROJECT_BINARY_DIR})
    # ./dev runs four of these at once, and counts one that works as two: what mostly waits (for a real
    # server's TTLs) says so with PROCESSORS 1.
    set_tests_properties(${name} PROPERTIES LABELS ${label} SKIP_RETURN_CODE 77 PROCESSORS 2
                         TIMEOUT ${BELAY_TEST_TIMEOUT}
                         ENVIRONMENT_MODIFICATION "${test_env}")
endfunction()

# The same program under valgrind: only `ctest -C Valgrind -L valgrind` (./dev check) runs these.
find_program(VALGRIND valgrind)
# Their forked children must exit with a status of their own, and a leak in a child, which is one on purpose,
# would be valgrind's: memory errors alone here; leaks are LeakSanitizer's to find.
set(valgrind_forks fork sqlite_place sqlite_wake)
# What valgrind 3.19 can't run: pidfd_open, an alarm amid a transaction, and a limit on descriptors below its own.
set(valgrind_cannot descriptor sqlite_holder sqlite_fault)
function(belay_valgrind_test name target)
    if(name IN_LIST valgrind_cannot)
        return()
    endif()
    set(leaks --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite)
    if(name IN_LIST valgrind_forks)
        set(leaks --leak-check=no)
    endif()
    add_test(NAME valgrind/${name} CONFIGURATIONS Valgrind WORKING_DIRECTORY ${PROJECT_BINARY_DIR}
             COMMAND ${VALGRIND} -q --error-exitcode=99 ${leaks} --child-silent-after-fork=yes
                     $<TARGET_FILE:${target}>)
    set_tests_properties(valgrind/${name} PROPERTIES LABELS valgrind SKIP_RETURN_CODE 77 PROCESSORS 2
                         TIMEOUT 600
                         ENVIRONMENT_MODIFICATION "${test_env};BELAY_ON_VALGRIND=set:1")
endfunction()

# The harness: real servers (tests/live), and the fake peer and the relay (tests/fake). Its own
# certificates and its own questions to a server need libcrypto and hiredis, whatever belay uses.
pkg_check_modules(HARNESS REQUIRED IMPORTED_TARGET hiredis>=0.14 libcrypto)
file(GLOB harness_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/fake/*.c
     ${PROJECT_SOURCE_DIR}/tests/live/*.c)
list(FILTER harness_sources EXCLUDE REGEX "(_test|_shim)\\.c$")
add_library(belay_harness STATIC ${harness_sources})
target_include_directories(belay_harness PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
target_compile_definitions(belay_harness PRIVATE ${BELAY_LINUX})
target_link_libraries(belay_harness PUBLIC PkgConfig::HARNESS PkgConfig::CMOCKA Threads::Threads)

file(GLOB unit_helpers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/unit/*.c)
list(FILTER unit_helpers EXCLUDE REGEX "_test\\.c$")

foreach(label unit contract)
    file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${label}/*_test.c)
    foreach(source IN LISTS sources)
        cmake_path(GET source STEM stem)
        string(REGEX REPLACE "_test$" "" name ${stem})
        set(target ${label}_${stem})
        add_executable(${target} ${source})
        if(label STREQUAL "unit")
            target_sources(${target} PRIVATE ${unit_helpers})
        endif()
        target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
        target_compile_definitions(${target} PRIVATE ${BELAY_LINUX} BELAY_VERSION="${PROJECT_VERSION}"
                                   BELAY_SRC="${PROJECT_SOURCE_DIR}")
        if(TARGET belay_testing)
            target_link_libraries(${target} PRIVATE belay_testing)
        endif()
        set(ways)
        if(name STREQUAL "redis")   # on a real server, by each way to it
            target_link_libraries(${target} PRIVATE belay_harness)
            set(ways tcp unix tls)
        elseif(name STREQUAL "fallback")
            target_link_libraries(${target} PRIVATE belay_harness)
            set(ways memory redis down frozen closed)
        elseif(name STREQUAL "redlock")
            target_link_libraries(${target} PRIVATE belay_harness)
            set(ways memory three five stops sqlite)
            if(BELAY_SANITIZE)   # the others differ by what their servers do, not by what we do
                set(ways memory five stops)
            endif()
        endif()
        target_link_libraries(${target} PRIVATE belay_static PkgConfig::CMOCKA
                              ${BELAY_LINK_PRIVATE})
        set_target_properties(${target} PROPERTIES
                              RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
        foreach(way IN LISTS ways)
            belay_test(${label}/${name}_${way} ${label} ${target} ${way})
            set_tests_properties(${label}/${name}_${way} PROPERTIES TIMEOUT 600 PROCESSORS 1 COST 200)
        endforeach()
        if(NOT ways)
            belay_test(${label}/${name} ${label} ${target})
        endif()
        if(label STREQUAL "unit" AND VALGRIND AND NOT BELAY_SANITIZE)
            belay_valgrind_test(${name} ${target})
        endif()
    endforeach()
endforeach()

# The simulation: core and the fallback in one thread, on a turned clock, a schedule from each seed.
set(BELAY_SIM_SCHEDULES "" CACHE STRING "Schedules of the simulation; empty: as many as fit CI")
file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/sim/*.c)
add_executable(sim ${sources})
target_include_directories(sim PRIVATE ${PROJECT_SOURCE_DIR})
target_compile_definitions(sim PRIVATE ${BELAY_LINUX})
target_link_libraries(sim PRIVATE belay_static ${BELAY_LINK_PRIVATE})
set_target_properties(sim PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
set(sim_schedules ${BELAY_SIM_SCHEDULES})
if(NOT sim_schedules)
    set(sim_schedules 1000000)
    if(BELAY_SANITIZE)
        set(sim_schedules 5000)
    endif()
endif()
math(EXPR sim_half "${sim_schedules} / 2")
belay_test(sim/seeds sim sim --seeds ${PROJECT_SOURCE_DIR}/tests/sim/seeds)
belay_test(sim/same_again sim sim --count 1000 --twice)
belay_test(sim/without_host_first_must_fail sim sim --must-fail --count 20000)
belay_test(sim/first_half sim sim --from 0 --count ${sim_half})
belay_test(sim/second_half sim sim --from 1000000000 --count ${sim_half})
set_tests_properties(sim/first_half sim/second_half PROPERTIES PROCESSORS 1 COST 300 TIMEOUT 1200)

# Preloaded into a redis-server, which no sanitizer knows of.
add_library(belay_clock_shim MODULE ${PROJECT_SOURCE_DIR}/tests/live/clock_shim.c)
target_compile_definitions(belay_clock_shim PRIVATE ${BELAY_LINUX})
target_compile_options(belay_clock_shim PRIVATE -fno-sanitize=all)
target_link_options(belay_clock_shim PRIVATE -fno-sanitize=all)
set_target_properties(belay_clock_shim PROPERTIES PREFIX ""
                      LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
list(APPEND test_env "BELAY_CLOCK_SHIM=set:$<TARGET_FILE:belay_clock_shim>")

file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/live/*_test.c)
foreach(source IN LISTS sources)
    cmake_path(GET source STEM stem)
    string(REGEX REPLACE "_test$" "" name ${stem})
    add_executable(live_${stem} ${source})
    target_compile_definitions(live_${stem} PRIVATE ${BELAY_LINUX})
    target_link_libraries(live_${stem} PRIVATE belay_harness belay_testing belay_static
                          PkgConfig::CMOCKA ${BELAY_LINK_PRIVATE})
    set_target_properties(live_${stem} PROPERTIES
                          RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
    add_dependencies(live_${stem} belay_clock_shim)
    # Issue 5 is open: these run by hand until they are steady (one run of redlock_faults beside other
    # work ended in a crash that has not been seen again).
    if(name MATCHES "^redlock_")
        continue()
    endif()
    belay_test(live/${name} live live_${stem})
    set_tests_properties(live/${name} PROPERTIES PROCESSORS 1 COST 100 TIMEOUT 300)
endforeach()

# Belay's side of live/peers: a program, as the others' are.
add_executable(belay_peer ${PROJECT_SOURCE_DIR}/tests/live/peers/belay_peer.c)
target_link_libraries(belay_peer PRIVATE belay_static ${BELAY_LINK_PRIVATE})
set_target_properties(belay_peer PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)

# tests/fuzz/NAME_fuzz.c is a libFuzzer target; here it is given what NAME_corpus/ has collected.
# With BELAY_FUZZ it is libFuzzer's (./dev check fuzz), without it cmake/fuzz_replay.c calls it.
file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/fuzz/*_fuzz.c)
add_custom_target(fuzzers)
foreach(source IN LISTS sources)
    cmake_path(GET source STEM stem)
    string(REGEX REPLACE "_fuzz$" "" name ${stem})
    add_executable(fuzz_${name} ${source})
    target_include_directories(fuzz_${name} PRIVATE ${PROJECT_SOURCE_DIR})
    target_compile_definitions(fuzz_${name} PRIVATE ${BELAY_LINUX} BELAY_VERSION="${PROJECT_VERSION}")
    target_link_libraries(fuzz_${name} PRIVATE belay_testing belay_static ${BELAY_LINK_PRIVATE})
    set_target_properties(fuzz_${name} PROPERTIES
                          RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
    add_dependencies(fuzzers fuzz_${name})
    if(BELAY_FUZZ)
        target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
    else()
        target_sources(fuzz_${name} PRIVATE ${PROJECT_SOURCE_DIR}/cmake/fuzz_replay.c)
        file(GLOB corpus CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/fuzz/${name}_corpus/*)
        belay_test(fuzz/${name} fuzz fuzz_${name} ${corpus})
    endif()
endforeach()

function(belay_script_tests label)   # *.sh and *_test.py; not lib*, common*
    file(GLOB scripts CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${label}/*.sh
         ${PROJECT_SOURCE_DIR}/tests/${label}/*_test.py)
    foreach(script IN LISTS scripts)
        cmake_path(GET script STEM name)
        cmake_path(GET script EXTENSION extension)
        if(name MATCHES "^(lib|common)")
            continue()
        endif()
        set(interpreter bash)
        if(extension STREQUAL ".py")
            set(interpreter python3)
        endif()
        belay_test(${label}/${name} ${label} ${interpreter} ${script})
    endforeach()
endfunction()

belay_script_tests(cli)

# A third-party backend must pass the suite it is offered.
if(BELAY_EXAMPLES)
    file(GLOB backend_examples CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/examples/*_backend.c)
    foreach(source IN LISTS backend_examples)
        cmake_path(GET source STEM name)
        if(TARGET example_${name})
            belay_test(contract/example_${name} contract example_${name})
        endif()
    endforeach()
endif()

# What follows looks at sources, models and installed files; a sanitizer adds nothing but trouble there.
if(NOT BELAY_SANITIZE)
    belay_script_tests(house)

    # What is always true of the protocol, and what comes true in the end: a minute of work, by
    # nothing of belay's that is built.
    foreach(part safety liveness)
        belay_test(model/${part} model bash ${PROJECT_SOURCE_DIR}/tests/model/run.sh ${part})
        set_tests_properties(model/${part} PROPERTIES TIMEOUT 600 COST 150)
    endforeach()

    file(GLOB headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/belay/*.h)
    foreach(header IN LISTS headers)
        cmake_path(GET header FILENAME name)
        belay_test(headers/${name} headers bash ${PROJECT_SOURCE_DIR}/tests/headers/alone.sh ${name})
    endforeach()

    belay_test(docs/self-check docs python3 ${PROJECT_SOURCE_DIR}/tests/docs/run.py --self-check)
    file(GLOB pages CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/README.md
         ${PROJECT_SOURCE_DIR}/CONTRIBUTING.md ${PROJECT_SOURCE_DIR}/docs/*.md)
    foreach(page IN LISTS pages)
        cmake_path(RELATIVE_PATH page BASE_DIRECTORY ${PROJECT_SOURCE_DIR} OUTPUT_VARIABLE path)
        string(REGEX REPLACE "^docs/" "" name ${path})
        belay_test(docs/${name} docs python3 ${PROJECT_SOURCE_DIR}/tests/docs/run.py ${path})
    endforeach()
endif()
