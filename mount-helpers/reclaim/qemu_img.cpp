#include "mount-helpers/reclaim/qemu_img.hpp"

#include <fmt/core.h>

#include <cstdlib>
#include <fstream>

#include "accounting/json.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/programs/companion.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

constexpr std::chrono::seconds answer_deadline{120};

// "    (12.50/100%)": the last share that qemu-img -p wrote, 0..1.
double share_in(const std::string& text) {
  const size_t end = text.rfind("/100%)");
  const size_t start = end == std::string::npos ? end : text.rfind('(', end);
  return start == std::string::npos ? 0 : std::strtod(text.c_str() + start + 1, nullptr) / 100;
}

// What a process has read so far, by read(2) and its like (proc_pid_io(5)).
Bytes read_by(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/io", process));
  std::string key;
  uint64_t bytes = 0;
  return file >> key >> bytes && key == "rchar:" ? Bytes(bytes) : Bytes(0);
}

}  // namespace

std::string unlocked_name(const std::filesystem::path& disk, const std::string& driver) {
  const Json file = {
      {"driver", "file"}, {"filename", disk.string()}, {"locking", "off"}, {"discard", "unmap"}};
  Json image = {{"file", file}, {"discard", "unmap"}};
  if (!driver.empty()) image["driver"] = driver;
  return "json:" + exact_json_text(image);
}

Json ask_qemu_img(std::vector<std::string> words, std::string* complaint) {
  words.insert(words.begin(), "qemu-img");
  words.insert(words.begin() + 2, "--output=json");
  RunOptions options;
  options.deadline = answer_deadline;
  const Ended ended = run_program(words, options);
  if (ended.status == 127) throw Refusal("there is no qemu-img: install qemu-utils");
  Json json = ended.ok() ? parse_json(ended.out) : Json();
  if (json.is_object()) return json;
  if (complaint != nullptr) *complaint = ended.complaint();
  return {};
}

Ended run_qemu_img(const std::vector<std::string>& words, const std::vector<int>& keep, const Ahead& ahead) {
  Companion program(words, keep);
  Progress progress(ahead.title, ahead.total);
  return program.wait([&] {
    if (ahead.by_reading) {
      progress.show(std::min(read_by(program.group()), ahead.total));
    } else if (const std::string text = program.new_output(); !text.empty()) {
      const double done = share_in(text) * static_cast<double>(ahead.total.count());
      progress.show(Bytes(static_cast<uint64_t>(done)));
    }
  });
}

}  // namespace limaquota
