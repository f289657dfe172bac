# CPack lists the file of its package of debug symbols where it lay while it was packed, and leaves the package without
# what each has below /usr/share/doc: so it is packed once more.
foreach(package ${CPACK_PACKAGE_FILES})
  if(NOT package MATCHES "\\.ddeb$")
    continue()
  endif()
  set(tree ${package}.tree)
  file(REMOVE_RECURSE ${tree})
  execute_process(COMMAND dpkg-deb --raw-extract ${package} ${tree} COMMAND_ERROR_IS_FATAL ANY)
  file(GLOB_RECURSE symbols RELATIVE ${tree} ${tree}/usr/lib/debug/*)
  set(sums "")
  foreach(file ${symbols})
    file(CHMOD ${tree}/${file} PERMISSIONS OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ)
    file(MD5 ${tree}/${file} sum)
    string(APPEND sums "${sum}  ${file}\n")
  endforeach()
  file(WRITE ${tree}/DEBIAN/md5sums "${sums}")
  file(MAKE_DIRECTORY ${tree}/usr/share/doc)
  file(CREATE_LINK limaquota ${tree}/usr/share/doc/limaquota-dbgsym SYMBOLIC)
  # As CPack compresses: xz would take a minute for them.
  execute_process(COMMAND dpkg-deb --root-owner-group -Zgzip --build ${tree} ${package} OUTPUT_QUIET
    COMMAND_ERROR_IS_FATAL ANY)
  file(REMOVE_RECURSE ${tree})
endforeach()
