// The simulator's own view of its state.
#pragma once

#include <deque>
#include <map>
#include <set>
#include <thread>

#include "simulator.h"

namespace ascend_simulator {

struct Task {
  std::uint64_t ticket;
  std::string what;
  std::function<void()> run;
};

struct Stream {
  int device;
  std::deque<Task> tasks;
  std::uint64_t done = 0;  // the last ticket that ran
  /// What the work failed with; what comes after it does not run.
  int failure = 0;
  /// Who runs it, while a task has let go of the lock.
  std::thread::id runner = {};

  /// Runs what was given up to that ticket.
  void run_until(std::uint64_t ticket);
};

/// Where an event was recorded last.
struct Event {
  Stream* stream = nullptr;
  std::uint64_t ticket = 0;
};

struct State {
  State();
  ~State();

  void* allocate(int device, std::size_t bytes);
  void release(void* memory);
  bool is_pinned(const void* address, std::size_t bytes) const;
  Stream& stream(void* handle, const std::string& what);

  std::recursive_mutex mutex;
  bool initialised = false;
  std::byte* visible = nullptr;  // what programs see, and may not touch
  std::byte* hidden = nullptr;   // the same memory for the simulator
  std::size_t arena_bytes = 0;
  std::map<std::byte*, Block> blocks;
  std::map<int, std::size_t> used;
  std::uint64_t numbers = 0;
  std::uint64_t tickets = 0;
  std::string running;  // the task's name
  std::map<std::byte*, std::size_t> pinned;
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::map<std::string, long> descriptors;  // of each kind: how many are alive
  std::map<std::string, long> calls;        // of each fault
};

State& state();
void set_current_device(int device);
/// Null where there are none; valid until the thread's next call.
const char* take_recent_words();
int device_count();
std::size_t device_memory();

}  // namespace ascend_simulator
