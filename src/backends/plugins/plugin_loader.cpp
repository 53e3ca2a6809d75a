#include "backends/plugins/plugin_loader.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <system_error>

#include "backends/attention_backends.h"
#include "backends/plugins/plugin.h"
#include "core/device_name.h"
#include "core/env.h"
#include "core/log.h"
#include "core/text.h"
#include "rondo/error.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;

/// The folder of the file that this code is in, and where an installed command finds the library.
std::vector<fs::path> folders_beside_library() {
  static const char anchor = 0;
  Dl_info info{};
  std::error_code error;
  std::vector<fs::path> folders;
  if (dladdr(&anchor, &info) == 0 || info.dli_fname == nullptr) return folders;
  // The main program's name is as it was typed; its path is the system's to say.
  const fs::path named(info.dli_fname);
  fs::path file = named.has_parent_path() ? fs::canonical(named, error) : fs::path();
  if (error || file.empty()) file = fs::read_symlink("/proc/self/exe", error);
  if (file.empty()) return folders;
  folders.push_back(file.parent_path());
  if (file.parent_path().filename() == "bin") folders.push_back(file.parent_path().parent_path() / RONDO_LIBRARY_DIR);
  return folders;
}

std::vector<fs::path> plugin_folders() {
  std::vector<fs::path> folders = folders_beside_library();
  std::string_view rest;
  const auto listed = env_value("RONDO_PLUGIN_PATH");
  if (listed) rest = *listed;
  while (!rest.empty()) {
    const std::size_t end = rest.find(':');
    const fs::path folder(rest.substr(0, end));
    std::error_code error;
    const bool known = std::any_of(folders.begin(), folders.end(),
                                   [&](const fs::path& other) { return fs::equivalent(folder, other, error); });
    if (end != 0 && !known) folders.push_back(folder);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  }
  return folders;
}

void forward_log(LogLevel level, std::string_view message) {
  if (log_enabled(level)) log_message(level, message);
}

std::string last_dl_error() {
  const char* text = dlerror();  // NOLINT(concurrency-mt-unsafe): glibc keeps it per thread
  return text == nullptr ? "unknown reason" : printable(text, 400);
}

}  // namespace

LoadedPlugins::LoadedPlugins() : folders_(plugin_folders()) {
  for (const DeviceKind kind : {DeviceKind::cuda, DeviceKind::ascend}) load(kind);
}

void LoadedPlugins::load(DeviceKind kind) {
  const auto report = [&](const fs::path& file, const std::string& reason) {
    if (!reason.empty()) log(LogLevel::info, "plug-in {}: not used: {}", file.string(), reason);
    statuses_.push_back({kind, file, reason});
  };
  const std::string name = fmt::format("librondo_{}.so", device_kind_name(kind));
  const std::vector<std::string> disabled = split_list(env_value("RONDO_DISABLE_BACKENDS").value_or(""));
  if (std::find(disabled.begin(), disabled.end(), device_kind_name(kind)) != disabled.end())
    return report(name, "disabled by RONDO_DISABLE_BACKENDS");
  bool found = false;
  fs::path used;
  for (const fs::path& folder : folders_) {
    const fs::path file = folder / name;
    std::error_code error;
    if (!fs::exists(file, error)) continue;
    found = true;
    if (!used.empty()) {
      report(file, fmt::format("{} is used", used.string()));
      continue;
    }
    try {
      backends_.push_back(open(file, kind));
      used = file;
      report(file, "");
    } catch (const std::exception& failure) {
      report(file, failure.what());
    }
  }
  if (found) return;
  std::vector<std::string> folders;
  for (const fs::path& folder : folders_) folders.push_back(folder.string());
  report(name, fmt::format("not found in {}", fmt::join(folders, ", ")));
}

std::unique_ptr<DeviceBackend> LoadedPlugins::open(const fs::path& file, DeviceKind kind) const {
  void* const handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw Error(fmt::format("it cannot be opened: {}", last_dl_error()));
  void* const symbol = dlsym(handle, kPluginSymbol);
  if (symbol == nullptr) throw Error(fmt::format("it has no symbol {}", kPluginSymbol));
  const PluginInterface* const plugin = reinterpret_cast<decltype(&rondo_plugin)>(symbol)();
  if (plugin == nullptr) throw Error("it says nothing of itself");
  if (plugin->abi_version != kPluginAbiVersion)
    throw Error(
        fmt::format("its interface is version {}, this library's is {}", plugin->abi_version, kPluginAbiVersion));
  if (std::strcmp(plugin->build_fingerprint, build_fingerprint()) != 0) {
    throw Error(fmt::format("it was built with another library ({}, not {}): build both together",
                            printable(plugin->build_fingerprint, 80), build_fingerprint()));
  }
  std::unique_ptr<DeviceBackend> backend = plugin->open({forward_log});
  if (backend == nullptr || backend->kind() != kind)
    throw Error(fmt::format("it is not for {}", device_kind_name(kind)));
  return backend;
}

const DeviceBackend* LoadedPlugins::find(DeviceKind kind) const {
  for (const auto& backend : backends_) {
    if (backend->kind() == kind) return backend.get();
  }
  return nullptr;
}

std::string LoadedPlugins::reason(DeviceKind kind) const {
  std::vector<std::string> reasons;
  for (const PluginStatus& status : statuses_) {
    if (status.kind == kind && !status.reason.empty())
      reasons.push_back(fmt::format("{}: {}", status.file.string(), status.reason));
  }
  return fmt::format("{}", fmt::join(reasons, "; "));
}

const LoadedPlugins& loaded_plugins() {
  static const LoadedPlugins plugins;
  static const bool registered = [] {
    for (const auto& backend : plugins.backends()) {
      for (auto& kernel : backend->attention_kernels()) attention_registry().add(std::move(kernel));
    }
    return true;
  }();
  static_cast<void>(registered);
  return plugins;
}

}  // namespace rondo
