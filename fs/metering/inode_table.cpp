#include "fs/metering/inode_table.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "accounting/mutex.hpp"

namespace limaquota {
namespace {
constexpr unsigned device_shift = 48;
constexpr NodeId inode_mask = (NodeId{1} << device_shift) - 1;
}  // namespace

void InodeTable::note_lookups(const Row& row) {
  if (!row.inode->path) return;
  DescriptorNote& descriptor = notes_.descriptors.of(row.inode->path.get());
  if (descriptor.use() != DescriptorUse::inode) descriptor.account = 0;
  descriptor.lookups = row.lookups;
  descriptor.set_use(DescriptorUse::inode);
}

void InodeTable::note_end(const Inode& inode) {
  if (inode.path) notes_.descriptors.of(inode.path.get()).set_use(DescriptorUse::passing);
}

void InodeTable::close_path(Inode& inode) {
  Fd closing;
  const MutexLock lock(mutex_);
  note_end(inode);
  closing = std::move(inode.path);
}

void InodeTable::note_account(const Inode& inode, const std::string& account) {
  const MutexLock lock(mutex_);
  if (inode.path) notes_.descriptors.of(inode.path.get()).account = notes_.accounts.number_of(account);
}

// The numbers that ids begin with must be the same for each worker.
uint64_t InodeTable::index_of(dev_t device) {
  DeviceNotes& noted = notes_.devices;
  if (device_index_.empty()) {
    for (uint32_t i = 0; i < noted.count; ++i) device_index_.emplace(noted.numbers[i], i);
  }
  const auto [found, is_new] = device_index_.emplace(device, device_index_.size());
  if (is_new && found->second < DeviceNotes::most) {
    noted.numbers[found->second] = device;
    noted.count = static_cast<uint32_t>(found->second) + 1;
  }
  return found->second;
}

void InodeTable::set_root(dev_t device, ino_t inode) {
  const MutexLock lock(mutex_);
  root_device_ = device;
  root_inode_ = inode;
  (void)index_of(device);
}

uint32_t generation_of(const std::string& handle) {
  uint32_t hash = 2166136261U;
  for (const char c : handle) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return hash;
}

NodeId InodeTable::id_of(dev_t device, ino_t inode) {
  const MutexLock lock(mutex_);
  if (device == root_device_ && inode == root_inode_) return root_node;
  const NodeId id = (index_of(device) << device_shift) | (inode & inode_mask);
  // The root's id is taken; and an inode number above 48 bits is folded into a range of its own.
  if (id == root_node || inode > inode_mask) return (NodeId{1} << 61) | (inode & ((NodeId{1} << 61) - 1));
  return id;
}

namespace {
int64_t steady_now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
// Longer than this only an inode waits that somebody holds in another way (a working directory, O_PATH).
constexpr int64_t dying_nanoseconds = 200'000'000;
}  // namespace

void InodeTable::mark_dying(Inode& inode) {
  if (inode.dying || !inode.gone || inode.opens > 0) return;
  inode.dying = true;
  ++dying_;
  last_death_ = steady_now();
}

void InodeTable::unmark_dying(Inode& inode) {
  if (std::exchange(inode.dying, false)) --dying_;
}

bool InodeTable::some_dying() const { return dying_ > 0 && steady_now() - last_death_ < dying_nanoseconds; }

uint64_t InodeTable::lookups(NodeId id) const {
  const MutexLock lock(mutex_);
  const auto found = inodes_.find(id);
  return found == inodes_.end() ? 0 : found->second.lookups;
}

InodePtr InodeTable::find(NodeId id) const {
  const MutexLock lock(mutex_);
  const auto found = inodes_.find(id);
  return found == inodes_.end() ? nullptr : found->second.inode;
}

std::vector<InodeTable::Known> InodeTable::too_many(size_t most) const {
  std::vector<Known> names;
  const MutexLock lock(mutex_);
  if (inodes_.size() <= most) return names;
  const size_t wanted = inodes_.size() - most + most / 8;
  for (const auto& [id, row] : inodes_) {
    if (names.size() >= wanted) break;
    const Inode& inode = *row.inode;
    if (inode.opens > 0 || inode.listed || S_ISDIR(inode.type) || row.name.empty()) continue;
    names.push_back({row.parent, row.name});
  }
  return names;
}

InodePtr InodeTable::enter(NodeId id, Fd&& o_path, NodeId parent, const char* name,
                           const std::function<void(Inode&)>& fill) {
  const MutexLock lock(mutex_);
  Row& row = inodes_[id];
  if (!row.inode || row.inode->dead) {
    // A dead one came back by a link from outside the tree: the kernel's lookups of it still count.
    if (row.inode) note_end(*row.inode);
    row.inode = std::make_shared<Inode>(id, std::move(o_path), charges_[id]);
    row.taken_over = false;
    fill(*row.inode);
    known_ = inodes_.size();
  }
  ++row.lookups;
  note_lookups(row);
  row.parent = parent;
  row.name = name;
  return row.inode;
}

InodePtr InodeTable::take_over(NodeId id, Fd&& o_path, uint64_t lookups,
                               const std::function<void(Inode&)>& fill) {
  const int given = o_path.get();
  const MutexLock lock(mutex_);
  Row& row = inodes_[id];
  if (!row.inode) {
    row.inode = std::make_shared<Inode>(id, std::move(o_path), charges_[id]);
    fill(*row.inode);
    known_ = inodes_.size();
  }
  row.lookups += lookups;
  row.taken_over = true;
  note_lookups(row);
  if (row.inode->path.get() != given) notes_.descriptors.of(given).set_use(DescriptorUse::passing);
  doubtful_.push_back(id);
  return row.inode;
}

std::vector<InodeTable::Doubtful> InodeTable::doubtful() {
  const MutexLock lock(mutex_);
  std::vector<Doubtful> all;
  for (const NodeId id : doubtful_) {
    const auto found = inodes_.find(id);
    if (id != root_node && found != inodes_.end()) all.push_back({id, found->second.lookups});
  }
  doubtful_.clear();
  return all;
}

InodePtr InodeTable::enter_again(NodeId id) {
  const MutexLock lock(mutex_);
  const auto found = inodes_.find(id);
  if (found == inodes_.end() || found->second.inode->dead) return nullptr;
  ++found->second.lookups;
  note_lookups(found->second);
  return found->second.inode;
}

InodePtr InodeTable::forget(NodeId id, uint64_t count) {
  const MutexLock lock(mutex_);
  const auto found = inodes_.find(id);
  if (found == inodes_.end()) return nullptr;
  Row& row = found->second;
  row.lookups -= std::min(count, row.lookups);
  note_lookups(row);
  // The kernel tells all of its lookups when it forgets: what is left may be too much.
  if (row.taken_over && count > 0 && row.lookups > 0) doubtful_.push_back(id);
  if (row.lookups > 0 || row.inode->listed || row.inode->opens > 0) return nullptr;
  note_end(*row.inode);
  InodePtr last = std::move(row.inode);
  inodes_.erase(found);
  known_ = inodes_.size();
  return last;
}

bool InodeTable::add_charge(NodeId id, Charge&& charge) {
  const MutexLock lock(mutex_);
  return charges_.try_emplace(id, std::move(charge)).second;
}

bool InodeTable::has_charge(NodeId id) const {
  const MutexLock lock(mutex_);
  return charges_.contains(id);
}

void InodeTable::drop_charge(Inode& inode) {
  const MutexLock lock(mutex_);
  inode.dead = true;  // here, so that no other Inode is made for this charge
  inode.last_charge = charges_.extract(inode.id);
}

std::optional<Charge> InodeTable::take_stale_charge(NodeId id, const std::string& handle) {
  const MutexLock lock(mutex_);
  const auto found = charges_.find(id);
  if (found == charges_.end() || handle.empty() || found->second.handle.empty()) return std::nullopt;
  // An inode that is known has a descriptor, so that its number is not given to another one.
  if (found->second.handle == handle || inodes_.contains(id)) return std::nullopt;
  std::optional<Charge> stale(std::move(found->second));
  charges_.erase(found);
  return stale;
}

std::string InodeTable::handle_of(NodeId id) const {
  const MutexLock lock(mutex_);
  const auto found = charges_.find(id);
  return found == charges_.end() ? std::string() : found->second.handle;
}

size_t InodeTable::charges() const {
  const MutexLock lock(mutex_);
  return charges_.size();
}

}  // namespace limaquota
