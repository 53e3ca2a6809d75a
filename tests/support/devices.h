// The device that tests run on: the CPU, or what RONDO_TEST_DEVICE names.
#pragma once

#include <string>

#include "attention/random_attention.h"
#include "graph/plan.h"
#include "rondo/attention.h"
#include "rondo/device.h"

namespace rondo::test {

Device test_device();
/// Whether its products of float32 keep it.
bool test_device_keeps_f32();

/// Why it is not there; empty when it is.
std::string missing_test_device();

/// A plan's target on it; of several ranks each has a device of its own, where there are enough.
PlanTarget test_target(int threads, int rank = 0);

/// The operands there, and a result from there.
RandomAttention on_test_device(RandomAttention operands);
AttentionResult on_cpu(const AttentionResult& result);
/// What the runner gives for the operands, which are there; on the CPU.
AttentionResult run_on_test_device(const AttentionRunner& runner, const RandomAttention& operands);

/// Fails unless the device is known to refuse such a problem of this operator: a kernel that refuses more than it must
/// is a fault like a wrong result.
void expect_known_refusal(std::string_view op, std::string_view refusal);

/// Notes that a kernel of the device ran this operator, and says at the end which operators of the device none ran,
/// where any did.
void note_device_operator(std::string_view op);
std::vector<std::string> device_operators_without_test();

}  // namespace rondo::test
