// What the files below `.quota` show while they are written.
#include "fs/limits/limit_files.hpp"
#include "fs/limits/limit_store.hpp"
#include "fs/texts/quota_files.hpp"
#include "tests/seam/seam_home.hpp"

namespace limaquota {
namespace {

struct QuotaHome : SeamHome {
  QuotaHome()
      : SeamHome(MemoryRules::ext4()),
        files(backing),
        store(backing, ledger, files),
        quota(backing, store, *notes) {
    EXPECT_TRUE(store.put("vm", "limit 64MiB\nwarn 50%\n"));
  }
  void write(std::string_view text, uint64_t offset) {
    const auto written = quota.write("vm", text, offset, writer);
    EXPECT_TRUE(written && *written == text.size());
  }
  static constexpr uint64_t writer = 3;

  LimitFiles files;
  LimitStore store;
  QuotaFiles quota;
};

// The kernel tells of a close some time after it: whoever reads at once finds the whole text all the same.
TEST(QuotaTextsTest, WhatIsInForceIsShownBeforeItsWriterHasClosed) {
  QuotaHome home;
  home.quota.open_for_writing("vm", QuotaHome::writer);
  EXPECT_TRUE(home.quota.set_size("vm", 0));
  home.write("96MiB\n", 0);
  EXPECT_EQ(home.quota.text("vm"), home.store.text("vm"));
  EXPECT_NE(home.quota.text("vm").find("warn 50%"), std::string::npos) << home.quota.text("vm");
}

TEST(QuotaTextsTest, WhatIsNotInForceIsShownAsItWasWritten) {
  QuotaHome home;
  home.quota.open_for_writing("vm", QuotaHome::writer);
  EXPECT_TRUE(home.quota.set_size("vm", 0));
  EXPECT_EQ(home.quota.text("vm"), "limit 64MiB\nwarn 50%\n") << "an empty text stands for nothing";
  home.write("limit 12", 0);
  EXPECT_EQ(home.quota.text("vm"), "limit 12");
  home.write("8MiB\n", 8);
  EXPECT_EQ(home.store.text("vm"), "limit 128MiB\n");
}

}  // namespace
}  // namespace limaquota
