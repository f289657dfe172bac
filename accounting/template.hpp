// What planning reads of a Lima template, and how Lima fills it in. Source: Lima 2.2,
// pkg/limayaml/defaults.go and pkg/limatmpl/embed.go. Pure functions and values; thread safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/bytes.hpp"
#include "accounting/limits.hpp"

namespace limaquota {

inline constexpr Bytes lima_default_disk = Bytes(100ULL * 1024 * 1024 * 1024);

struct TemplateImage {
  std::string location;  // a URL or a path
  std::string arch;      // as uname -m says it; empty: any
};

struct Template {
  std::optional<Bytes> disk;                  // virtual size of the VM's own disk
  std::string arch;                           // empty: the host's
  std::vector<std::string> bases;             // locators of the templates it is based on, not merged yet
  std::vector<std::string> additional_disks;  // names below `_disks`
  std::vector<TemplateImage> images;          // the first that fits is taken
};

// Errors: what read_yaml() says; a `disk:` that is no size.
Parsed<Template> parse_template(std::string_view text);

// Adds what `below` says and `above` does not; lists are joined, the upper's first, a disk counted once.
// Lima does this with a template over its bases, with that over `_config/default.yaml`, and with
// `_config/override.yaml` over all of it. The bases of `below` are not taken over.
Template fill_in(Template above, const Template& below);

// The image that a host of this architecture would take; null where there is none.
const TemplateImage* image_for(const Template& from, std::string_view host_arch);

}  // namespace limaquota
