#include "graph/recorded_steps.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/log.h"
#include "rondo/error.h"

namespace rondo {
namespace {

/// Ends a recording however it goes; what a failed one recorded is nothing.
class OpenRecording {
 public:
  explicit OpenRecording(DeviceStream& stream) : stream_(stream) { stream_.begin_recording(); }
  ~OpenRecording() {
    if (ended_) return;
    try {
      stream_.end_recording();
    } catch (const std::exception& error) {
      log(LogLevel::debug, "{}", error.what());  // what failed first is on its way
    }
  }
  OpenRecording(const OpenRecording&) = delete;
  OpenRecording& operator=(const OpenRecording&) = delete;

  std::unique_ptr<RecordedWork> end() {
    ended_ = true;
    return stream_.end_recording();
  }

 private:
  DeviceStream& stream_;
  bool ended_ = false;
};

}  // namespace

RecordedSteps::RecordedSteps(const DeviceWork& work, bool required)
    : work_(work), required_(required), lease_(work.device().memory().lease(work.stream())) {}

void RecordedSteps::run(const Stretch& stretch, const std::function<void()>& give) {
  Recording& recording = recordings_[stretch];
  if (launch(recording)) return;
  if (recording.was_done && !recording.fails) {
    record(recording, give);
    if (launch(recording)) return;
  }
  recording.was_done = true;
  give();
}

bool RecordedSteps::launch(Recording& recording) {
  if (recording.work == nullptr) return false;
  try {
    if (lease_->within(recording.term, [&] { recording.work->launch(work_.stream()); })) {
      recording.lost = 0;
      return true;
    }
    recording.work.reset();
    lose(recording, "their memory goes to others again and again");
  } catch (const DeviceError& error) {
    recording.work.reset();
    lose(recording, error.what());
    work_.device().memory().release_cached();  // a first launch asks for memory
  }
  return false;
}

void RecordedSteps::record(Recording& recording, const std::function<void()>& give) {
  try {
    const CachingAllocator::Recording nobody_waits(work_.device().memory());
    recording.term = lease_->term();
    OpenRecording open(work_.stream());
    give();
    recording.work = open.end();
    ++recording.times;
  } catch (const Cancelled&) {
    throw;
  } catch (const std::exception& error) {
    lose(recording, error.what());
  }
}

void RecordedSteps::lose(Recording& recording, const std::string& reason) {
  constexpr int kMostLost = 8;
  const std::string message =
      fmt::format("{}: steps are not recorded: {}", rondo::to_string(work_.device().device()), reason);
  log(LogLevel::debug, "{}", message);
  if (++recording.lost < kMostLost) return;
  recording.fails = true;
  failure_ = reason;
  if (required_) throw DeviceError(message);
  log(LogLevel::info, "{}", message);
}

std::string RecordedSteps::to_string() const {
  int count = 0;
  int again = 0;
  for (const auto& [stretch, recording] : recordings_) {
    count += recording.work != nullptr ? 1 : 0;
    again += std::max(recording.times - 1, 0);
  }
  return fmt::format("{} recorded{}{}", count, again == 0 ? "" : fmt::format(", {} times anew", again),
                     failure_.empty() ? "" : fmt::format(", one not: {}", failure_));
}

}  // namespace rondo
