# One program for each bench/*.c, named bench_<file>; `./dev bench` runs them. Other .c files of a
# bench are helpers when they start with "common".
file(GLOB bench_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/bench/*.c)
set(bench_common ${bench_sources})
list(FILTER bench_common INCLUDE REGEX "/common[^/]*\\.c$")
list(FILTER bench_sources EXCLUDE REGEX "/common[^/]*\\.c$")
if(NOT TARGET PkgConfig::HIREDIS)
    pkg_check_modules(HIREDIS REQUIRED IMPORTED_TARGET hiredis>=0.14)
endif()
add_custom_target(benches)
foreach(source IN LISTS bench_sources)
    cmake_path(GET source STEM name)
    add_executable(bench_${name} EXCLUDE_FROM_ALL ${source} ${bench_common})
    # The floors are measured with the bare libraries, so benches may use them; of ours, belay.h alone.
    target_link_libraries(bench_${name} PRIVATE belay_static ${BELAY_LINK_PRIVATE}
                          PkgConfig::HIREDIS m)
    target_compile_definitions(bench_${name} PRIVATE BENCH_SOURCES="${PROJECT_SOURCE_DIR}/bench")
    set_target_properties(bench_${name} PROPERTIES
                          RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
    add_dependencies(benches bench_${name})
endforeach()
# The delaying relay of the tests, which bench_redlock puts before its servers.
target_sources(bench_redlock PRIVATE ${PROJECT_SOURCE_DIR}/tests/fake/relay.c
                                     ${PROJECT_SOURCE_DIR}/tests/fake/request.c)
target_include_directories(bench_redlock PRIVATE ${PROJECT_SOURCE_DIR})
