#include "mount-helpers/watch/events.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "accounting/escape.hpp"
#include "accounting/json.hpp"
#include "accounting/layout.hpp"
#include "accounting/size_text.hpp"

namespace limaquota {
namespace {

Json size_or_null(Bytes bytes) { return bytes.is_unlimited() ? Json(nullptr) : Json(bytes.count()); }
std::string size_or_max(Bytes bytes) { return bytes.is_unlimited() ? "max" : fmt::to_string(bytes.count()); }

std::string figures(const Event& event) {
  return fmt::format("used {} of {}, writable {}, host free {}", format_size(event.account.used),
                     format_size(event.account.limit), format_size(event.account.writable),
                     format_size(event.host.free));
}

}  // namespace

std::string_view to_string(EventKind kind) {
  switch (kind) {
    case EventKind::warn:
      return "warn";
    case EventKind::full:
      return "full";
    case EventKind::host_full:
      return "host_full";
    case EventKind::paused:
      return "paused";
    case EventKind::resumed:
      return "resumed";
  }
  return "";
}

Event make_event(EventKind kind, const AccountFigures& account, const HostFigures& host) {
  return {kind, account, host, std::time(nullptr)};
}

Event make_host_full(const HostFigures& host) {
  AccountFigures account;
  account.name = host_name;
  account.used = host.used;
  account.limit = host.limits;
  account.writable = minus_or_zero(host.free, host.reserve);
  account.state = AccountState::host_full;
  return make_event(EventKind::host_full, account, host);
}

std::string event_line(const Event& event) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%S%z} {} {}: {}", fmt::localtime(event.time),
                     escape_name(event.account.name), to_string(event.kind), figures(event));
}

std::string event_json(const Event& event) {
  const Json json = {{"time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(event.time))},
                     {"event", to_string(event.kind)},
                     {"vm", event.account.name},
                     {"used", event.account.used.count()},
                     {"limit", size_or_null(event.account.limit)},
                     {"writable", size_or_null(event.account.writable)},
                     {"state", to_string(event.account.state)},
                     {"host_free", size_or_null(event.host.free)},
                     {"host_reserve", size_or_null(event.host.reserve)}};
  return json_text(json);
}

std::vector<std::string> event_environment(const Event& event) {
  return {fmt::format("LIMAQUOTA_EVENT={}", to_string(event.kind)),
          fmt::format("LIMAQUOTA_VM={}", event.account.name),
          fmt::format("LIMAQUOTA_TIME={}", event.time),
          fmt::format("LIMAQUOTA_STATE={}", to_string(event.account.state)),
          fmt::format("LIMAQUOTA_USED={}", size_or_max(event.account.used)),
          fmt::format("LIMAQUOTA_LIMIT={}", size_or_max(event.account.limit)),
          fmt::format("LIMAQUOTA_WRITABLE={}", size_or_max(event.account.writable)),
          fmt::format("LIMAQUOTA_HOST_FREE={}", size_or_max(event.host.free)),
          fmt::format("LIMAQUOTA_HOST_RESERVE={}", size_or_max(event.host.reserve))};
}

Notice event_notice(const Event& event) {
  const std::string name = escape_name(event.account.name);
  switch (event.kind) {
    case EventKind::warn:
      return {name + " is close to its disk limit", figures(event)};
    case EventKind::full:
      return {name + " has used up its disk limit", figures(event)};
    case EventKind::host_full:
      return {"This machine has no room left for Lima's disks", figures(event)};
    case EventKind::paused:
      return {name + " is paused: its disk got no more room", figures(event)};
    case EventKind::resumed:
      return {name + " goes on", figures(event)};
  }
  return {};
}

}  // namespace limaquota
