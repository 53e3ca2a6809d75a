// Plug-ins that do not fit this library, each for its own reason.
#include "backends/plugins/plugin.h"
#include "rondo/error.h"

namespace {

[[maybe_unused]] std::unique_ptr<rondo::DeviceBackend> refuse(const rondo::PluginHost& /*host*/) {
  throw rondo::Unsupported("the driver is version 1; 2 is needed");
}

}  // namespace

#ifndef NO_SYMBOL
const rondo::PluginInterface* rondo_plugin() {
#if defined(OTHER_VERSION)
  // An interface whose rest nobody may look at.
  static const struct {
    std::uint32_t abi_version;
    std::uintptr_t rest[2];
  } other{rondo::kPluginAbiVersion + 1, {1, 1}};
  return reinterpret_cast<const rondo::PluginInterface*>(&other);
#elif defined(OTHER_BUILD)
  static const rondo::PluginInterface other{rondo::kPluginAbiVersion, "0123456789abcdef", refuse};
  return &other;
#else
  static const rondo::PluginInterface refuses{rondo::kPluginAbiVersion, rondo::build_fingerprint(), refuse};
  return &refuses;
#endif
}
#endif
