# One program for each examples/*.c, linked as a user's would be: with the shared library. A
# *_backend.c is a third-party backend that runs the conformance suite on itself.
file(GLOB example_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/examples/*.c)
foreach(source IN LISTS example_sources)
    cmake_path(GET source STEM name)
    if(name MATCHES "_backend$" AND NOT TARGET belay_testing)
        continue()
    endif()
    add_executable(example_${name} ${source})
    set_target_properties(example_${name} PROPERTIES OUTPUT_NAME ${name}
                          RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/examples)
    if(name MATCHES "_backend$")
        target_link_libraries(example_${name} PRIVATE belay_testing)
    endif()
    target_link_libraries(example_${name} PRIVATE belay Threads::Threads)
endforeach()
