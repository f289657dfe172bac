// Which requests are in service, by the threads that serve them: notes in the memory that outlives a worker.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "fs/handover/intent.hpp"

namespace limaquota {

// One for each thread that serves requests that may not be carried out twice. Thread safety: written by its
// thread, word by word; read by the worker that takes over.
class RequestNote {
 public:
  std::atomic<int> opened;       // descriptor that was opened for it, plus one
  std::atomic<uint32_t> served;  // by the worker after so many restarts
  std::atomic<uint64_t> unique;  // the request in service; 0: none

  void set_intent(const IntentWords& intent);
  // `kind` 0: none is noted.
  IntentWords intent() const;

 private:
  friend class RequestNotes;
  std::atomic<bool> taken_;
  std::atomic<uint8_t> kind_;  // written last
  std::atomic<uint64_t> first_, second_;
  std::atomic<uint32_t> third_;
};

// Lies in shared memory that is zero at first.
class RequestNotes {
 public:
  // For the calling thread, until it is given back; null where there is none left.
  RequestNote* take();
  static void give_back(RequestNote& note) { note.taken_ = false; }
  // At the start of a worker that takes over: those of the threads that died are free once their requests
  // came again.
  void release_all(uint32_t restarts);
  std::span<RequestNote> used() { return {notes_, used_}; }
  // Whether a request in service has this descriptor as opened for it.
  bool is_opened(int fd) const;
  // From now on none has.
  void forget_opened(int fd);

 private:
  static constexpr size_t most = 4096;
  RequestNote notes_[most];
  std::atomic<uint32_t> used_;  // those beyond were never taken
};

}  // namespace limaquota
