// Mutexes that clang's thread-safety analysis follows: each guarded field names its mutex, each function the
// mutexes that its caller holds, and `tests/lint.sh locks` compiles that. Other compilers see nothing of it.
// The attributes: https://clang.llvm.org/docs/ThreadSafetyAnalysis.html
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define LIMAQUOTA_ATTRIBUTE(x) __attribute__((x))
#else
#define LIMAQUOTA_ATTRIBUTE(x)
#endif

// Of a field: read and written by who holds the mutex.
#define GUARDED_BY(mutex) LIMAQUOTA_ATTRIBUTE(guarded_by(mutex))
// Of a function: its caller holds these, before and after; or holds none of these.
#define REQUIRES(...) LIMAQUOTA_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) LIMAQUOTA_ATTRIBUTE(locks_excluded(__VA_ARGS__))
// Of a function: locks them, or lets them go.
#define ACQUIRES(...) LIMAQUOTA_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define RELEASES(...) LIMAQUOTA_ATTRIBUTE(release_capability(__VA_ARGS__))
#define TRIES_TO_ACQUIRE(...) LIMAQUOTA_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
// Of a function whose safety has another reason, told beside it.
#define UNCHECKED_LOCKS LIMAQUOTA_ATTRIBUTE(no_thread_safety_analysis)

namespace limaquota {

// A std::mutex.
class LIMAQUOTA_ATTRIBUTE(capability("mutex")) Mutex {
 public:
  void lock() ACQUIRES() { mutex_.lock(); }
  void unlock() RELEASES() { mutex_.unlock(); }
  bool try_lock() TRIES_TO_ACQUIRE(true) { return mutex_.try_lock(); }

 private:
  friend class Condition;
  std::mutex mutex_;
};

// Holds a mutex for as long as it lives.
class LIMAQUOTA_ATTRIBUTE(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRES(mutex) : mutex_(mutex) { mutex_.lock(); }
  // Of one that is locked already, by try_lock.
  MutexLock(Mutex& mutex, std::adopt_lock_t) REQUIRES(mutex) : mutex_(mutex) {}
  ~MutexLock() RELEASES() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Lets a mutex that the caller holds go for as long as it lives, and locks it again.
class LIMAQUOTA_ATTRIBUTE(scoped_lockable) MutexUnlock {
 public:
  explicit MutexUnlock(Mutex& mutex) RELEASES(mutex) : mutex_(mutex) { mutex_.unlock(); }
  ~MutexUnlock() RELEASES() { mutex_.lock(); }  // of a scope that released: acquires
  MutexUnlock(const MutexUnlock&) = delete;
  MutexUnlock& operator=(const MutexUnlock&) = delete;

 private:
  Mutex& mutex_;
};

// A std::condition_variable. The caller holds the mutex, which is let go while it waits. It may wake for no
// reason: wait in a loop.
class Condition {
 public:
  void wait(Mutex& mutex) REQUIRES(mutex) {
    const Adopted adopted(mutex.mutex_);
    condition_.wait(*adopted);
  }
  // False once the time has come.
  template <class Clock, class Duration>
  bool wait_until(Mutex& mutex, std::chrono::time_point<Clock, Duration> until) REQUIRES(mutex) {
    const Adopted adopted(mutex.mutex_);
    return condition_.wait_until(*adopted, until) == std::cv_status::no_timeout;
  }
  void notify_one() { condition_.notify_one(); }
  void notify_all() { condition_.notify_all(); }

 private:
  // The lock that std::condition_variable asks for, of a mutex that stays locked.
  class Adopted {
   public:
    explicit Adopted(std::mutex& mutex) : lock_(mutex, std::adopt_lock) {}
    Adopted(const Adopted&) = delete;
    Adopted& operator=(const Adopted&) = delete;
    ~Adopted() { lock_.release(); }
    std::unique_lock<std::mutex>& operator*() const { return lock_; }

   private:
    mutable std::unique_lock<std::mutex> lock_;
  };
  std::condition_variable condition_;
};

}  // namespace limaquota
