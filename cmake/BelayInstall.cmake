# What `./dev install` puts where: headers, both libraries, the command line, pkg-config files that
# find their prefix by themselves, and the files behind find_package(belay).
include(CMakePackageConfigHelpers)

set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/belay)
install(TARGETS belay EXPORT belay
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} NAMELINK_COMPONENT devel)
install(TARGETS belay_static EXPORT belay ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/belay DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h")
if(TARGET belay_testing)
    install(TARGETS belay_testing EXPORT belay ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
if(TARGET belay_cli)
    install(TARGETS belay_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(EXISTS ${PROJECT_SOURCE_DIR}/config)
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/config/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/config
            FILES_MATCHING PATTERN "*.conf")
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(EXPORT belay NAMESPACE belay:: FILE belayTargets.cmake DESTINATION ${config_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/belayConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/generated/belayConfig.cmake
                              INSTALL_DESTINATION ${config_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/generated/belayConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/generated/belayConfig.cmake
              ${PROJECT_BINARY_DIR}/generated/belayConfigVersion.cmake
        DESTINATION ${config_dir})

# prefix is relative to the .pc file, so `cmake --install --prefix` and a moved tree both work.
set(pc_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY ${CMAKE_INSTALL_PREFIX}/${pc_dir}
           OUTPUT_VARIABLE BELAY_PC_PREFIX)
string(REGEX REPLACE "/$" "" BELAY_PC_PREFIX "${BELAY_PC_PREFIX}")
# The libraries themselves, not Requires.private: that would pull in what *they* say of static
# linking, and Debian's sqlite3.pc names -lz, which its own package does not bring along.
list(FILTER BELAY_PC_LIBS_PRIVATE EXCLUDE REGEX "^-L/usr/lib")
list(JOIN BELAY_PC_LIBS_PRIVATE " " BELAY_PC_LIBS_PRIVATE)
foreach(pc belay belay-testing)
    configure_file(${PROJECT_SOURCE_DIR}/cmake/${pc}.pc.in
                   ${PROJECT_BINARY_DIR}/generated/${pc}.pc @ONLY)
endforeach()
install(FILES ${PROJECT_BINARY_DIR}/generated/belay.pc DESTINATION ${pc_dir})
if(TARGET belay_testing)
    install(FILES ${PROJECT_BINARY_DIR}/generated/belay-testing.pc DESTINATION ${pc_dir})
endif()
