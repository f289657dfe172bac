// The limit files through a crash at every system call: what is in force afterwards is the old text or the
// new one.
#include <stdexcept>

#include "fs/limits/limit_files.hpp"
#include "fs/limits/limit_follows.hpp"
#include "fs/limits/limit_store.hpp"
#include "tests/seam/seam_home.hpp"

namespace limaquota {
namespace {

struct Crash : std::runtime_error {
  Crash() : std::runtime_error("crash") {}
};

// A daemon's life on a filesystem that stays.
struct Daemon {
  explicit Daemon(MemorySys& sys)
      : backing(sys, sys.open_root(), ""),
        files(backing),
        store(backing, ledger, files),
        follows(backing, store) {
    ledger.set_host_reserve(Bytes(0));
    EXPECT_TRUE(store.load());
    follows.end_renames();
  }
  Backing backing;
  Ledger ledger;
  LimitFiles files;
  LimitStore store;
  LimitFollows follows;
};

// Does `change` again and again, each time on a new filesystem, with a crash one system call later; after
// each crash, and at last without one, `check` sees what the next daemon finds.
void crash_at_each_call(const std::function<void(MemorySys&)>& prepare,
                        const std::function<void(MemorySys&, Daemon&)>& change,
                        const std::function<void(Daemon&)>& check) {
  for (uint64_t crash_at = 1;; ++crash_at) {
    SCOPED_TRACE("a crash after call " + std::to_string(crash_at));
    MemorySys sys(MemoryRules::ext4());
    prepare(sys);
    Daemon daemon(sys);
    const uint64_t before = sys.calls();
    sys.after_call = [&](const char*) {
      if (sys.calls() - before == crash_at) throw Crash();
    };
    bool crashed = false;
    try {
      change(sys, daemon);
    } catch (const Crash&) {
      crashed = true;
    }
    sys.after_call = {};
    Daemon next(sys);
    check(next);
    if (!crashed || testing::Test::HasFailure()) return;
    ASSERT_LT(crash_at, 1000U);
  }
}

void make_vm(MemorySys& sys, const char* name) {
  const Fd root = sys.open_root();
  (void)!sys.mkdirat(root.get(), name, 0755);
}

TEST(LimitFilesTest, ATextIsTheOldOneOrTheNewOne) {
  crash_at_each_call(
      [](MemorySys& sys) {
        make_vm(sys, "vm");
        Daemon first(sys);
        ASSERT_TRUE(first.store.put("vm", "limit 1GiB\n"));
      },
      [](MemorySys&, Daemon& daemon) { (void)!daemon.store.put("vm", "limit 2GiB\n"); },
      [](Daemon& next) {
        const auto text = next.store.text("vm");
        ASSERT_TRUE(text);
        EXPECT_TRUE(*text == "limit 1GiB\n" || *text == "limit 2GiB\n") << *text;
      });
}

// The name of the VM changes by the filesystem's own rename(2), between the two steps of its limit.
TEST(LimitFilesTest, ALimitIsNeverLostByARename) {
  crash_at_each_call(
      [](MemorySys& sys) {
        make_vm(sys, "old");
        Daemon first(sys);
        ASSERT_TRUE(first.store.put("old", "limit 1GiB\n"));
      },
      [](MemorySys& sys, Daemon& daemon) {
        daemon.follows.prepare("old", "new");
        const Fd root = sys.open_root();
        if (sys.renameat2(root.get(), "old", root.get(), "new", 0)) daemon.follows.follow("old", "new");
      },
      [](Daemon& next) {
        const bool renamed = next.backing.sys().fstatat(next.backing.root(), "new", 0).operator bool();
        const auto text = next.store.text(renamed ? "new" : "old");
        ASSERT_TRUE(text) << "the limit of " << (renamed ? "new" : "old") << " is lost";
        EXPECT_EQ(*text, "limit 1GiB\n");
        EXPECT_FALSE(next.store.text(renamed ? "old" : "new")) << "it has two limits";
      });
}

TEST(LimitFilesTest, ADamagedFileLeavesTheDefaultInForce) {
  MemorySys sys(MemoryRules::ext4());
  make_vm(sys, "vm");
  {
    Daemon first(sys);
    ASSERT_TRUE(first.store.put("vm", "limit 1GiB\n"));
    ASSERT_TRUE(first.store.put("_default", "limit 3GiB\n"));
    first.files.mutex.lock();
    EXPECT_TRUE(first.files.write("vm", "limit gone mad\n").in_place);
    first.files.mutex.unlock();
  }
  Daemon next(sys);
  (void)next.ledger.open("vm");
  next.store.apply("vm");
  const auto figures = next.ledger.figures("vm", Bytes::unlimited());
  EXPECT_EQ(figures->limit, 3_GiB);
  EXPECT_EQ(figures->state, AccountState::damaged);
}

}  // namespace
}  // namespace limaquota
