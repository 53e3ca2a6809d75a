// What a caller may have meant by a name that is not known.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace rondo::cli {

/// The known name that is nearest to the given one: by single edits, else the shortest that has it as a part between
/// dashes. Empty where none is near. Leading dashes do not count.
std::string nearest_name(std::string_view given, std::span<const std::string> known);

}  // namespace rondo::cli
