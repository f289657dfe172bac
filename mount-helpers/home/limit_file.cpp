#include "mount-helpers/home/limit_file.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>
#include <utility>

#include "accounting/escape.hpp"
#include "accounting/layout.hpp"
#include "mount-helpers/command/refusal.hpp"
#include "mount-helpers/home/home.hpp"
#include "mount-helpers/terminal/terminal.hpp"

namespace limaquota {
namespace {

std::string path_of(const std::string& home, const std::string& account) {
  return fmt::format("{}/{}/{}", home, quota_directory, account);
}

// The text of a limit file; nothing where there is none. Throws Refusal, also where the daemon hangs.
std::optional<std::string> read_text(const std::string& home, const std::string& account) {
  const std::string path = path_of(home, account);
  ReadApart reading(path);
  if (!reading.wait(daemon_deadline)) throw Refusal(hung_text(home));
  if (reading.error() == ENOENT) return std::nullopt;
  if (reading.error() != 0) {
    throw Refusal(fmt::format("cannot read {}: {}", path, std::strerror(reading.error())));
  }
  return reading.text();
}

Limits parse(const std::string& path, const std::string& text) {
  const Parsed<Limits> parsed = parse_limits(text, {});
  if (const auto* limits = std::get_if<Limits>(&parsed)) return *limits;
  throw Refusal(fmt::format("{}: {}", path, std::get<ParseError>(parsed).message));
}

void write_text(const std::string& path, const std::string& text) {
  Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  int error = file ? 0 : errno;
  if (file) {
    const ssize_t written = ::write(file.get(), text.data(), text.size());
    if (written < 0) {
      error = errno;
    } else if (static_cast<size_t>(written) != text.size()) {
      error = EIO;
    }
    if (::close(file.release()) != 0 && error == 0) error = errno;
  }
  if (error != 0) throw Refusal(fmt::format("cannot set {}: {}", path, std::strerror(error)));
}

}  // namespace

bool has_limit_file(const std::string& home, const std::string& account) {
  return limit_text(home, account).has_value();
}

Limits read_limits(const std::string& home, const std::string& account) {
  for (const std::string& name : {account, std::string(default_name)}) {
    if (const auto text = read_text(home, name)) return parse(path_of(home, name), *text);
  }
  return {};
}

void write_limits(const std::string& home, const std::string& account, const Limits& limits) {
  write_text(path_of(home, account), limits_text(limits));
}

void write_limit(const std::string& home, const std::string& account, Bytes limit) {
  write_text(path_of(home, account), limit.is_unlimited() ? "max\n" : fmt::format("{}\n", limit.count()));
}

void remove_limits(const std::string& home, const std::string& account) {
  const std::string path = path_of(home, account);
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return;
  throw Refusal(fmt::format("cannot remove {}: {}", path, std::strerror(errno)));
}

std::optional<std::string> limit_text(const std::string& home, const std::string& account) {
  return read_text(home, account);
}

void restore_limit_text(const std::string& home, const std::string& account,
                        const std::optional<std::string>& text) {
  if (text) {
    write_text(path_of(home, account), *text);
  } else {
    remove_limits(home, account);
  }
}

}  // namespace limaquota
