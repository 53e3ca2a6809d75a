#include "cli/cancel.h"

#include <csignal>

namespace rondo::cli {
namespace {

std::atomic<bool>& flag() {
  static std::atomic<bool> value{false};
  return value;
}

void on_signal(int signal) {
  flag().store(true);
  std::signal(signal, SIG_DFL);
}

}  // namespace

const std::atomic<bool>& cancel_on_interrupt() {
  std::atomic<bool>& value = flag();  // made before the handler can run
  // Without SA_RESTART: opening a FIFO that has no peer ends as well.
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  return value;
}

}  // namespace rondo::cli
