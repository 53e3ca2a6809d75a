#include "core/lane.h"

#include <utility>

namespace rondo {

Lane::Lane() : thread_([this] { loop(); }) {}

Lane::~Lane() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Lane::start(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    task_ = std::move(task);
  }
  changed_.notify_all();
}

void Lane::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !task_; });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Lane::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ends_ || task_; });
    if (!task_) return;
    lock.unlock();
    std::exception_ptr error;
    try {
      task_();  // nobody else touches it until it is done
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    error_ = error;
    task_ = nullptr;
    changed_.notify_all();
  }
}

void run_beside(Lane& lane, const std::function<void()>& here, std::function<void()> there) {
  lane.start(std::move(there));
  try {
    here();
  } catch (...) {
    try {
      lane.wait();
    } catch (...) {  // NOLINT(bugprone-empty-catch): the first failure is the one that is told
    }
    throw;
  }
  lane.wait();
}

}  // namespace rondo
