// Scoped tracing: who wants times hands a Trace down; without one a scope costs a pointer test.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace rondo {

/// Collects timed events in the order in which they end. One thread writes to a Trace.
class Trace {
 public:
  struct Event {
    std::string name;
    double start_ms;  // since the trace was made
    double duration_ms;
  };

  double now_ms() const { return std::chrono::duration<double, std::milli>(Clock::now() - start_).count(); }
  void add(std::string name, double start_ms, double duration_ms) {
    events_.push_back({std::move(name), start_ms, duration_ms});
  }
  const std::vector<Event>& events() const { return events_; }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
  std::vector<Event> events_;
};

/// Times the enclosing block; does nothing when `trace` is null.
class TraceScope {
 public:
  TraceScope(Trace* trace, std::string name) : trace_(trace), name_(std::move(name)) {
    if (trace_ != nullptr) start_ms_ = trace_->now_ms();
  }
  ~TraceScope() {
    if (trace_ != nullptr) trace_->add(std::move(name_), start_ms_, trace_->now_ms() - start_ms_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  Trace* trace_;
  std::string name_;
  double start_ms_ = 0;
};

}  // namespace rondo
