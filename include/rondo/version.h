// Version of the headers; rondo::version() is that of the library.
#pragma once

#include <string>

#include "rondo/export.h"

#define RONDO_VERSION_MAJOR 0
#define RONDO_VERSION_MINOR 1
#define RONDO_VERSION_PATCH 0

namespace rondo RONDO_PUBLIC {

/// "0.1.0"
std::string version();

/// The commit that the library was built from, or "unknown" for a source archive.
std::string commit();

}  // namespace RONDO_PUBLIC
