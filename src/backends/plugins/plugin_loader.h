// Finds plug-ins, opens them and says what became of each.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "backends/device_backend.h"

namespace rondo {

/// One place where a plug-in was looked for.
struct PluginStatus {
  DeviceKind kind;
  std::filesystem::path file;
  /// Why it is not used; empty when it is.
  std::string reason;
};

class LoadedPlugins {
 public:
  /// Opens what is found: for each kind the first file that works, beside the library and in the folders of
  /// RONDO_PLUGIN_PATH, in that order. A kind that RONDO_DISABLE_BACKENDS names is not opened. What goes wrong is a
  /// line at level info and a status, never an exception. Handles are never closed: a plug-in's code may run until the
  /// process ends.
  LoadedPlugins();

  /// Null: there is none, see statuses().
  const DeviceBackend* find(DeviceKind kind) const;
  const std::vector<std::unique_ptr<DeviceBackend>>& backends() const { return backends_; }
  const std::vector<PluginStatus>& statuses() const { return statuses_; }
  /// Why there is no backend of a kind, for an error message.
  std::string reason(DeviceKind kind) const;

 private:
  void load(DeviceKind kind);
  /// Opens the file; throws Error with the reason.
  std::unique_ptr<DeviceBackend> open(const std::filesystem::path& file, DeviceKind kind) const;

  std::vector<std::filesystem::path> folders_;
  std::vector<PluginStatus> statuses_;
  std::vector<std::unique_ptr<DeviceBackend>> backends_;
};

/// Those of this process, from the first call on; their attention kernels are then in the registry.
const LoadedPlugins& loaded_plugins();

}  // namespace rondo
