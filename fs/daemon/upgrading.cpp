#include "fs/daemon/upgrading.hpp"

#include <fcntl.h>
#include <unistd.h>

#include "fs/daemon/upgrade.hpp"
#include "fs/system/fd.hpp"
#include "fs/system/log.hpp"

namespace limaquota {
namespace {
using namespace std::chrono_literals;
// A new version has so long to come up, and serves for so long before the one before is given up.
constexpr auto upgrade_patience = 60s;
constexpr auto proof_of_life = 2s;
}  // namespace

void Upgrading::go_on(const std::function<bool()>& end_worker, pid_t prober) {
  const pid_t asker = *asker_;
  asker_.reset();
  const bool restartable = notes_.connection.restartable;
  if (!restartable) log_warning("no upgrade: nobody can take over from this worker");
  const auto binary = restartable ? binary_of(asker, notes_) : std::nullopt;
  Fd own(binary ? ::open("/proc/self/exe", O_PATH | O_CLOEXEC) : -1);
  if (!own || !end_worker()) {
    ++notes_.upgrade.refused;
    return;
  }
  notes_.process.prober = prober;
  notes_.descriptors.of(own.get()).set_use(DescriptorUse::lasting);
  notes_.upgrade.previous = own.release() + 1;
  become(binary->get(), notes_);
  forget_previous();
  ++notes_.upgrade.failed;
}

bool Upgrading::is_overdue(std::chrono::steady_clock::time_point worker_started) const {
  return is_under_way() && std::chrono::steady_clock::now() - worker_started > upgrade_patience;
}

void Upgrading::look_at_serving(pid_t worker) {
  if (!is_under_way()) return;
  using Clock = std::chrono::steady_clock;
  const int64_t since = notes_.process.serving_since;
  if (notes_.process.answered <= since ||
      Clock::now().time_since_epoch() - Clock::duration(since) < proof_of_life)
    return;
  forget_previous();
  ++notes_.upgrade.done;
  log_info("upgraded: the worker is process {} now", worker);
}

void Upgrading::go_back(pid_t prober) {
  log_error("the new version does not come up: going back to the one before");
  const int previous = notes_.upgrade.previous - 1;
  notes_.upgrade.previous = 0;
  ++notes_.upgrade.failed;
  notes_.process.prober = prober;
  become(previous, notes_);
}

void Upgrading::forget_previous() {
  const int previous = notes_.upgrade.previous - 1;
  notes_.upgrade.previous = 0;
  notes_.descriptors.of(previous).set_use(DescriptorUse::passing);
  ::close(previous);
}

}  // namespace limaquota
