#include "support/devices.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>

#include "backends/attention_backends.h"
#include "backends/device_work.h"
#include "backends/devices.h"
#include "core/device_name.h"
#include "rondo/error.h"

namespace rondo::test {
namespace {

std::string wanted() {
  const char* const text = std::getenv("RONDO_TEST_DEVICE");
  return text == nullptr ? "cpu" : text;
}

std::set<std::string>& ran() {
  static std::set<std::string> operators;
  return operators;
}

/// What a device's kernels refuse with good reason among the problems of kernel tests.
struct KnownRefusal {
  DeviceKind device;
  std::string_view op;  // empty: any
  std::string_view reason;
};
constexpr std::array kRefusals{
    KnownRefusal{DeviceKind::ascend, "", "has no bfloat16"},  // chips before Atlas A2
    KnownRefusal{DeviceKind::ascend, "linear", "quant-matmul: takes w8a8 only"},
    KnownRefusal{DeviceKind::ascend, "linear", "quant-matmul: does not turn its inputs"},
    KnownRefusal{DeviceKind::ascend, "linear", "quant-matmul: takes bfloat16 and float16 only"},
    KnownRefusal{DeviceKind::ascend, "linear", "quant-matmul: needs Atlas A2 or later"},
    KnownRefusal{DeviceKind::cuda, "linear", "takes inputs and outputs in multiples of"},
};

}  // namespace

Device test_device() { return find_device(wanted()); }

bool test_device_keeps_f32() {
  const auto device = open_device(test_device());
  return device == nullptr || device->runtime().keeps_f32();
}

std::string missing_test_device() {
  try {
    open_device(test_device());
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

PlanTarget test_target(int threads, int rank) { return {threads, open_device(find_device_of_turn(wanted(), rank))}; }

RandomAttention on_test_device(RandomAttention operands) {
  operands.problem.device = test_device();
  return on_device(std::move(operands));
}

AttentionResult on_cpu(const AttentionResult& result) {
  return {result.output.to(Device{}), result.lse.defined() ? result.lse.to(Device{}) : Tensor()};
}

AttentionResult run_on_test_device(const AttentionRunner& runner, const RandomAttention& operands) {
  AttentionCall call = operands.call(2);
  Tensor scratch = empty_on(test_device(), {static_cast<std::int64_t>(runner.scratch_bytes())}, DType::u8);
  const std::span<std::byte> scratch_bytes(scratch.as<std::byte>(), runner.scratch_bytes());
  const auto device = open_device(test_device());
  if (device == nullptr) {
    runner.run(call, scratch_bytes);
    return {call.output, call.lse};
  }
  call.output = device->upload(call.output);
  if (call.lse.defined()) call.lse = device->upload(call.lse);
  DeviceWork work(device);
  call.device = device.get();
  call.stream = &work.stream();
  runner.run(call, scratch_bytes);
  work.finish();
  return on_cpu({call.output, call.lse});
}

void expect_known_refusal(std::string_view op, std::string_view refusal) {
  const Device device = test_device();
  const bool known = std::any_of(kRefusals.begin(), kRefusals.end(), [&](const KnownRefusal& row) {
    return row.device == device.kind && (row.op.empty() || row.op == op) &&
           refusal.find(row.reason) != std::string::npos;
  });
  EXPECT_TRUE(known) << op << " is refused on " << to_string(device) << ", where it is to run: " << refusal;
}

void note_device_operator(std::string_view op) { ran().emplace(op); }

std::vector<std::string> device_operators_without_test() {
  const auto device = open_device(test_device());
  if (device == nullptr || ran().empty()) return {};
  std::set<std::string> without;
  for (const KernelEntry& entry : device->kernels()) {
    const bool runs_in_plans = entry.op == "device_copy" || entry.op == "exchange" || entry.op == "wait";
    if (!runs_in_plans && !ran().contains(std::string(entry.op))) without.emplace(entry.op);
  }
  return {without.begin(), without.end()};
}

}  // namespace rondo::test
