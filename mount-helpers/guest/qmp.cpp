#include "mount-helpers/guest/qmp.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"

namespace limaquota {
namespace {

using Clock = std::chrono::steady_clock;

// A write that was refused is tried again at once when the guest goes on.
constexpr std::chrono::milliseconds next_refusal{200};
constexpr size_t longest_line = size_t{4} * 1024 * 1024;  // query-block of many disks is far below it

// What answers need not be QEMU: a member of another type counts as absent, control characters are replaced.
std::string text_of(const Json& object, const char* key, const char* absent) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (found == object.end() || !found->is_string()) return absent;
  std::string text = *found;
  std::replace_if(
      text.begin(), text.end(), [](unsigned char byte) { return byte < ' ' || byte == 0x7f; }, '?');
  return text;
}

QmpError no_answer(const std::string& name) {
  return QmpError(fmt::format("{}: no answer in time; is another client talking to it?", name));
}

}  // namespace

Qmp::Qmp(const std::filesystem::path& socket, std::chrono::milliseconds deadline)
    : name_(escape_name(socket.string())), until_(Clock::now() + deadline) {
  const std::string path = socket.string();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    throw QmpError(fmt::format("{}: the path is too long for a socket", name_));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  socket_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_) throw QmpError(fmt::format("socket: {}", std::strerror(errno)));
  // EAGAIN: its queue of clients is full, so somebody else is talking.
  while (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN && Clock::now() >= until_) throw no_answer(name_);
    if (errno != EAGAIN) {
      const bool nobody = errno == ENOENT || errno == ECONNREFUSED || errno == ENOTSOCK;
      throw QmpError(fmt::format("{}: {}", name_, std::strerror(errno)), nobody);
    }
    ::poll(nullptr, 0, 50);
  }
  next_line();  // the greeting
  tell("qmp_capabilities");
}

void Qmp::wait(short events) {
  pollfd polled{socket_.get(), events, 0};
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until_ - Clock::now()).count();
    if (left <= 0) throw no_answer(name_);
    const int ready = ::poll(&polled, 1, static_cast<int>(left));
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) throw QmpError(fmt::format("{}: {}", name_, std::strerror(errno)));
  }
}

Json Qmp::next_line() {
  size_t end = 0;
  while ((end = pending_.find('\n')) == std::string::npos) {
    wait(POLLIN);
    std::array<char, 65536> part;
    const ssize_t got = ::recv(socket_.get(), part.data(), part.size(), 0);
    if (got == 0) throw QmpError(fmt::format("{}: QEMU closed the connection", name_));
    if (got < 0 && errno != EAGAIN && errno != EINTR) {
      throw QmpError(fmt::format("{}: {}", name_, std::strerror(errno)));
    }
    if (got > 0) pending_.append(part.data(), static_cast<size_t>(got));
    if (pending_.size() > longest_line) throw QmpError(fmt::format("{}: an endless answer", name_));
  }
  const std::string line = pending_.substr(0, end);
  pending_.erase(0, end + 1);
  Json json = parse_json(line);
  if (!json.is_object()) throw QmpError(fmt::format("{}: what answers is not QEMU", name_));
  return json;
}

Json Qmp::ask(const std::string& command) {
  const std::string text = exact_json_text(Json{{"execute", command}}) + "\n";
  for (size_t sent = 0; sent < text.size();) {
    wait(POLLOUT);
    const ssize_t put = ::send(socket_.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (put < 0 && errno != EAGAIN && errno != EINTR) {
      throw QmpError(fmt::format("{}: {}", name_, std::strerror(errno)));
    }
    if (put > 0) sent += static_cast<size_t>(put);
  }
  while (true) {
    Json answer = next_line();
    if (const auto result = answer.find("return"); result != answer.end()) return *result;
    if (const auto error = answer.find("error"); error != answer.end()) {
      throw QmpError(fmt::format("{}: {}: {}", name_, command, text_of(*error, "desc", "refused")));
    }
  }
}

void Qmp::tell(const std::string& command) { ask(command); }

std::string_view to_string(GuestState state) {
  switch (state) {
    case GuestState::running:
      return "running";
    case GuestState::no_space:
      return "paused for space";
    case GuestState::failed:
      return "paused by an I/O error";
    case GuestState::paused:
      return "paused";
    case GuestState::ended:
      return "shut down";
  }
  return "";
}

GuestState guest_state(Qmp& qmp) {
  const Json answer = qmp.ask("query-status");
  const std::string status = text_of(answer, "status", "");
  if (status == "running") return GuestState::running;
  if (status == "shutdown" || status == "guest-panicked") return GuestState::ended;
  if (status != "io-error") return GuestState::paused;
  const Json blocks = qmp.ask("query-block");
  for (const Json& device : blocks) {
    if (text_of(device, "io-status", "") == "nospace") return GuestState::no_space;
  }
  return GuestState::failed;
}

GuestAnswer ask_guest(const std::filesystem::path& socket, GuestMay may, std::chrono::milliseconds deadline) {
  GuestAnswer answer;
  try {
    Qmp qmp(socket, deadline);
    answer.state = guest_state(qmp);
    if (answer.state != GuestState::no_space || may == GuestMay::only_answer) return answer;
    qmp.tell("cont");
    answer.continued = true;
    std::this_thread::sleep_for(next_refusal);
    answer.paused_again = guest_state(qmp) == GuestState::no_space;
  } catch (const QmpError& error) {
    if (answer.continued) return answer;  // what it does by now is for the next who asks
    answer.reached = error.nobody ? GuestAnswer::Reached::nobody : GuestAnswer::Reached::silent;
    answer.why = error.what();
  }
  return answer;
}

}  // namespace limaquota
