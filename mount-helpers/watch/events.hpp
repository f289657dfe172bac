// What `limaquota watch` tells of, and how: a line, a line of JSON, an environment.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/figures.hpp"

namespace limaquota {

// warn: used is at the warning mark; full: the budget leaves the disk nothing; host_full: the host has
// nothing beyond its reserve; paused: QEMU paused the VM because a write did not fit; resumed: it goes on.
enum class EventKind { warn, full, host_full, paused, resumed };
std::string_view to_string(EventKind kind);

struct Event {
  EventKind kind = EventKind::warn;
  // Of the VM. Of host_full: those of the host, under the name "_host"; used is by all, limit the sum of all,
  // writable what is beyond the reserve.
  AccountFigures account;
  HostFigures host;
  std::time_t time = 0;
};

Event make_event(EventKind kind, const AccountFigures& account, const HostFigures& host);
Event make_host_full(const HostFigures& host);

// "2026-11-25T09:30:00+0100 vm paused: used 15 GiB of 15 GiB, writable 0 B, host free 20 GiB". Local time;
// the name is escaped.
std::string event_line(const Event& event);
// {"time":"2026-11-25T08:30:00Z","event":"paused","vm":"vm","used":N,"limit":N,"writable":N,"state":"full",
// "host_free":N,"host_reserve":N}; bytes; null means max.
std::string event_json(const Event& event);
// LIMAQUOTA_EVENT, _VM, _TIME (Unix seconds), _STATE, _USED, _LIMIT, _WRITABLE, _HOST_FREE, _HOST_RESERVE:
// each "NAME=VALUE"; bytes, or "max".
std::vector<std::string> event_environment(const Event& event);
// For a desktop notification, without times: "vm is paused: its disk is full", and the figures.
struct Notice {
  std::string title;
  std::string body;
};
Notice event_notice(const Event& event);

}  // namespace limaquota
