// An account that is busy queues its requests, and keeps nobody else waiting.
#include "fs/serving/gates.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace limaquota {
namespace {

TEST(GatesTest, WhatQueuesIsServedInOrderByThoseInside) {
  Gates gates;
  std::mutex mutex;
  std::condition_variable changed;
  unsigned inside = 0;
  bool open = false;
  std::vector<std::string> served;
  const auto serve = [&](char* data, size_t size) {
    const std::string request(data, size);
    std::unique_lock lock(mutex);
    ++inside;
    changed.notify_all();
    if (request == "slow") changed.wait(lock, [&] { return open; });
    served.push_back(request);
  };
  std::string slow = "slow";
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < Gates::most_inside; ++i)
    threads.emplace_back([&] { gates.pass(1, slow.data(), slow.size(), serve); });
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return inside == Gates::most_inside; });
  }
  std::string first = "first";
  std::string second = "second";
  gates.pass(1, first.data(), first.size(), serve);  // come back at once
  gates.pass(1, second.data(), second.size(), serve);
  std::string other = "other";
  gates.pass(2, other.data(), other.size(), serve);
  {
    const std::lock_guard lock(mutex);
    ASSERT_EQ(served, std::vector<std::string>{"other"});
    open = true;
    changed.notify_all();
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(served.size(), Gates::most_inside + 3U);
  const auto at = [&](const char* name) {
    return std::find(served.begin(), served.end(), name) - served.begin();
  };
  EXPECT_LT(at("first"), static_cast<long>(served.size()));
  EXPECT_LT(at("second"), static_cast<long>(served.size()));
}

}  // namespace
}  // namespace limaquota
