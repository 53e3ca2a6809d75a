// The graph's attention: the kernel that the registry selects, under its name.
#include <algorithm>
#include <array>
#include <cmath>

#include "attention/attention_op.h"
#include "backends/attention_backends.h"
#include "backends/generic_kernels.h"
#include "rondo/error.h"

namespace rondo {
namespace {

const AttentionOp& op_of(const KernelRequest& request) { return static_cast<const AttentionOp&>(request.op); }

AttentionProblem problem_of(const KernelRequest& request) {
  const auto operand = [&](std::size_t i) {
    return i < request.inputs.size() ? request.inputs[i].prototype : Tensor();
  };
  AttentionProblem problem = describe_operands(operand(0), operand(1), operand(2), operand(3));
  if (request.inputs.size() == 4) problem.mask = MaskKind::additive;
  problem.own_scale = op_of(request).scale() != 1.0 / std::sqrt(static_cast<double>(problem.head_dim));
  problem.causal = op_of(request).causal();
  problem.lse = op_of(request).partial();
  problem.quantization = op_of(request).request().quantization;
  if (const auto& sequences = op_of(request).sequences(); !sequences.empty()) {
    problem.varlen = true;
    problem.batch = static_cast<std::int64_t>(sequences.size());
    problem.queries = problem.keys = 0;
    for (const AttentionSequence& s : sequences) {
      problem.queries = std::max(problem.queries, s.queries);
      problem.keys = std::max(problem.keys, s.keys);
    }
  }
  return problem;
}

class AttentionNode final : public Kernel {
 public:
  explicit AttentionNode(const KernelRequest& request)
      : choice_(attention_tuner().choose(problem_of(request), request.threads, op_of(request).request())),
        runner_(choice_.kernel->make(problem_of(request), choice_.tiling, request.threads)),
        scale_(static_cast<float>(op_of(request).scale())),
        causal_(op_of(request).causal()) {
    const Shape& q = request.inputs[0].prototype.shape();
    const std::int64_t keys = request.inputs[1].prototype.shape()[1];
    sequences_ = op_of(request).sequences();
    if (!sequences_.empty()) return;
    for (std::int64_t b = 0; b < q[0]; ++b) sequences_.push_back({b, 0, q[1], 0, keys});
  }

  std::string_view implementation() const override { return choice_.kernel->name(); }
  std::size_t scratch_bytes() const override { return runner_->scratch_bytes(); }

  void run(const KernelArgs& args) const override {
    AttentionCall call{args.inputs[0], args.inputs[1], args.inputs[2], {},           args.outputs[0], {},
                       sequences_,     scale_,         causal_,        args.threads, args.device,     args.stream};
    if (args.inputs.size() == 4) call.mask = args.inputs[3];
    if (args.outputs.size() == 2) call.lse = args.outputs[1];
    runner_->run(call, args.scratch);
  }

 private:
  AttentionChoice choice_;
  std::unique_ptr<AttentionRunner> runner_;
  std::vector<AttentionSequence> sequences_;
  float scale_;
  bool causal_;
};

Refusal supports(const KernelRequest& request) {
  for (const KernelInput& input : request.inputs) {
    const Tensor& operand = input.prototype;
    if (operand.strides()[3] != 1 && operand.shape()[3] != 1) return "takes dense rows only";
  }
  if (request.device == nullptr) return std::nullopt;  // where the reference takes everything
  try {
    attention_registry().select(problem_of(request), op_of(request).request());
  } catch (const Unsupported& refusal) {
    return refusal.what();
  }
  return std::nullopt;
}

constexpr std::array kEntries{KernelEntry{
    "attention", "registry", false, supports,
    [](const KernelRequest& request) -> std::unique_ptr<Kernel> { return std::make_unique<AttentionNode>(request); }}};

}  // namespace

std::span<const KernelEntry> attention_node_kernels() { return kEntries; }

}  // namespace rondo
