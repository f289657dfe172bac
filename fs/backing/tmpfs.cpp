// tmpfs: pages in memory, counted as they come. Documentation/filesystems/tmpfs.rst of the Linux kernel.
#include "fs/backing/filesystems.hpp"

namespace limaquota {
namespace {
constexpr uint64_t huge_page = uint64_t{2} << 20;
}  // namespace

AllocationRules tmpfs_rules(uint64_t block, std::string_view mount_options) {
  const std::string_view huge = option_value(mount_options, "huge");
  const bool has_huge_pages = !huge.empty() && huge != "never";
  AllocationRules rules;
  rules.block = block;
  rules.unit = has_huge_pages ? huge_page : block;
  rules.slack = SlackModel::none();
  rules.name_space = 8_KiB;
  rules.values_in_blocks = false;
  rules.overwrites_in_place = true;
  rules.zeroes_ranges = false;
  rules.keeps_unwritten = false;
  // It may give back the tail of a huge page when memory is short, without a call of ours.
  rules.gives_back_by_itself = has_huge_pages;
  rules.counts_at_once = !has_huge_pages;
  rules.directories = DirectorySpace::unblocked;
  return rules;
}

}  // namespace limaquota
