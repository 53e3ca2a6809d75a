// A session runs a plan: it owns an arena, and on a device a stream and what that has recorded, and nothing else. Many
// sessions share one plan; each belongs to one thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/device_work.h"
#include "core/trace.h"
#include "graph/plan.h"
#include "graph/recorded_steps.h"
#include "parallel/communicator.h"
#include "parallel/device_messages.h"

namespace rondo {

/// Sees a node's operands once it has run, on the CPU wherever they lie; for calibration and evaluation. Of an operator
/// that may write over an input (Operator::overwritable_input) that input may be gone.
using NodeTap = std::function<void(const Graph& graph, const Node& node, std::span<const Tensor> inputs,
                                   std::span<const Tensor> outputs)>;

/// When a step of a plan ran.
struct NodeEvent {
  std::shared_ptr<const Plan> plan;
  std::size_t step;
  std::string component;
  double start_ms;  // on the recorder's clock
  double duration_ms;
};

/// Collects the events of runs on one thread.
struct NodeRecorder {
  Trace clock;
  std::vector<NodeEvent> events;
};

/// What goes with every run: where the request stands, how to stop it, who wants times.
struct RunContext {
  int step = 0;
  int step_count = 1;
  const std::atomic<bool>* cancel = nullptr;  // looked at between nodes
  std::vector<double>* step_ms = nullptr;     // one entry a step of the plan; times are added
  /// How often each node is done before the next is: where one is timed on a device, waiting for it weighs less.
  int repeats = 1;
  const NodeTap* tap = nullptr;
  NodeRecorder* recorder = nullptr;
  std::string component;  // whose run it is, for the recorder
  /// The ranks that share the sequence, for a plan for several; null for a plan for one.
  Communicator* sequence = nullptr;
};

class Session {
 public:
  explicit Session(std::shared_ptr<const Plan> plan);

  const Plan& plan() const { return *plan_; }

  /// Views of memory on the CPU. Inputs keep what is written to them from run to run; outputs hold the last run's
  /// results.
  Tensor input(const std::string& name) const;
  Tensor output(const std::string& name) const;

  /// Returns when the outputs are there. Times of nodes on a device include waiting for each: they are taken only where
  /// the context asks for them. Throws Cancelled when the context's flag is set, DeviceError.
  void run(const RunContext& context);

  /// What a device has recorded of its steps; empty where none is to.
  std::string recorded_to_string() const { return recorded_ == nullptr ? "" : recorded_->to_string(); }

 private:
  struct Bound {
    const Operator* op;
    const Kernel* kernel;
    const Kernel* fallback;
    bool on_cpu;
    OffloadedWeights::Group* group;
    std::vector<Tensor> inputs;
    std::vector<Tensor> outputs;
  };

  /// A run that is under way.
  class Progress;
  /// The step behind the last of those from `first` on that are not the CPU's.
  std::size_t stretch_end(std::size_t first) const;
  void show(const RunContext& context, std::size_t step) const;
  Tensor find(const std::vector<NamedValue>& names, const std::string& name) const;

  std::shared_ptr<const Plan> plan_;
  Tensor arena_;
  Tensor host_arena_;  // of a plan for a device: what lies on the CPU
  std::vector<Tensor> values_;
  std::vector<Bound> steps_;
  // Null where no steps are recorded.
  std::unique_ptr<RecordedSteps> recorded_;
  // Null on the CPU, and where ranks exchange nothing on the device; last: they end before the memory that they use
  // goes.
  std::unique_ptr<DeviceWork> work_;
  std::unique_ptr<DeviceMessages> messages_;
};

}  // namespace rondo
