#include "mount-helpers/programs/end_signals.hpp"

namespace limaquota {

EndSignals::EndSignals() {
  ::sigemptyset(&awaited_);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    ::sigaction(number, nullptr, &action);
    if (action.sa_handler != SIG_IGN) ::sigaddset(&awaited_, number);
  }
  ::pthread_sigmask(SIG_BLOCK, &awaited_, &before_);
  ::signal(SIGPIPE, SIG_IGN);  // to the end: what could not be written is tried again at exit
}

EndSignals::~EndSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

bool EndSignals::came(std::chrono::milliseconds wait) {
  if (came_) return true;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(wait);
  const timespec limit{seconds.count(), std::chrono::nanoseconds(wait - seconds).count()};
  came_ = ::sigtimedwait(&awaited_, nullptr, &limit) > 0;
  return came_;
}

}  // namespace limaquota
