// The settler: a thread that looks at each inode of the settle list ten times a second, until nothing can
// come late of it any more. What else must be done now and then is done by it as well (Hooks::each_look).
#pragma once

#include <chrono>
#include <functional>
#include <thread>

#include "accounting/mutex.hpp"
#include "fs/backing/backing.hpp"
#include "fs/metering/inode.hpp"
#include "fs/metering/inode_charge.hpp"
#include "fs/metering/settle_list.hpp"
#include "fs/metering/settling.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread.
class Settler {
 public:
  Settler(const Backing& backing, Ledger& ledger, SettleList& list, InodeCharges& charges, Settling& settling)
      : backing_(backing), ledger_(ledger), list_(list), charges_(charges), settling_(settling) {}
  ~Settler() { stop(); }
  Settler(const Settler&) = delete;
  Settler& operator=(const Settler&) = delete;

  struct Hooks {
    std::function<void(const InodePtr&)> let_go;  // an inode is off the list
    std::function<void()> each_look;              // called every time
    std::function<void()> on_thrown;              // a look was broken off by an exception
  };
  void start(Hooks hooks);
  void stop();
  // Calls `each_look` soon, without waiting for the next look at the list.
  void hurry();

 private:
  enum class Crowd : uint8_t { few, many };
  // What it was woken for.
  enum class Woken : uint8_t { by_time, to_hurry, to_stop };
  Woken wait(std::chrono::steady_clock::time_point until);
  void guarded(const std::function<void()>& look);
  void run();
  void look_at_all();
  void look_at(const InodePtr& inode, Crowd crowd);

  const Backing& backing_;
  Ledger& ledger_;
  SettleList& list_;
  InodeCharges& charges_;
  Settling& settling_;
  Hooks hooks_;
  std::thread thread_;

  Mutex mutex_;
  Condition wake_;
  bool stopping_ GUARDED_BY(mutex_) = false;
  bool hurried_ GUARDED_BY(mutex_) = false;
};

}  // namespace limaquota
