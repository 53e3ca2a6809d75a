// Ranks that do not want the same compute nonsense, or wait forever: they are found before any work.
#pragma once

#include <span>
#include <string>
#include <utility>

#include "parallel/communicator.h"

namespace rondo {

/// Something that must be the same on every rank, in words: "version", "0.1.0 (abc)".
using AgreedValue = std::pair<std::string, std::string>;

/// Throws CommunicationError, on every rank alike, naming the first rank and value that differ from rank 0's. Every
/// rank gives the same names in the same order.
void require_agreement(Communicator& world, std::span<const AgreedValue> values);

}  // namespace rondo
