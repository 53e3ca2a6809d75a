#include "backends/ascend/soc_generation.h"

#include <array>
#include <cctype>

namespace rondo::ascend {
namespace {

constexpr std::array kTable{
    SocCapabilities{SocGeneration::ascend310p, "Atlas inference series (310P)", false, false, true, false, 0, true,
                    false, false, false},
    SocCapabilities{SocGeneration::ascend910, "Atlas training series (910)", false, false, false, false, 0, false, true,
                    false, true},
    SocCapabilities{SocGeneration::ascend910b, "Atlas A2 (910B)", true, true, true, true, 3, true, true, false, true},
    SocCapabilities{SocGeneration::ascend910c, "Atlas A3 (910C)", true, true, true, true, 3, true, true, false, true},
    SocCapabilities{SocGeneration::ascend950, "950", true, true, true, true, 5, false, false, true, true},
    SocCapabilities{SocGeneration::unknown, "unknown", false, false, false, false, 0, false, false, false, false},
};

SocGeneration generation_of(std::string_view name) {
  if (name.starts_with("Ascend310P")) return SocGeneration::ascend310p;
  if (name.starts_with("Ascend950")) return SocGeneration::ascend950;
  if (name.starts_with("Ascend910_93")) return SocGeneration::ascend910c;
  // A bare "Ascend910B" is of the first generation: A2's names go on with a digit.
  constexpr std::string_view kA2 = "Ascend910B";
  if (name.starts_with(kA2) && name.size() > kA2.size() &&
      std::isdigit(static_cast<unsigned char>(name[kA2.size()])) != 0)
    return SocGeneration::ascend910b;
  return name.starts_with("Ascend910") ? SocGeneration::ascend910 : SocGeneration::unknown;
}

}  // namespace

const SocCapabilities& soc_capabilities(std::string_view soc_name) {
  return kTable[static_cast<std::size_t>(generation_of(soc_name))];
}

}  // namespace rondo::ascend
