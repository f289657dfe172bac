// Gates: how many threads an account may hold inside the backing filesystem. Beyond that its requests queue
// on the account, not on a thread, so that one VM's slow fsyncs never keep another VM, `.usage` or a limit
// waiting.
#pragma once

#include <deque>
#include <functional>
#include <unordered_map>
#include <vector>

#include "accounting/ledger.hpp"
#include "accounting/mutex.hpp"

namespace limaquota {

// Thread safety: all functions may be called from any thread; no lock is held while a request is served.
class Gates {
 public:
  static constexpr unsigned most_inside = 8;
  using Request = std::vector<char>;

  // Serves the request, and then whatever queued on the account meanwhile; or, where too many are inside,
  // puts a copy into the queue and returns at once.
  template <class Serve>
  void pass(AccountId account, char* data, size_t size, Serve serve) {
    {
      const MutexLock lock(mutex_);
      Gate& gate = gates_[account];
      if (gate.inside >= most_inside) {
        gate.waiting.emplace_back(data, data + size);
        return;
      }
      ++gate.inside;
    }
    serve(data, size);
    for (;;) {
      Request next;
      {
        const MutexLock lock(mutex_);
        Gate& gate = gates_[account];
        if (gate.waiting.empty()) {
          --gate.inside;
          return;
        }
        next = std::move(gate.waiting.front());
        gate.waiting.pop_front();
      }
      serve(next.data(), next.size());
    }
  }

 private:
  struct Gate {
    unsigned inside = 0;
    std::deque<Request> waiting;
  };
  Mutex mutex_;
  std::unordered_map<AccountId, Gate> gates_ GUARDED_BY(mutex_);
};

}  // namespace limaquota
