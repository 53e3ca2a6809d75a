// A library that is opened at run time, once, or the reason why it is not there.
#pragma once

#include <memory>
#include <string>

#include "rondo/error.h"

namespace rondo {

/// `Library` opens it when it is made, and throws Error with the reason.
template <typename Library>
struct OpenedLibrary {
  std::unique_ptr<const Library> library;  // null where `missing` says why
  std::string missing;

  static const OpenedLibrary& get() {
    static const OpenedLibrary opened = [] {
      OpenedLibrary result;
      try {
        result.library = std::make_unique<const Library>();
      } catch (const Error& error) {
        result.missing = error.what();
      }
      return result;
    }();
    return opened;
  }
};

}  // namespace rondo
