// What a plug-in exports. A plug-in is built with the library and holds a copy of what it uses of it, so that only
// virtual calls cross: both must come from the same sources and compiler, which the fingerprint says.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "backends/device_backend.h"
#include "rondo/log.h"

namespace rondo {

/// Of the struct below. Nothing else of a plug-in is touched before this and the fingerprint agree.
constexpr std::uint32_t kPluginAbiVersion = 1;

/// What a plug-in may use of the process that opened it.
struct PluginHost {
  void (*log)(LogLevel level, std::string_view message);
};

struct PluginInterface {
  std::uint32_t abi_version;
  const char* build_fingerprint;
  /// Throws Error, with the reason, where the backend cannot work at all.
  std::unique_ptr<DeviceBackend> (*open)(const PluginHost& host);
};

/// A hash of every header of the library, with the compiler and what changes layouts.
const char* build_fingerprint();

constexpr const char* kPluginSymbol = "rondo_plugin";

}  // namespace rondo

/// The one symbol of a plug-in.
extern "C" [[gnu::visibility("default")]] const rondo::PluginInterface* rondo_plugin();
