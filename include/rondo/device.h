// Devices: where tensors lie and where models run. The CPU is always there; others come with plug-ins that are opened
// when first asked for.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "rondo/export.h"

namespace rondo RONDO_PUBLIC {

enum class DeviceKind : std::uint8_t { cpu, cuda, ascend };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  bool is_cpu() const { return kind == DeviceKind::cpu; }
  auto operator<=>(const Device&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 misreads it
};

/// "cpu", "cuda:0", "ascend:1"
std::string to_string(const Device& device);

/// The device that a text names: "cpu", "cuda" or "ascend" (the first), "cuda:1"; "auto" is the best that is there now.
/// Empty: as RONDO_DEVICE says, else "auto". Throws InvalidArgument for any other text, Unsupported, with the reason,
/// for a device that is not there.
Device find_device(const std::string& text);

/// A device that this process can use.
struct DeviceInfo {
  Device device;
  std::string name;                // "AMD EPYC", "NVIDIA H100", "Ascend910B2"
  std::uint64_t total_memory = 0;  // bytes
  std::uint64_t free_memory = 0;
};

/// The CPU and what plug-ins find, best last.
std::vector<DeviceInfo> available_devices();

/// What was asked of a device's memory so far.
struct DeviceMemoryStatistics {
  std::uint64_t used_bytes = 0;       // by tensors and buffers
  std::uint64_t peak_used_bytes = 0;  // the most of them at a time
  std::uint64_t cached_bytes = 0;     // held back for the next
  std::uint64_t requests = 0;
  std::uint64_t requests_from_cache = 0;
};

/// Of a device other than the CPU; all 0 while nothing uses it. Throws InvalidArgument for the CPU.
DeviceMemoryStatistics device_memory_statistics(const Device& device);

}  // namespace RONDO_PUBLIC
