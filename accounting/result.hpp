// Errors as values: a Result holds a T or an errno. Only fs/serving turns an errno into a FUSE reply.
#pragma once

#include <optional>
#include <utility>
#include <variant>

namespace limaquota {

// A positive errno value, such as ENOSPC.
struct Errno {
  int value = 0;
  friend bool operator==(Errno, Errno) = default;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}       // NOLINT(google-explicit-constructor)
  Result(Errno error) : state_(std::in_place_index<1>, error) {}  // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return state_.index() == 0; }
  T& operator*() { return std::get<0>(state_); }
  const T& operator*() const { return std::get<0>(state_); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }
  // Only where the result holds an error.
  Errno error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Errno> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Errno error) : error_(error) {}  // NOLINT(google-explicit-constructor)
  explicit operator bool() const { return !error_; }
  Errno error() const { return *error_; }

 private:
  std::optional<Errno> error_;
};

}  // namespace limaquota
