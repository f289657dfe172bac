# `cpack --config build/release/CPackConfig.cmake` makes a package for Debian and Ubuntu.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME limaquota)
set(CPACK_PACKAGE_CONTACT "The limaquota developers <limaquota@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "hard disk budgets for Lima virtual machines")
set(CPACK_PACKAGE_DESCRIPTION "A FUSE filesystem that covers a Lima home in place and holds each VM
to a hard disk budget: a sparse disk can no longer fill the host. A VM that
meets its limit is paused, not damaged.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_CURRENT_LIST_DIR}/package-layout.cmake)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS fuse3)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "qemu-utils, qemu-system-common")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libnotify-bin, prometheus-node-exporter")
include(CPack)
