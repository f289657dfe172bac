#include "accounting/layout.hpp"

#include <gtest/gtest.h>

namespace limaquota {
namespace {

TEST(Layout, NamesWithADotOrAnUnderscoreInFrontAreNoVms) {
  EXPECT_TRUE(is_vm_name("default"));
  EXPECT_TRUE(is_vm_name("a.b_c"));
  EXPECT_TRUE(is_vm_name("\xff\n evil"));
  for (const char* name : {"", ".", "..", ".usage", ".quota", "_disks", "_config", "_shared", "_"}) {
    EXPECT_FALSE(is_vm_name(name)) << name;
    EXPECT_FALSE(account_of_home_directory(name)) << name;
  }
}

TEST(Layout, AVmDirectoryIsItsOwnAccount) {
  EXPECT_EQ(account_of_home_directory("kernel-build"), "kernel-build");
}

TEST(Layout, ADiskAccountIsNamedByItsPath) { EXPECT_EQ(account_of_disk("data"), "_disks/data"); }

TEST(Layout, OnlyTheImagesAreDiskFiles) {
  for (const char* name : {"disk", "diffdisk", "basedisk", "image", "iso", "datadisk"}) {
    EXPECT_TRUE(is_disk_file_name(name)) << name;
  }
  for (const char* name :
       {"", "disk.tmp", "Disk", "lima.yaml", "ha.sock", "serial.log", "cidata.iso", "in_use_by", "dis"}) {
    EXPECT_FALSE(is_disk_file_name(name)) << name;
  }
}

}  // namespace
}  // namespace limaquota
