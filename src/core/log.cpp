#include "core/log.h"

#include <atomic>
#include <mutex>

namespace rondo {
namespace {

struct Sink {
  std::mutex mutex;
  LogSink function;
  std::atomic<LogLevel> level{LogLevel::off};
};

Sink& sink() {
  static Sink instance;
  return instance;
}

}  // namespace

void set_log_sink(LogLevel level, LogSink function) {
  Sink& s = sink();
  const std::lock_guard lock(s.mutex);
  s.level = function ? level : LogLevel::off;
  s.function = std::move(function);
}

bool log_enabled(LogLevel level) { return level >= sink().level.load(std::memory_order_relaxed); }

void log_message(LogLevel level, std::string_view message) {
  Sink& s = sink();
  const std::lock_guard lock(s.mutex);
  if (s.function) s.function(level, message);
}

}  // namespace rondo
