// The attention kernels in order, best first, and which of them takes a problem.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "attention/attention_kernel.h"
#include "attention/attention_request.h"
#include "rondo/attention.h"

namespace rondo {

struct AttentionChoice {
  std::shared_ptr<const AttentionKernel> kernel;
  AttentionTiling tiling;
  /// What decided: "the call", "RONDO_ATTENTION_BACKEND", "first that supports it" or "measured to be the fastest".
  std::string reason;
};

/// Kernels may be added while others select: plug-ins load late.
class AttentionRegistry {
 public:
  /// Behind the last one that is there. Throws Error when the name is taken.
  void add(std::shared_ptr<const AttentionKernel> kernel);
  std::vector<std::shared_ptr<const AttentionKernel>> kernels() const;

  /// What adds further kernels when a name is not known: plug-ins open late.
  void set_loader(std::function<void()> load_more) { load_more_ = std::move(load_more); }

  /// The kernel of that name. Throws InvalidArgument, naming `source` and the known ones.
  std::shared_ptr<const AttentionKernel> find(const std::string& name, const std::string& source) const;

  /// One kernel's answer, RONDO_DISABLE_BACKENDS included.
  AttentionRefusal answer(const AttentionKernel& kernel, const AttentionProblem& problem) const;
  /// Each kernel's answer.
  std::vector<AttentionBackendAnswer> answers(const AttentionProblem& problem) const;

  /// The first kernel that returns an LSE, and so can be one hop of a ring; null when there is none.
  std::shared_ptr<const AttentionKernel> ring_default(DType dtype, const Device& device = {}) const;

  /// The kernel that the request names, else the first that supports the problem; the plain reference is taken only
  /// when nothing else can. Throws InvalidArgument for an unknown name, Unsupported with the reasons when it cannot.
  AttentionChoice select(const AttentionProblem& problem, const AttentionRequest& request) const;

 private:
  static AttentionRefusal answer(const AttentionKernel& kernel, const AttentionProblem& problem,
                                 std::span<const std::string> disabled);
  /// What RONDO_DISABLE_BACKENDS names. Throws InvalidArgument for names that are not known.
  std::vector<std::string> disabled() const;

  std::function<void()> load_more_;
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const AttentionKernel>> kernels_;
};

}  // namespace rondo
