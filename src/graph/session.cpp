#include "graph/session.h"

#include <chrono>

#include "core/threads.h"
#include "parallel/collective_run.h"
#include "rondo/error.h"

namespace rondo {

Session::Session(std::shared_ptr<const Plan> plan)
    : plan_(std::move(plan)), arena_(Tensor::empty({static_cast<std::int64_t>(plan_->arena_bytes())}, DType::u8)) {
  const Graph& graph = plan_->graph();
  const BufferLayout& layout = plan_->layout();
  values_.resize(graph.values.size());
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (layout.buffers[i] >= 0) {
      std::byte* begin = arena_.as<std::byte>() + layout.memory.offsets[static_cast<std::size_t>(layout.buffers[i])];
      const Tensor& prototype = layout.prototypes[i];
      values_[i] = Tensor::borrow(begin + layout.offsets[i], prototype.shape(), prototype.dtype())
                       .restrided(prototype.shape(), prototype.strides());
    } else if (plan_->resident(static_cast<ValueId>(i)).defined()) {
      values_[i] = plan_->resident(static_cast<ValueId>(i));
    }
  }
  for (const Node& node : graph.nodes) {  // each stands behind those that it looks at
    Tensor& value = values_[static_cast<std::size_t>(node.outputs[0])];
    if (layout.is_view[static_cast<std::size_t>(node.outputs[0])] && !value.defined())
      value = *node.op->view(values_[static_cast<std::size_t>(node.inputs[0])]);
  }
  for (const Plan::Step& step : plan_->steps()) {
    const Node& node = plan_->node(step);
    Bound bound{node.op.get(), step.kernel.get(), step.fallback.get(), {}, {}};
    for (const ValueId id : node.inputs) bound.inputs.push_back(values_[static_cast<std::size_t>(id)]);
    for (const ValueId id : node.outputs) bound.outputs.push_back(values_[static_cast<std::size_t>(id)]);
    steps_.push_back(std::move(bound));
  }
}

Tensor Session::find(const std::vector<NamedValue>& names, const std::string& name) const {
  for (const NamedValue& named : names) {
    if (named.name == name) return values_[static_cast<std::size_t>(named.value)];
  }
  throw InvalidArgument(fmt::format("session: the graph has no input or output '{}'", name));
}

Tensor Session::input(const std::string& name) const { return find(plan_->graph().inputs, name); }
Tensor Session::output(const std::string& name) const { return find(plan_->graph().outputs, name); }

void Session::run(const RunContext& context) {
  using Clock = std::chrono::steady_clock;
  const ThreadTeamScope team(plan_->threads());
  const std::span<std::byte> scratch(arena_.as<std::byte>() + plan_->layout().memory.arena_bytes,
                                     plan_->scratch_bytes());
  std::optional<CollectiveRun> collectives;
  if (context.sequence != nullptr) collectives.emplace(*context.sequence);
  CollectiveRun* const peers = collectives ? &*collectives : nullptr;
  if (context.step_ms != nullptr) context.step_ms->resize(steps_.size());
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    if (context.cancel != nullptr && context.cancel->load(std::memory_order_relaxed)) throw Cancelled("run: cancelled");
    Bound& step = steps_[i];
    const auto start = context.step_ms != nullptr ? Clock::now() : Clock::time_point();
    const double recorded_ms = context.recorder != nullptr ? context.recorder->clock.now_ms() : 0;
    const bool falls_back = step.fallback != nullptr && step.op->falls_back_at(context.step);
    (falls_back ? step.fallback : step.kernel)->run({step.inputs, step.outputs, scratch, plan_->threads(), peers});
    if (context.step_ms != nullptr) {
      (*context.step_ms)[i] += std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    }
    if (context.recorder != nullptr) {
      context.recorder->events.push_back(
          {plan_, i, context.component, recorded_ms, context.recorder->clock.now_ms() - recorded_ms});
    }
    if (context.tap != nullptr)
      (*context.tap)(plan_->graph(), plan_->node(plan_->steps()[i]), step.inputs, step.outputs);
  }
}

}  // namespace rondo
