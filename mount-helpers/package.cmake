# `cpack --config build/release/CPackConfig.cmake` makes a package for the Debian or Ubuntu that it is built on, and one with
# the debug symbols, NAME-dbgsym, beside it.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME limaquota)
# Who builds a package answers for it, and Debian's tools know him by these two. The project itself has no mailbox, and this
# address says so: nobody can ever have one below .invalid (RFC 2606).
set(maintainer "$ENV{DEBFULLNAME} <$ENV{DEBEMAIL}>")
if("$ENV{DEBFULLNAME}" STREQUAL "" OR "$ENV{DEBEMAIL}" STREQUAL "")
  set(maintainer "The limaquota developers <noreply@limaquota.invalid>")
endif()
set(CPACK_PACKAGE_CONTACT "${maintainer}")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "hard disk budgets for Lima virtual machines")
set(CPACK_PACKAGE_DESCRIPTION "A FUSE filesystem that covers a Lima home in place and holds each VM
to a hard disk budget: a sparse disk can no longer fill the host. A VM that
meets its limit is paused, not damaged.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_CURRENT_LIST_DIR}/package-layout.cmake)

# What it links is this release's, and so is the package: the version names the release, in the order of releases, and below
# what Debian itself would call the same version.
set(release "")
if(EXISTS /etc/os-release)
  file(STRINGS /etc/os-release os_release)
  foreach(key ID VERSION_ID VERSION_CODENAME)
    set(${key} "")
    foreach(line ${os_release})
      if(line MATCHES "^${key}=\"?([a-z0-9.]+)\"?$")
        set(${key} ${CMAKE_MATCH_1})
      endif()
    endforeach()
  endforeach()
  if(VERSION_ID STREQUAL "")  # Debian before its release
    set(VERSION_ID ${VERSION_CODENAME})
  endif()
  string(REGEX REPLACE "^debian$" "deb" ID "${ID}")
  set(release "~${ID}${VERSION_ID}")
endif()
set(CPACK_DEBIAN_PACKAGE_VERSION ${PROJECT_VERSION}${release})
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# It strips the program too; CPACK_STRIP_FILES would do so before the symbols are taken.
set(CPACK_DEBIAN_DEBUGINFO_PACKAGE ON)
set(CPACK_POST_BUILD_SCRIPTS ${CMAKE_CURRENT_LIST_DIR}/package-symbols.cmake)
set(CPACK_DEBIAN_PACKAGE_DEPENDS fuse3)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_CURRENT_LIST_DIR}/debian/postinst)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "qemu-utils, qemu-system-common")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libnotify-bin, prometheus-node-exporter")

file(READ ${CMAKE_CURRENT_LIST_DIR}/debian/changelog changelog)
if(NOT changelog MATCHES "^limaquota \\(${PROJECT_VERSION}\\)")
  message(FATAL_ERROR "mount-helpers/debian/changelog has no entry for ${PROJECT_VERSION}")
endif()
include(CPack)
