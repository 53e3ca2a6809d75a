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

RecordedSteps::RecordedSteps(const DeviceWork& work)
    : work_(work), lease_(work.device().memory().lease(work.stream())) {}

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
  if (lease_->within(recording.term, [&] { recording.work->launch(work_.stream()); })) return true;
  recording.work.reset();  // its memory went to somebody else
  return false;
}

void RecordedSteps::record(Recording& recording, const std::function<void()>& give) {
  recording.term = lease_->term();
  try {
    OpenRecording open(work_.stream());
    give();
    recording.work = open.end();
  } catch (const Cancelled&) {
    throw;
  } catch (const std::exception& error) {
    recording.fails = true;
    failure_ = error.what();
    log(LogLevel::info, "{}: steps are not recorded: {}", rondo::to_string(work_.device().device()), failure_);
  }
}

std::string RecordedSteps::to_string() const {
  const auto count = std::count_if(recordings_.begin(), recordings_.end(),
                                   [](const auto& known) { return known.second.work != nullptr; });
  return fmt::format("{} recorded{}", count, failure_.empty() ? "" : fmt::format(", one not: {}", failure_));
}

}  // namespace rondo
