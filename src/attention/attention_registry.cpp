#include "attention/attention_registry.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/device_name.h"
#include "core/env.h"
#include "core/text.h"
#include "rondo/error.h"

namespace rondo {

void AttentionRegistry::add(std::shared_ptr<const AttentionKernel> kernel) {
  const std::lock_guard lock(mutex_);
  for (const auto& known : kernels_) {
    if (known->name() == kernel->name()) throw Error(fmt::format("attention: kernel '{}' exists", kernel->name()));
  }
  kernels_.push_back(std::move(kernel));
}

std::vector<std::shared_ptr<const AttentionKernel>> AttentionRegistry::kernels() const {
  const std::lock_guard lock(mutex_);
  return kernels_;
}

std::vector<std::string> AttentionRegistry::disabled() const {
  const auto listed = env_value("RONDO_DISABLE_BACKENDS");
  if (!listed) return {};
  std::vector<std::string> names = split_list(*listed);
  for (const std::string& name : names) {
    const auto plugin = find_device_kind(name);  // disabled as a whole
    if (!plugin || *plugin == DeviceKind::cpu) find(name, "RONDO_DISABLE_BACKENDS");
  }
  return names;
}

AttentionRefusal AttentionRegistry::answer(const AttentionKernel& kernel, const AttentionProblem& problem,
                                           std::span<const std::string> disabled) {
  if (std::find(disabled.begin(), disabled.end(), kernel.name()) != disabled.end())
    return "disabled by RONDO_DISABLE_BACKENDS";
  if (kernel.device() != problem.device.kind)
    return fmt::format("runs on {}; the operands are on {}", device_kind_name(kernel.device()),
                       to_string(problem.device));
  if (!kernel.takes(problem.quantization.dtype))
    return fmt::format("does not take kv_cache={}", kv_cache_dtype_name(problem.quantization.dtype));
  if (auto refusal = kernel.unavailable()) return refusal;
  return kernel.supports(problem);
}

AttentionRefusal AttentionRegistry::answer(const AttentionKernel& kernel, const AttentionProblem& problem) const {
  return answer(kernel, problem, disabled());
}

std::vector<AttentionBackendAnswer> AttentionRegistry::answers(const AttentionProblem& problem) const {
  std::vector<AttentionBackendAnswer> answers;
  for (const auto& kernel : kernels()) answers.push_back({std::string(kernel->name()), answer(*kernel, problem)});
  return answers;
}

std::shared_ptr<const AttentionKernel> AttentionRegistry::find(const std::string& name,
                                                               const std::string& source) const {
  const auto known = [&]() -> std::shared_ptr<const AttentionKernel> {
    for (const auto& kernel : kernels()) {
      if (kernel->name() == name) return kernel;
    }
    return nullptr;
  };
  if (auto kernel = known()) return kernel;
  if (load_more_) load_more_();  // it may be a plug-in's
  if (auto kernel = known()) return kernel;
  std::vector<std::string_view> names;
  const auto all = kernels();
  names.reserve(all.size());
  for (const auto& kernel : all) names.push_back(kernel->name());
  throw InvalidArgument(fmt::format("attention: backend '{}' ({}) is not known; allowed are {}", printable(name),
                                    source, fmt::join(names, ", ")));
}

std::shared_ptr<const AttentionKernel> AttentionRegistry::ring_default(DType dtype, const Device& device) const {
  AttentionProblem hop;
  hop.device = device;
  hop.dtype = dtype;
  hop.lse = true;
  for (auto& kernel : kernels()) {
    if (!answer(*kernel, hop)) return std::move(kernel);
  }
  return nullptr;
}

AttentionChoice AttentionRegistry::select(const AttentionProblem& problem, const AttentionRequest& request) const {
  if (const auto [name, source] = request.named_backend(); !name.empty()) {
    auto kernel = find(name, source);
    if (const auto refusal = answer(*kernel, problem)) {
      throw Unsupported(fmt::format("attention: backend '{}' ({}) cannot run {}: {}", kernel->name(), source,
                                    to_string(problem), *refusal));
    }
    return {std::move(kernel), {}, source};
  }
  const std::vector<std::string> without = disabled();
  for (auto& kernel : kernels()) {
    if (!answer(*kernel, problem, without)) return {std::move(kernel), {}, "first that supports it"};
  }
  std::vector<std::string> refusals;
  for (const auto& kernel : kernels()) {
    if (kernel->device() != problem.device.kind) continue;  // says nothing but that
    refusals.push_back(fmt::format("{}: {}", kernel->name(), answer(*kernel, problem).value_or("")));
  }
  if (refusals.empty()) refusals.push_back("none is for that device");
  throw Unsupported(fmt::format("attention: no backend can run {}: {}", to_string(problem), fmt::join(refusals, "; ")));
}

}  // namespace rondo
