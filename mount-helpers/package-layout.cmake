# What Debian wants otherwise than `cmake --install` leaves it, done to the tree that CPack packs.
file(GLOB roots LIST_DIRECTORIES true ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/usr ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/*/usr)
foreach(root ${roots})
  file(GLOB pages ${root}/share/man/man*/*)
  execute_process(COMMAND gzip -9n ${pages} COMMAND_ERROR_IS_FATAL ANY)
  file(RENAME ${root}/share/zsh/site-functions ${root}/share/zsh/vendor-completions)
  set(documents ${root}/share/doc/limaquota)
  file(COPY ${CMAKE_CURRENT_LIST_DIR}/debian/copyright DESTINATION ${documents})
  # Its newest entry is of this very package.
  file(READ ${CMAKE_CURRENT_LIST_DIR}/debian/changelog changelog)
  string(REGEX REPLACE "^limaquota \\([^)]*\\)" "limaquota (${CPACK_DEBIAN_PACKAGE_VERSION})" changelog "${changelog}")
  file(WRITE ${documents}/changelog "${changelog}")
  execute_process(COMMAND gzip -9n ${documents}/changelog COMMAND_ERROR_IS_FATAL ANY)
endforeach()
