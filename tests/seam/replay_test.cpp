// A request that comes again finds what was noted of it, by the kind of its operation.
#include <gtest/gtest.h>

#include <cstddef>
#include <new>
#include <optional>

#include "fs/handover/handles.hpp"
#include "fs/handover/replay.hpp"

namespace limaquota {
namespace {

constexpr uint64_t sent_again = uint64_t{1} << 63;

TEST(ReplayTest, NothingIsKnownOfAFirstTime) {
  const auto notes = Notes::unshared();
  Replay replay(*notes, {});
  const Replay::InService serving(replay, 7, Replay::Makes::no_file);
  EXPECT_FALSE(replay.comes_again());
  EXPECT_FALSE(replay.earlier<MakesName>());
}

// A thread whose worker was killed: it never comes to the end of its request, nor of itself.
struct Killed {
  Killed(Notes& notes, uint64_t unique) : replay(new (memory) Replay(notes, {})) {
    new (in_service) Replay::InService(*replay, unique, Replay::Makes::no_file);
  }
  alignas(Replay) std::byte memory[sizeof(Replay)];
  alignas(Replay::InService) std::byte in_service[sizeof(Replay::InService)];
  Replay* replay;
};

void die_after(Notes& notes, uint64_t unique, const Intent& intent) {
  const Killed killed(notes, unique);
  killed.replay->intend(intent);
}

template <class Kind>
std::optional<Kind> again(Notes& notes, uint64_t unique) {
  notes.requests.release_all(notes.process.restarts);
  Replay replay(notes, {});
  const Replay::InService serving(replay, unique | sent_again, Replay::Makes::no_file);
  return replay.earlier<Kind>();
}

TEST(ReplayTest, EachKindComesBackAsItWasNoted) {
  const auto notes = Notes::unshared();
  die_after(*notes, 1, TakesNameAway{42});
  die_after(*notes, 2, RenamesInode{3, 4, LimitGoes::back});
  die_after(*notes, 3, OpensUp{0640});
  die_after(*notes, 4, OpensText{99});
  EXPECT_EQ(again<TakesNameAway>(*notes, 1)->inode, 42U);
  const auto renames = again<RenamesInode>(*notes, 2);
  ASSERT_TRUE(renames);
  EXPECT_EQ(renames->source, 3U);
  EXPECT_EQ(renames->target, 4U);
  EXPECT_EQ(renames->limit, LimitGoes::back);
  EXPECT_EQ(again<OpensUp>(*notes, 3)->mode, 0640U);
  EXPECT_EQ(again<OpensText>(*notes, 4)->handle, 99U);
}

TEST(ReplayTest, AnotherKindIsNotTakenForIt) {
  const auto notes = Notes::unshared();
  die_after(*notes, 1, MakesName{});
  EXPECT_FALSE(again<TakesNameAway>(*notes, 1));
}

TEST(ReplayTest, WhatWasFoundIsNotedForTheNextWorkerToo) {
  const auto notes = Notes::unshared();
  die_after(*notes, 1, TakesNameAway{42});
  const Killed next(*notes, 1 | sent_again);
  EXPECT_EQ(again<TakesNameAway>(*notes, 1)->inode, 42U);
}

TEST(HandleTest, IsGivenBackOnce) {
  const auto notes = Notes::unshared();
  Replay replay(*notes, {});
  const uint64_t handle = handle_of(17, DescriptorUse::file, *notes, replay);
  EXPECT_EQ(descriptor_of(handle), 17);
  EXPECT_TRUE(give_back_handle(handle, *notes));
  EXPECT_FALSE(give_back_handle(handle, *notes)) << "a RELEASE that comes twice closes another file";
  EXPECT_NE(handle_of(17, DescriptorUse::file, *notes, replay), handle);
}

}  // namespace
}  // namespace limaquota
