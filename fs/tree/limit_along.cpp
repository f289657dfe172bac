#include "fs/tree/limit_along.hpp"

#include "accounting/layout.hpp"

namespace limaquota {

// `from` has the type of what goes.
std::optional<LimitMove> LimitAlong::move(const Place& from, const Place& to, LimitGoes goes) const {
  const Role from_role = from.directory.role();
  const Role to_role = to.directory.role();
  const mode_t type = from.type;
  LimitMove move{own_account(from_role, from.name, type), own_account(to_role, to.name, type), goes};
  if (is_yaml(from_role, from.name) && is_yaml(to_role, to.name)) {
    move.from = ledger_.name(from.directory.account());
    move.to = ledger_.name(to.directory.account());
  } else if (role_of_child(from_role, from.name, type) != role_of_child(to_role, to.name, type)) {
    return std::nullopt;
  }
  if (move.from.empty() || move.from == move.to) return std::nullopt;
  return move;
}

std::optional<LimitMove> LimitAlong::of_rename(const Place& from, const Place& to, Kind kind,
                                               const std::optional<RenamesInode>& before) const {
  const auto follows = [&](const std::optional<LimitMove>& move) {
    if (!move) return false;
    const auto text = limits_.text(move->from);
    const auto there = limits_.text(move->to);
    const bool prepared = before && before->limit == move->goes && there == text;
    return text && (!there || prepared);
  };
  auto along = move(from, to, LimitGoes::along);
  if (follows(along)) return along;
  if (kind != Kind::exchange) return std::nullopt;
  auto back = move(to, from, LimitGoes::back);
  return follows(back) ? back : std::nullopt;
}

std::optional<LimitMove> LimitAlong::of_renamed(const Place& from, const Place& to, LimitGoes goes) const {
  switch (goes) {
    case LimitGoes::along:
      return move({from.directory, from.name, to.type}, to, goes);
    case LimitGoes::back:
      return from.type == 0 ? std::nullopt : move({to.directory, to.name, from.type}, from, goes);
    default:
      return std::nullopt;
  }
}

}  // namespace limaquota
