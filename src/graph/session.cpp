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
  // Messages and weights that come and go have streams of their own.
  const bool alone = messages_ == nullptr && plan_->offloaded() == nullptr;
  const bool records = plan_->recording() != PlanTarget::Recording::never;
  if (work_ != nullptr && alone && records && !plan_->device()->runtime().refuse_recording())
    recorded_ = std::make_unique<RecordedSteps>(*work_, plan_->recording() == PlanTarget::Recording::always);
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

/// What a run's steps share. Gives them to where they run.
class Session::Progress {
 public:
  Progress(Session& session, const RunContext& context)
      : session_(session),
        context_(context),
        scratch_(session.arena_.as<std::byte>() + session.plan_->layout().memory.arena_bytes,
                 session.plan_->scratch_bytes()),
        cpu_scratch_(scratch_),
        under_way_(session.work_ != nullptr) {
    const Plan& plan = *session.plan_;
    if (session.work_ != nullptr) {
      cpu_scratch_ = {session.host_arena_.as<std::byte>() + plan.layout().host_memory.arena_bytes,
                      plan.host_scratch_bytes()};
    }
    if (context.sequence != nullptr) collectives_.emplace(*context.sequence, session.messages_.get());
    if (plan.offloaded() != nullptr) weights_.emplace(*plan.offloaded(), session.work_->stream());
    if (context.step_ms != nullptr) context.step_ms->resize(session.steps_.size());
  }

  /// Whether somebody looks at each step.
  bool is_watched() const {
    return context_.step_ms != nullptr || context_.recorder != nullptr || context_.tap != nullptr;
  }
  void check_cancel() const {
    if (context_.cancel != nullptr && context_.cancel->load(std::memory_order_relaxed))
      throw Cancelled("run: cancelled");
  }
  bool falls_back(std::size_t i) const {
    const Bound& step = session_.steps_[i];
    return step.fallback != nullptr && step.op->falls_back_at(context_.step);
  }

  /// Host memory that copies read or write is the CPU's again once they are done.
  void wait() {
    if (under_way_) session_.work_->finish();
    if (under_way_ && session_.messages_ != nullptr) session_.messages_->finish();
    under_way_ = false;
  }

  void give(std::size_t i) {
    using Clock = std::chrono::steady_clock;
    check_cancel();
    Bound& step = session_.steps_[i];
    if (step.on_cpu) wait();
    const auto start = context_.step_ms != nullptr ? Clock::now() : Clock::time_point();
    const double recorded_ms = context_.recorder != nullptr ? context_.recorder->clock.now_ms() : 0;
    if (weights_) weights_->enter(step.group);
    const Plan& plan = *session_.plan_;
    const KernelArgs args{step.inputs,
                          step.outputs,
                          step.on_cpu ? cpu_scratch_ : scratch_,
                          plan.threads(),
                          collectives_ ? &*collectives_ : nullptr,
                          plan.device(),
                          session_.work_ == nullptr ? nullptr : &session_.work_->stream()};
    for (int turn = 0; turn < context_.repeats; ++turn) (falls_back(i) ? step.fallback : step.kernel)->run(args);
    under_way_ = under_way_ || !step.on_cpu;
    if (is_watched()) wait();
    if (context_.step_ms != nullptr)
      (*context_.step_ms)[i] += std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    if (context_.recorder != nullptr) {
      context_.recorder->events.push_back(
          {session_.plan_, i, context_.component, recorded_ms, context_.recorder->clock.now_ms() - recorded_ms});
    }
    if (context_.tap != nullptr) session_.show(context_, i);
  }

  /// Steps of a device, by what it has recorded of them.
  void give_recorded(std::size_t first, std::size_t end) {
    check_cancel();
    RecordedSteps::Stretch stretch{first, {}};
    for (std::size_t i = first; i < end; ++i) stretch.falls_back.push_back(falls_back(i));
    session_.recorded_->run(stretch, [&] {
      for (std::size_t i = first; i < end; ++i) give(i);
    });
    under_way_ = true;
  }

 private:
  Session& session_;
  const RunContext& context_;
  std::span<std::byte> scratch_;
  std::span<std::byte> cpu_scratch_;
  std::optional<CollectiveRun> collectives_;
  std::optional<OffloadedWeights::Run> weights_;
  /// Work was given to the stream since it was last waited for: also what a run that threw left.
  bool under_way_;
};

std::size_t Session::stretch_end(std::size_t first) const {
  std::size_t end = first;
  while (end < steps_.size() && !steps_[end].on_cpu) ++end;
  return end;
}

void Session::run(const RunContext& context) {
  const ThreadTeamScope team(plan_->threads());
  Progress progress(*this, context);
  const bool records = recorded_ != nullptr && !progress.is_watched();
  for (std::size_t i = 0; i < steps_.size();) {
    const std::size_t end = records ? stretch_end(i) : i;
    if (end > i) {
      progress.give_recorded(i, end);
      i = end;
    } else {
      progress.give(i++);
    }
  }
  progress.wait();
}

}  // namespace rondo
