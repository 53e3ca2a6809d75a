#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include "cli/stderr.h"

namespace rondo::cli {

Progress::Progress() : terminal_(isatty(STDERR_FILENO) == 1) {}
Progress::~Progress() { finish(); }

void Progress::finish() {
  if (line_open_) print_error("\n");
  line_open_ = false;
}

void Progress::stage(const std::string& name) {
  stage_start_ = Clock::now();
  last_print_ = {};
  finish();
  if (terminal_) {
    print_error("{}", name);
    line_open_ = true;
  } else {
    print_error("{}\n", name);
  }
}

void Progress::step(std::int64_t step, std::int64_t steps) {
  using Seconds = std::chrono::duration<double>;
  const auto now = Clock::now();
  // A terminal is drawn at most 20 times a second, a log gets a line a second; the last step always shows.
  const double pause = terminal_ ? 0.05 : 1.0;
  if (step != steps && Seconds(now - last_print_).count() < pause && last_print_ != Clock::time_point()) return;
  last_print_ = now;
  const double each = Seconds(now - stage_start_).count() / static_cast<double>(step);
  const std::string line = fmt::format("denoise: step {}/{}, {:.3g} s/it, {:.1f} s left", step, steps, each,
                                       each * static_cast<double>(steps - step));
  if (terminal_) {
    print_error("\r\033[K{}", line);
    line_open_ = true;
  } else {
    print_error("{}\n", line);
  }
}

}  // namespace rondo::cli
