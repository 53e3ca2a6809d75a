#include "support/devices.h"

#include <cstdlib>
#include <set>

#include "backends/attention_backends.h"
#include "backends/devices.h"
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

PlanTarget test_target(int threads) { return {threads, open_device(test_device())}; }

RandomAttention on_test_device(RandomAttention operands) {
  operands.problem.device = test_device();
  return on_device(std::move(operands));
}

AttentionResult on_cpu(const AttentionResult& result) {
  return {result.output.to(Device{}), result.lse.defined() ? result.lse.to(Device{}) : Tensor()};
}

void note_device_operator(std::string_view op) { ran().emplace(op); }

std::vector<std::string> device_operators_without_test() {
  const auto device = open_device(test_device());
  if (device == nullptr || ran().empty()) return {};
  std::set<std::string> without;
  for (const KernelEntry& entry : device->kernels()) {
    const bool runs_in_plans = entry.op == "device_copy";
    if (!runs_in_plans && !ran().contains(std::string(entry.op))) without.emplace(entry.op);
  }
  return {without.begin(), without.end()};
}

}  // namespace rondo::test
