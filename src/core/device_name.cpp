#include "core/device_name.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "core/text.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr std::array<std::string_view, 3> kNames{"cpu", "cuda", "ascend"};

}  // namespace

std::string_view device_kind_name(DeviceKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

std::optional<DeviceKind> find_device_kind(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<DeviceKind>(i);
  }
  return std::nullopt;
}

Device parse_device(std::string_view text, std::string_view source) {
  const std::size_t colon = text.find(':');
  const auto kind = find_device_kind(text.substr(0, colon));
  Device device{kind.value_or(DeviceKind::cpu), 0};
  bool fits = kind.has_value();
  if (fits && colon != std::string_view::npos) {
    const std::string_view digits = text.substr(colon + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), device.index);
    constexpr int kMostDevices = 1024;
    fits = error == std::errc() && end == digits.data() + digits.size() && device.index >= 0 &&
           device.index < (device.is_cpu() ? 1 : kMostDevices);
  }
  if (!fits) {
    throw InvalidArgument(fmt::format("{}: '{}' is given; allowed are auto, cpu, cuda, cuda:N, ascend and ascend:N",
                                      source, printable(text)));
  }
  return device;
}

std::string to_string(const Device& device) {
  const std::string_view name = device_kind_name(device.kind);
  return device.is_cpu() ? std::string(name) : fmt::format("{}:{}", name, device.index);
}

}  // namespace rondo
