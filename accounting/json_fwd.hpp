// The name of a JSON value, for headers that only hand one on: reading all of nlohmann's library takes
// seconds.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace limaquota {

using Json = nlohmann::ordered_json;  // members keep the order in which they were put in

}  // namespace limaquota
