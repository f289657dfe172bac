#include "mount-helpers/guest/inside.hpp"

#include <fmt/core.h>

#include <future>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "mount-helpers/guest/resume.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/home/lima_vms.hpp"
#include "mount-helpers/programs/process.hpp"

namespace limaquota {
namespace {

constexpr std::chrono::milliseconds all_guests_deadline{2500};
// What is not on the VM's disks, or is a part of another filesystem.
constexpr const char* not_on_disk[] = {"tmpfs",   "devtmpfs", "overlay", "squashfs",
                                       "iso9660", "9p",       "virtiofs"};

}  // namespace

InsideAnswer look_inside(const std::string& home, const AccountFigures& vm,
                         std::chrono::milliseconds deadline) {
  std::vector<std::string> words = {"limactl", "shell",          "--workdir",           "/", vm.name, "df",
                                    "--local", "--block-size=1", "--output=source,used"};
  for (const char* type : not_on_disk) words.insert(words.end(), {"-x", type});
  RunOptions options;
  options.environment = {"LIMA_HOME=" + home};
  options.deadline = deadline;
  const Ended ended = run_program(words, options);
  if (!ended.ok()) {
    if (!ended.timed_out) return {std::nullopt, ended.complaint()};
    return {std::nullopt,
            fmt::format("no answer within {:g} s", static_cast<double>(deadline.count()) / 1000)};
  }
  std::istringstream lines(ended.out);
  std::set<std::string> seen;  // a filesystem mounted twice has two lines
  Inside inside;
  uint64_t used = 0;
  for (std::string line, source; std::getline(lines, line);) {
    std::istringstream parts(line);
    if (!(parts >> source >> used) || !source.starts_with('/') || !seen.insert(source).second) continue;
    inside.used = plus_or_unlimited(inside.used, Bytes(used));
  }
  if (seen.empty()) return {std::nullopt, "df in the guest named no disk"};
  Bytes allocated;
  for (const DiskFigures& disk : vm.disks) allocated += disk.allocated;
  inside.reclaimable = minus_or_zero(allocated, inside.used);
  return {inside, {}};
}

Insides look_inside_all(const std::string& home, const Snapshot& snapshot) {
  Insides insides;
  if (!find_program("limactl")) return insides;
  std::vector<std::pair<std::optional<Inside>*, std::future<std::optional<Inside>>>> answers;
  for (const LimaVm& vm : running_vms(home)) {
    const AccountFigures* account = find_account(snapshot, vm.name);
    if (account == nullptr || account->state == AccountState::outside) continue;
    std::optional<Inside>& inside = insides[vm.name];
    if (account->refused_writes > 0 && !has_room(account)) continue;
    answers.emplace_back(&inside, std::async(std::launch::async, [&home, account] {
      return look_inside(home, *account, all_guests_deadline).inside;
    }));
  }
  for (auto& [inside, answer] : answers) *inside = answer.get();
  return insides;
}

}  // namespace limaquota
