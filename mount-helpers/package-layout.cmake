# What Debian wants otherwise than `cmake --install` leaves it, done to the tree that CPack packs.
file(GLOB roots LIST_DIRECTORIES true ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/usr ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/*/usr)
foreach(root ${roots})
  file(GLOB pages ${root}/share/man/man*/*)
  execute_process(COMMAND gzip -9n ${pages} COMMAND_ERROR_IS_FATAL ANY)
  file(RENAME ${root}/share/zsh/site-functions ${root}/share/zsh/vendor-completions)
  file(WRITE ${root}/share/doc/limaquota/copyright
       "Copyright: the limaquota developers\nLicense: Apache-2.0, see /usr/share/common-licenses/Apache-2.0\n")
endforeach()
