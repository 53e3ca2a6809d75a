#include "attention/attention_registry.h"

#include <fmt/format.h>

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

AttentionRefusal AttentionRegistry::answer(const AttentionKernel& kernel, const AttentionProblem& problem) const {
  for (const std::string& name : split_list(env_value("RONDO_DISABLE_BACKENDS").value_or(""))) {
    if (find(name, "RONDO_DISABLE_BACKENDS").get() == &kernel) return "disabled by RONDO_DISABLE_BACKENDS";
  }
  if (auto refusal = kernel.unavailable()) return refusal;
  return kernel.supports(problem);
}

std::vector<AttentionBackendAnswer> AttentionRegistry::answers(const AttentionProblem& problem) const {
  std::vector<AttentionBackendAnswer> answers;
  for (const auto& kernel : kernels()) answers.push_back({std::string(kernel->name()), answer(*kernel, problem)});
  return answers;
}

std::shared_ptr<const AttentionKernel> AttentionRegistry::find(const std::string& name,
                                                               const std::string& source) const {
  std::vector<std::string_view> names;
  for (const auto& kernel : kernels()) {
    if (kernel->name() == name) return kernel;
    names.push_back(kernel->name());
  }
  throw InvalidArgument(fmt::format("attention: backend '{}' ({}) is not known; allowed are {}", printable(name),
                                    source, fmt::join(names, ", ")));
}

std::shared_ptr<const AttentionKernel> AttentionRegistry::ring_default(DType dtype) const {
  AttentionProblem hop;
  hop.dtype = dtype;
  hop.lse = true;
  for (auto& kernel : kernels()) {
    if (!answer(*kernel, hop)) return std::move(kernel);
  }
  return nullptr;
}

AttentionChoice AttentionRegistry::select(const AttentionProblem& problem, const std::string& forced) const {
  const auto from_environment = env_value("RONDO_ATTENTION_BACKEND");
  if (!forced.empty() || from_environment) {
    const std::string source = forced.empty() ? "RONDO_ATTENTION_BACKEND" : "the call";
    auto kernel = find(forced.empty() ? *from_environment : forced, source);
    if (const auto refusal = answer(*kernel, problem)) {
      throw Unsupported(fmt::format("attention: backend '{}' ({}) cannot run {}: {}", kernel->name(), source,
                                    to_string(problem), *refusal));
    }
    return {std::move(kernel), {}, source};
  }
  std::vector<std::string> refusals;
  for (auto& kernel : kernels()) {
    const auto refusal = answer(*kernel, problem);
    if (!refusal) return {std::move(kernel), {}, "first that supports it"};
    refusals.push_back(fmt::format("{}: {}", kernel->name(), *refusal));
  }
  throw Unsupported(fmt::format("attention: no backend can run {}: {}", to_string(problem), fmt::join(refusals, "; ")));
}

}  // namespace rondo
