// `rondo doctor`: what this machine has, what Rondo found of it, and what to install for what is missing.
#include <fmt/format.h>

#include "backends/plugins/plugin_loader.h"
#include "cli/commands.h"
#include "core/cpu_level.h"
#include "core/device_name.h"
#include "core/text.h"
#include "core/threads.h"
#include "rondo/device.h"
#include "rondo/error.h"
#include "rondo/version.h"

namespace rondo::cli {
namespace {

const char* advice(DeviceKind kind) {
  if (kind == DeviceKind::cuda)
    return "an NVIDIA GPU needs its driver and librondo_cuda.so, which `make cuda` builds with the CUDA toolkit";
  return "an Ascend NPU needs its driver and CANN, whose set_env.sh puts its libraries on LD_LIBRARY_PATH";
}

void print_line(std::string_view mark, std::string_view what, const std::string& text) {
  fmt::print("  {:<7} {:<18} {}\n", mark, what, text);
}

void print_backend(const DeviceBackend& backend) {
  for (const ComponentVersion& v : backend.versions()) {
    const std::string text = v.note.empty() ? v.version : fmt::format("{} ({})", v.version, v.note);
    print_line(v.version.empty() ? "missing" : "ok", v.component, v.version.empty() ? v.note : text);
  }
  try {
    const int devices = backend.device_count();
    print_line(devices == 0 ? "missing" : "ok", "devices", std::to_string(devices));
  } catch (const Error& error) {
    print_line("missing", "devices", error.what());
  }
}

void run() {
  fmt::print("rondo {} ({})\n\nCPU\n", version(), commit());
  print_line("ok", "model", cpu_model_name());
  print_line("ok", "level", std::string(cpu_level_name(cpu_level())));
  print_line("ok", "threads", std::to_string(default_threads()));
  for (const DeviceKind kind : {DeviceKind::cuda, DeviceKind::ascend}) {
    fmt::print("\n{}\n", device_kind_name(kind));
    for (const PluginStatus& status : loaded_plugins().statuses()) {
      if (status.kind != kind) continue;
      const std::string file = status.file.string();
      print_line(status.reason.empty() ? "ok" : "missing", "plug-in",
                 status.reason.empty() ? file : fmt::format("{}: {}", file, status.reason));
    }
    const DeviceBackend* const backend = loaded_plugins().find(kind);
    if (backend != nullptr) print_backend(*backend);
    bool present = false;
    for (const DeviceInfo& info : available_devices()) present = present || info.device.kind == kind;
    if (!present) print_line("advice", "", advice(kind));
  }
  fmt::print("\ndevices that can be used\n");
  for (const DeviceInfo& info : available_devices()) {
    print_line(
        "ok", to_string(info.device),
        fmt::format("{}, {} of {} free", info.name, human_bytes(info.free_memory), human_bytes(info.total_memory)));
  }
  fmt::print("\n--device auto would take {}\n", to_string(find_device("auto")));
}

}  // namespace

void add_doctor_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("doctor", "Say which devices, drivers and plug-ins were found, and what is missing");
  command->callback(run);
}

}  // namespace rondo::cli
