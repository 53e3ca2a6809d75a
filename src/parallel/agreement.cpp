#include "parallel/agreement.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "rondo/error.h"

namespace rondo {

void require_agreement(Communicator& world, std::span<const AgreedValue> values) {
  // All at once; one by one only to name what differs.
  std::string joined;
  for (const auto& [name, value] : values) joined += fmt::format("{} {} {}\n", name, value.size(), value);
  const std::vector<std::string> all = world.all_gather(joined);
  if (std::all_of(all.begin(), all.end(), [&](const std::string& other) { return other == all[0]; })) return;
  for (const auto& [name, value] : values) {
    const std::vector<std::string> given = world.all_gather(value);
    for (std::size_t rank = 1; rank < given.size(); ++rank) {
      if (given[rank] == given[0]) continue;
      throw CommunicationError(fmt::format("parallel: rank {} has {} '{}' and rank 0 '{}'; all must have the same",
                                           rank, name, printable(given[rank], 300), printable(given[0], 300)));
    }
  }
}

}  // namespace rondo
