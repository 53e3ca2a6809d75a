#include "cuda_emulation.h"

#include <ucontext.h>
#include <csetjmp>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

namespace rondo::cuda {

EmulatedThread emulated;

namespace {

constexpr std::size_t kStack = 256 * 1024;
constexpr unsigned kLanes = 32;

enum class State { runs, waits_for_block, waits_for_warp, ended };

/// Begins as a context; after that jumps, which make no system calls, take turns.
struct Fiber {
  ucontext_t context;
  std::jmp_buf jump;
  bool is_new = true;
  std::unique_ptr<char[]> stack;
  State state = State::runs;
  EmulatedThread self;
  ThreadCopies copies;
};

/// The block that runs. Fibers stay for the next ones: making one takes system calls.
struct Block {
  std::jmp_buf scheduler;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::size_t threads = 0;
  std::size_t current = 0;
  std::vector<double> exchange;
  std::vector<std::byte> lane_rooms;
  std::vector<std::byte> shared;
  const std::function<void()>* thread = nullptr;
};

Block& block() {
  static Block instance;
  return instance;
}

void hand_over(State state) {
  Fiber& self = *block().fibers[block().current];
  self.state = state;
  if (_setjmp(self.jump) == 0) _longjmp(block().scheduler, 1);
}

void run_fiber() {
  while (true) {
    (*block().thread)();
    if (!own_copies().open.empty() || !own_copies().groups.empty()) {
      std::fprintf(stderr, "cuda emulation: a thread ends before its copies\n");
      std::abort();
    }
    hand_over(State::ended);
  }
}

std::unique_ptr<Fiber> make_fiber() {
  auto fiber = std::make_unique<Fiber>();
  fiber->stack = std::make_unique<char[]>(kStack);
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = kStack;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, run_fiber, 0);
  return fiber;
}

void go_on(Fiber& fiber) {
  if (_setjmp(block().scheduler) != 0) return;
  if (!fiber.is_new) _longjmp(fiber.jump, 1);
  fiber.is_new = false;
  setcontext(&fiber.context);
}

/// Lets go those who wait in [begin, end) for each other, if all do that have not ended.
bool release(std::size_t begin, std::size_t end, State waiting) {
  bool any = false;
  for (std::size_t i = begin; i < end; ++i) {
    const State state = block().fibers[i]->state;
    if (state != waiting && state != State::ended) return false;
    any = any || state == waiting;
  }
  for (std::size_t i = begin; any && i < end; ++i) {
    if (block().fibers[i]->state == waiting) block().fibers[i]->state = State::runs;
  }
  return any;
}

void run_block() {
  const std::size_t threads = block().threads;
  while (true) {
    bool ran = false;
    bool left = false;
    for (std::size_t i = 0; i < threads; ++i) {
      Fiber& fiber = *block().fibers[i];
      left = left || fiber.state != State::ended;
      if (fiber.state != State::runs) continue;
      block().current = i;
      emulated = fiber.self;
      go_on(fiber);
      ran = true;
    }
    if (!left) return;
    for (std::size_t warp = 0; warp < threads; warp += kLanes)
      ran = release(warp, std::min<std::size_t>(warp + kLanes, threads), State::waits_for_warp) || ran;
    ran = release(0, threads, State::waits_for_block) || ran;
    if (!ran) {
      std::fprintf(stderr, "cuda emulation: threads of a block wait for each other at different places\n");
      std::abort();
    }
  }
}

}  // namespace

void wait_for_block() { hand_over(State::waits_for_block); }
void wait_for_warp() { hand_over(State::waits_for_warp); }
double* warp_exchange() { return block().exchange.data() + block().current / kLanes * kLanes; }
ThreadCopies& own_copies() { return block().fibers[block().current]->copies; }
std::byte* lane_room(int lane) {
  const std::size_t of_warp = block().current / kLanes * kLanes + static_cast<std::size_t>(lane);
  return block().lane_rooms.data() + of_warp * kLaneRoom;
}
void* dynamic_shared() { return block().shared.data(); }

void run_grid(dim3 grid, dim3 size, std::size_t shared, const std::function<void()>& thread) {
  static std::mutex one_at_a_time;  // kernels' shared memory is static
  const std::lock_guard lock(one_at_a_time);
  Block& own = block();
  own.thread = &thread;
  own.threads = size.x;
  while (own.fibers.size() < own.threads) own.fibers.push_back(make_fiber());
  own.exchange.resize((size.x + kLanes - 1) / kLanes * kLanes);
  own.lane_rooms.resize(own.exchange.size() * kLaneRoom);
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      own.shared.assign(shared, std::byte{0xFF});  // NaNs: what is read before it is written shows
      for (unsigned i = 0; i < size.x; ++i) {
        own.fibers[i]->self = {dim3(i), dim3(x, y), size, grid};
        own.fibers[i]->state = State::runs;
      }
      run_block();
    }
  }
}

}  // namespace rondo::cuda
