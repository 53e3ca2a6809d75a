#include "graph/session.h"

#include <algorithm>
#include <chrono>

#include "core/threads.h"
#include "parallel/collective_run.h"
#include "rondo/error.h"

namespace rondo {

Session::Session(std::shared_ptr<const Plan> plan) : plan_(std::move(plan)) {
  const Shape arena_shape{static_cast<std::int64_t>(plan_->arena_bytes())};
  if (const ExecutionDevice* const device = plan_->device()) {
    work_ = std::make_unique<DeviceWork>(plan_->shared_device());
    arena_ = device->empty(arena_shape, DType::u8);
    const std::size_t host_bytes = std::max<std::size_t>(plan_->host_bytes(), 1);
    const std::shared_ptr<void> host = device->runtime().allocate_pinned(host_bytes);
    host_arena_ = Tensor::share(host, host.get(), {static_cast<std::int64_t>(host_bytes)}, DType::u8);
  } else {
    arena_ = Tensor::empty(arena_shape, DType::u8);
  }
  const Graph& graph = plan_->graph();
  const BufferLayout& layout = plan_->layout();
  values_.resize(graph.values.size());
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const auto id = static_cast<ValueId>(i);
    if (layout.buffers[i] >= 0) {
      const bool on_host = plan_->on_host(id);
      Tensor& arena = on_host ? host_arena_ : arena_;
      std::byte* begin =
          arena.as<std::byte>() + layout.memory_of(on_host).offsets[static_cast<std::size_t>(layout.buffers[i])];
      const Tensor& prototype = layout.prototypes[i];
      values_[i] = Tensor::borrow(begin + layout.offsets[i], prototype.shape(), prototype.dtype(), arena.device())
                       .restrided(prototype.shape(), prototype.strides());
    } else if (plan_->resident(id).defined()) {
      values_[i] = plan_->resident(id);
    }
  }
  for (const Node& node : graph.nodes) {  // each stands behind those that it looks at
    Tensor& value = values_[static_cast<std::size_t>(node.outputs[0])];
    if (layout.is_view[static_cast<std::size_t>(node.outputs[0])] && !value.defined())
      value = *node.op->view(values_[static_cast<std::size_t>(node.inputs[0])]);
  }
  for (const Plan::Step& step : plan_->steps()) {
    const Node& node = plan_->node(step);
    Bound bound{node.op.get(), step.kernel.get(), step.fallback.get(), step.on_cpu, step.group, {}, {}};
    for (const ValueId id : node.inputs) bound.inputs.push_back(values_[static_cast<std::size_t>(id)]);
    for (const ValueId id : node.outputs) bound.outputs.push_back(values_[static_cast<std::size_t>(id)]);
    steps_.push_back(std::move(bound));
    if (!step.on_cpu && messages_ == nullptr && dynamic_cast<const ExchangeOp*>(node.op.get()) != nullptr)
      messages_ = std::make_unique<DeviceMessages>(plan_->device()->runtime());
  }
}

void Session::show(const RunContext& context, std::size_t step) const {
  const auto on_cpu = [&](const std::vector<Tensor>& operands) {
    std::vector<Tensor> host;
    for (const Tensor& tensor : operands) {
      const bool is_elsewhere = tensor.defined() && !tensor.device().is_cpu();
      host.push_back(is_elsewhere ? plan_->device()->download(tensor) : tensor);
    }
    return host;
  };
  const Bound& bound = steps_[step];
  (*context.tap)(plan_->graph(), plan_->node(plan_->steps()[step]), on_cpu(bound.inputs), on_cpu(bound.outputs));
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
  std::span<std::byte> cpu_scratch = scratch;
  if (work_ != nullptr) {
    cpu_scratch = {host_arena_.as<std::byte>() + plan_->layout().host_memory.arena_bytes, plan_->host_scratch_bytes()};
  }
  std::optional<CollectiveRun> collectives;
  if (context.sequence != nullptr) collectives.emplace(*context.sequence, messages_.get());
  CollectiveRun* const peers = collectives ? &*collectives : nullptr;
  std::optional<OffloadedWeights::Run> weights;
  if (plan_->offloaded() != nullptr) weights.emplace(*plan_->offloaded(), work_->stream());
  if (context.step_ms != nullptr) context.step_ms->resize(steps_.size());
  const bool watched = context.step_ms != nullptr || context.recorder != nullptr || context.tap != nullptr;
  // Work was given to the stream since it was last waited for: also what a run that threw left.
  bool under_way = work_ != nullptr;
  const auto wait = [&] {
    if (under_way) work_->finish();
    if (under_way && messages_ != nullptr) messages_->finish();
    under_way = false;
  };
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    if (context.cancel != nullptr && context.cancel->load(std::memory_order_relaxed)) throw Cancelled("run: cancelled");
    Bound& step = steps_[i];
    // Host memory that copies read or write is the CPU's again once they are done.
    if (step.on_cpu) wait();
    const auto start = context.step_ms != nullptr ? Clock::now() : Clock::time_point();
    const double recorded_ms = context.recorder != nullptr ? context.recorder->clock.now_ms() : 0;
    if (weights) weights->enter(step.group);
    const bool falls_back = step.fallback != nullptr && step.op->falls_back_at(context.step);
    (falls_back ? step.fallback : step.kernel)
        ->run({step.inputs, step.outputs, step.on_cpu ? cpu_scratch : scratch, plan_->threads(), peers, plan_->device(),
               work_ == nullptr ? nullptr : &work_->stream()});
    under_way = under_way || !step.on_cpu;
    if (watched) wait();
    if (context.step_ms != nullptr) {
      (*context.step_ms)[i] += std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    }
    if (context.recorder != nullptr) {
      context.recorder->events.push_back(
          {plan_, i, context.component, recorded_ms, context.recorder->clock.now_ms() - recorded_ms});
    }
    if (context.tap != nullptr) show(context, i);
  }
  wait();
}

}  // namespace rondo
