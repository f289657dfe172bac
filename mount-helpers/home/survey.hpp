// The figures of a Lima home where limaquota is not mounted, by looking at every file, as `du` does.
#pragma once

#include <string>

#include "mount-helpers/home/home.hpp"

namespace limaquota {

// The report that a mount would give in its first moment (fs/daemon/survey_home.hpp): growth and refusals are
// 0. Throws Refusal.
Report survey(const std::string& home);
// What the daemon says; where limaquota is not mounted the survey, and `mounted` is false. Throws Refusal,
// also where the mount is dead: the tree cannot be seen then.
Report read_report_or_survey(const std::string& home, bool& mounted);

}  // namespace limaquota
