// The accounts that have names of one inode.
#pragma once

#include <algorithm>
#include <boost/container/small_vector.hpp>
#include <cstdint>
#include <optional>
#include <vector>

#include "accounting/ledger.hpp"

namespace limaquota {

using AccountIds = boost::container::small_vector<AccountId, 2>;

// How many names of an inode each account has. Thread safety: none.
class Holders {
 public:
  Holders() = default;
  explicit Holders(AccountId account) { (void)add(account); }

  // Of a name: whether the account has no other of the inode.
  enum class Name : uint8_t { alone, one_of_several };
  Name add(AccountId account) {
    const auto found = find(account);
    if (found == all_.end()) {
      all_.push_back({account, 1});
      return Name::alone;
    }
    ++found->names;
    return Name::one_of_several;
  }
  // Nothing where the account has none.
  std::optional<Name> remove(AccountId account) {
    const auto found = find(account);
    if (found == all_.end()) return std::nullopt;
    if (--found->names > 0) return Name::one_of_several;
    all_.erase(found);
    return Name::alone;
  }
  bool empty() const { return all_.empty(); }
  AccountId first() const { return all_.front().account; }
  AccountIds accounts() const {
    AccountIds accounts;
    for (const Holder& holder : all_) accounts.push_back(holder.account);
    return accounts;
  }

 private:
  struct Holder {
    AccountId account = 0;
    uint32_t names = 0;
  };
  std::vector<Holder>::iterator find(AccountId account) {
    return std::find_if(all_.begin(), all_.end(),
                        [&](const Holder& holder) { return holder.account == account; });
  }

  std::vector<Holder> all_;
};

}  // namespace limaquota
