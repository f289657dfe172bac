// accounting/ knows nothing of FUSE: this binary links it and nothing of fs/.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <link.h>

#include <string>
#include <string_view>
#include <vector>

namespace {

int collect(dl_phdr_info* info, size_t, void* names) {
  static_cast<std::vector<std::string>*>(names)->emplace_back(info->dlpi_name);
  return 0;
}

TEST(NoLibfuse, IsNotAmongTheLoadedObjects) {
  std::vector<std::string> names;
  dl_iterate_phdr(collect, &names);
  ASSERT_GT(names.size(), 1u) << "the list must hold the C library at least";
  for (const std::string& name : names) EXPECT_EQ(name.find("libfuse"), std::string::npos) << name;
}

TEST(NoLibfuse, IsNotLinkedStaticallyEither) { EXPECT_EQ(dlsym(RTLD_DEFAULT, "fuse_session_new"), nullptr); }

}  // namespace
