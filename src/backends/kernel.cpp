#include "backends/kernel.h"

#include <fmt/format.h>

#include <set>
#include <sstream>

#include "core/env.h"
#include "rondo/error.h"

namespace rondo {
namespace {

bool wants_reference(std::span<const KernelEntry> entries, std::string_view op) {
  const auto listed = env_value("RONDO_REFERENCE_KERNELS");
  if (!listed) return false;
  std::set<std::string_view> operators;
  for (const KernelEntry& entry : entries) operators.insert(entry.op);
  operators.erase("*");
  bool wanted = false;
  std::istringstream names(*listed);
  for (std::string name; std::getline(names, name, ',');) {
    wanted = wanted || name == "all" || name == op;
    if (name != "all" && name != op && operators.count(name) == 0) {
      throw InvalidArgument(fmt::format("RONDO_REFERENCE_KERNELS: '{}' is given; allowed is all, or of {}", name,
                                        fmt::join(operators, ", ")));
    }
  }
  return wanted;
}

}  // namespace

Tensor stored_parameter(const KernelRequest& request, std::size_t index, DType dtype) {
  const KernelInput& input = request.inputs[index];
  return input.weight.empty() ? Tensor() : request.weights.get(input.weight, dtype, request.home());
}

KernelChoice select_kernel(std::span<const KernelEntry> entries, const KernelRequest& request) {
  KernelChoice choice;
  if (request.device != nullptr && env_value("RONDO_REFERENCE_KERNELS"))
    throw InvalidArgument(
        "RONDO_REFERENCE_KERNELS: it is set, and references run on the CPU only; allowed is --device cpu");
  const bool reference_only = wants_reference(entries, request.op.name());
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
  throw Unsupported(
      fmt::format("{}: no kernel supports it: {}", request.op.name(),
                  choice.refusals.empty() ? "there is none" : fmt::format("{}", fmt::join(choice.refusals, "; "))));
}

}  // namespace rondo
