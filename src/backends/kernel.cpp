#include "backends/kernel.h"

#include <fmt/format.h>

#include <sstream>

#include "core/env.h"
#include "rondo/error.h"

namespace rondo {
namespace {

bool wants_reference(std::string_view op) {
  const auto listed = env_value("RONDO_REFERENCE_KERNELS");
  if (!listed) return false;
  std::istringstream names(*listed);
  for (std::string name; std::getline(names, name, ',');) {
    if (name == "all" || name == op) return true;
  }
  return false;
}

}  // namespace

KernelChoice select_kernel(std::span<const KernelEntry> entries, const KernelRequest& request) {
  KernelChoice choice;
  const bool reference_only = wants_reference(request.op.name());
  for (const KernelEntry& entry : entries) {
    if (entry.op != request.op.name() && entry.op != "*") continue;
    Refusal refusal = reference_only && entry.name != "reference"
                          ? Refusal("RONDO_REFERENCE_KERNELS names the operator")
                          : entry.supports(request);
    if (!refusal) {
      choice.entry = &entry;
      return choice;
    }
    choice.refusals.push_back(fmt::format("{}: {}", entry.name, *refusal));
  }
  throw Unsupported(fmt::format("{}: no kernel supports it: {}", request.op.name(), fmt::join(choice.refusals, "; ")));
}

}  // namespace rondo
