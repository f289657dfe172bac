// How a command says that it does not do what was asked: thrown, and caught in main(). One line for people
// that says what is wrong, where, and what to do.
#pragma once

#include <stdexcept>

namespace limaquota {

struct Refusal : std::runtime_error {  // exit status 1
  using std::runtime_error::runtime_error;
};
struct WrongUse : std::runtime_error {  // exit status 2
  using std::runtime_error::runtime_error;
};

}  // namespace limaquota
