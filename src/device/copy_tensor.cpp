#include "device/copy_tensor.h"

#include <vector>

namespace rondo {
namespace {

struct Axis {
  std::int64_t extent;
  std::int64_t from;  // strides, in elements
  std::int64_t to;
};

/// The axes, outermost first, joined where both tensors go on without a gap.
std::vector<Axis> joined_axes(const Tensor& from, const Tensor& to) {
  std::vector<Axis> axes;
  for (std::size_t i = 0; i < from.shape().rank(); ++i) {
    const Axis axis{from.shape()[i], from.strides()[i], to.strides()[i]};
    if (axis.extent == 1) continue;
    if (!axes.empty() && axes.back().from == axis.from * axis.extent && axes.back().to == axis.to * axis.extent) {
      axes.back() = {axes.back().extent * axis.extent, axis.from, axis.to};
    } else {
      axes.push_back(axis);
    }
  }
  return axes;
}

CopyKind kind_of(const Tensor& from, const Tensor& to) {
  if (from.device().is_cpu()) return CopyKind::to_device;
  return to.device().is_cpu() ? CopyKind::to_host : CopyKind::on_device;
}

}  // namespace

void copy_tensor(const Tensor& from, Tensor to, DeviceRuntime& runtime, DeviceStream& stream) {
  if (from.elements() == 0) return;
  const std::size_t size = dtype_size(from.dtype());
  std::vector<Axis> axes = joined_axes(from, to);
  // The innermost axis is a row where both are dense in it, the next one counts the rows.
  std::size_t width = size;
  if (!axes.empty() && axes.back().from == 1 && axes.back().to == 1) {
    width *= static_cast<std::size_t>(axes.back().extent);
    axes.pop_back();
  }
  Axis rows{1, 0, 0};
  const auto pitch = [&](std::int64_t stride) { return static_cast<std::size_t>(stride) * size; };
  // A row may not be longer than the distance to the next: an axis along which elements repeat is copied apart.
  if (!axes.empty() && pitch(axes.back().from) >= width && pitch(axes.back().to) >= width) {
    rows = axes.back();
    axes.pop_back();
  }
  const CopyKind kind = kind_of(from, to);
  std::vector<std::int64_t> index(axes.size(), 0);
  while (true) {
    std::int64_t from_offset = 0;
    std::int64_t to_offset = 0;
    for (std::size_t i = 0; i < axes.size(); ++i) {
      from_offset += index[i] * axes[i].from;
      to_offset += index[i] * axes[i].to;
    }
    const auto* source = from.as<std::byte>() + pitch(from_offset);
    auto* target = to.as<std::byte>() + pitch(to_offset);
    if (rows.extent == 1) {
      runtime.copy({target, width, source, width, width, 1}, kind, stream);
    } else {
      runtime.copy({target, pitch(rows.to), source, pitch(rows.from), width, static_cast<std::size_t>(rows.extent)},
                   kind, stream);
    }
    std::size_t axis = axes.size();
    while (axis > 0 && ++index[axis - 1] == axes[axis - 1].extent) index[--axis] = 0;
    if (axis == 0) return;
  }
}

}  // namespace rondo
