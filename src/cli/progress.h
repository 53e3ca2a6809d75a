// Progress on stderr: one line that is drawn over on a terminal, now and then a plain line elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace rondo::cli {

class Progress {
 public:
  Progress();
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void stage(const std::string& name);
  void step(std::int64_t step, std::int64_t steps);
  /// Ends the line that is being drawn, so that other text can follow.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  bool terminal_;
  bool line_open_ = false;
  Clock::time_point stage_start_;
  Clock::time_point last_print_;
};

}  // namespace rondo::cli
