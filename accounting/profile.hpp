// The profile beside a template, `<template>.profile.yaml`: what its VM will take of the host, as its author
// knows it. It speaks of the VM's own disk: additional disks come on top, with their virtual sizes.
//
//     limit: 15GiB                 # the limit that `limaquota apply` sets
//     temporary: true              # the VM is deleted when its work is done
//     image: 350MiB                # what Lima downloads where its cache has not got it
//     advice: not recommended      # a word for whoever plans with it
//     must: [...]                  # what has to be done, or it does not fit
//     beside: [zfs-test-minimal]   # templates that are used together with it
//     zfs: {file: 256MiB, quota: 200MiB}   # a pool mirrored over files of that size; the quota of its
//     dataset lines:
//       - {name: base OS, bytes: 1.5GiB}                   # at the peak and in steady state
//       - {name: objects, peak: 6GiB to 8GiB, steady: 1GiB}
//
// Every key may be absent. Pure functions and values; thread safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/bytes.hpp"
#include "accounting/limits.hpp"

namespace limaquota {

// From `low` to `high`; equal where it is known. Whoever decides takes `high`.
struct Estimate {
  Bytes low, high;
  friend bool operator==(const Estimate&, const Estimate&) = default;
};
Estimate plus(Estimate a, Estimate b);  // at most unlimited

struct ProfileLine {
  std::string name;
  Estimate peak, steady;
};

struct ZfsMirror {
  Bytes file;                  // size of each file
  std::optional<Bytes> quota;  // of the dataset in it
};

struct Profile {
  std::optional<Bytes> limit;
  bool temporary = false;
  std::optional<Bytes> image;
  std::string advice;
  std::vector<std::string> must;
  std::vector<std::string> beside;
  std::optional<ZfsMirror> zfs;
  std::vector<ProfileLine> lines;

  Estimate peak() const;  // sums of the lines
  Estimate steady() const;
};

// Errors: what read_yaml() says; an unknown key; a value that is no size.
Parsed<Profile> parse_profile(std::string_view text);

}  // namespace limaquota
