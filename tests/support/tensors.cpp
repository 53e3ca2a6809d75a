#include "support/tensors.h"

#include <cmath>
#include <cstdlib>

#include "backends/cpu/kernels.h"
#include "backends/device_work.h"
#include "backends/devices.h"
#include "core/cpu_level.h"
#include "core/threads.h"
#include "io/safetensors.h"
#include "rondo/error.h"
#include "support/devices.h"

namespace rondo::test {
namespace {

/// Weights by position: "0", "1", ...
class OperandWeights final : public WeightSource {
 public:
  explicit OperandWeights(const std::vector<Operand>& operands) {
    for (const Operand& operand : operands) {
      tensors_.push_back(operand.tensor);
      records_.push_back({operand.tensor.dtype(), operand.tensor.shape(), 0, operand.tensor.bytes()});
    }
  }
  const std::string& source() const override { return source_; }
  const TensorRecord* find(const std::string& name) const override { return &records_.at(std::stoul(name)); }
  Tensor tensor(const std::string& name) const override { return tensors_.at(std::stoul(name)); }
  std::vector<std::string> names() const override { return {}; }

 private:
  std::string source_ = "test";
  std::vector<Tensor> tensors_;
  std::vector<TensorRecord> records_;
};

/// Zeros, with gaps before and behind every row or every batch.
Tensor output_of(const TensorType& type, RowGaps gaps) {
  if (gaps == RowGaps::none) return Tensor::zeros(type.shape, type.dtype);
  const std::size_t axis = gaps == RowGaps::between_batches ? 1 : type.shape.rank() - 1;
  Shape wide = type.shape;
  wide[axis] += 5;
  return Tensor::zeros(wide, type.dtype).sliced(axis, 3, 3 + type.shape[axis]);
}

struct Problem {
  Problem(const Operator& op, const std::vector<Operand>& operands, RowGaps gaps)
      : store(std::make_shared<const OperandWeights>(operands)) {
    std::vector<TensorType> types;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const Tensor& tensor = operands[i].tensor;
      types.push_back({tensor.shape(), tensor.dtype(), {}});
      inputs.push_back({tensor, operands[i].is_weight ? std::to_string(i) : ""});
    }
    for (const TensorType& type : op.infer(types)) outputs.push_back(output_of(type, gaps));
  }
  WeightStore store;
  std::vector<KernelInput> inputs;
  std::vector<Tensor> outputs;
};

}  // namespace

Tensor random_tensor(const Shape& shape, DType dtype, std::uint32_t seed, double scale) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  Tensor tensor = Tensor::empty(shape, DType::f32);
  for (std::int64_t i = 0; i < tensor.elements(); ++i)
    tensor.as<float>()[i] = normal(engine) * static_cast<float>(scale);
  return tensor.to(dtype);
}

Tolerance tolerance_for(DType dtype, double float_error) {
  if (dtype == DType::bf16) return {float_error + 1e-6, float_error + 1.0 / 256};
  if (dtype == DType::f16) return {float_error + 1e-7, float_error + 1.0 / 2048};
  return {float_error, float_error};
}

namespace {

const KernelEntry& find_kernel(const KernelRequest& request, const std::string& kernel) {
  if (request.device != nullptr) return *select_kernel(request.device->kernels(), request).entry;
  for (const KernelEntry& candidate : cpu::kernels()) {
    if ((candidate.op != request.op.name() && candidate.op != "*") || candidate.name != kernel) continue;
    if (const Refusal refusal = candidate.supports(request))
      throw Unsupported(std::string(request.op.name()) + ": " + *refusal);
    return candidate;
  }
  throw Error("no kernel '" + kernel + "' for " + std::string(request.op.name()));
}

/// The problem's operands on the device, with the strides that they have.
void move_to(const ExecutionDevice& device, Problem& problem) {
  for (KernelInput& input : problem.inputs) input.prototype = device.upload_strided(input.prototype);
  for (Tensor& output : problem.outputs) output = device.upload_strided(output);
}

/// How far a device's kernels may be: they round parameters (a bias of about 1) to the dtype and what they keep between
/// their steps.
Tolerance on_device(Tolerance tolerance, DType dtype) {
  constexpr double kSteps = 4;
  const bool narrow = dtype == DType::f16 || !test_device_keeps_f32();
  const double rounding = test_device_keeps_f32() ? 1.0 / 2048 : 1.0 / 512;  // of one result, of its operands
  const double unit = dtype == DType::bf16 ? 1.0 / 256 : narrow ? rounding : 0;
  return {kSteps * (tolerance.absolute + unit), kSteps * tolerance.relative};
}

}  // namespace

std::vector<Tensor> run_kernel(const Operator& op, const std::vector<Operand>& operands, const std::string& kernel,
                               int threads, RowGaps gaps) {
  Problem problem(op, operands, gaps);
  const auto device = open_device(test_device());
  if (device != nullptr) move_to(*device, problem);
  const ThreadTeamScope team(threads);
  const KernelRequest request{op, problem.inputs, problem.outputs, threads, problem.store, device.get()};
  const KernelEntry& entry = find_kernel(request, kernel);
  const std::unique_ptr<Kernel> prepared = entry.make(request);
  std::vector<Tensor> inputs;
  for (std::size_t i = 0; i < operands.size(); ++i)
    inputs.push_back(operands[i].is_weight && entry.packs_weights ? Tensor() : problem.inputs[i].prototype);
  Tensor scratch = empty_on(test_device(), {static_cast<std::int64_t>(prepared->scratch_bytes())}, DType::u8);
  const std::span<std::byte> scratch_bytes(scratch.as<std::byte>(), prepared->scratch_bytes());
  if (device == nullptr) {
    prepared->run({inputs, problem.outputs, scratch_bytes, threads});
    return problem.outputs;
  }
  DeviceWork work(device);
  prepared->run({inputs, problem.outputs, scratch_bytes, threads, nullptr, device.get(), &work.stream()});
  work.finish();
  note_device_operator(op.name());
  std::vector<Tensor> results;
  for (const Tensor& output : problem.outputs) results.push_back(output.to(Device{}));
  return results;
}

void expect_kernel_matches_reference(const Operator& op, const std::vector<Operand>& operands,
                                     const std::string& kernel, int threads, Tolerance tolerance) {
  const bool elsewhere = !test_device().is_cpu();
  if (elsewhere) tolerance = on_device(tolerance, operands[0].tensor.dtype());
  std::vector<Tensor> outputs;
  try {
    outputs = run_kernel(op, operands, kernel, threads);
  } catch (const Unsupported& refusal) {
    if (!elsewhere) throw;
    expect_known_refusal(op.name(), refusal.what());
    return;
  }
  std::vector<RefTensor> reference_inputs;
  for (const Operand& operand : operands) reference_inputs.push_back(to_reference(operand.tensor));
  std::vector<RefTensor> expected;
  for (const Tensor& output : outputs)
    expected.push_back({output.shape(), std::vector<double>(static_cast<std::size_t>(output.elements()))});
  op.reference(reference_inputs, expected);

  for (const RowGaps gaps : {RowGaps::none, op.row_gaps()}) {
    if (gaps != RowGaps::none) outputs = run_kernel(op, operands, kernel, threads, gaps);
    for (std::size_t o = 0; o < outputs.size(); ++o) {
      const Tensor wide = outputs[o].to_float32();
      for (std::size_t i = 0; i < expected[o].values.size(); ++i) {
        const double want = expected[o].values[i];
        const auto given = static_cast<double>(wide.as<float>()[i]);
        if (given == want || (std::isnan(given) && std::isnan(want))) continue;  // infinities, too
        const double error = std::fabs(given - want);
        ASSERT_LE(error, tolerance.absolute + tolerance.relative * std::fabs(want))
            << op.name() << "[" << op.attributes() << "] (" << kernel
            << (gaps == RowGaps::none ? "" : ", to rows with gaps") << ", " << threads << " threads, level "
            << cpu_level_name(cpu_level()) << ", input " << operands[0].tensor.shape().to_string() << " "
            << dtype_name(operands[0].tensor.dtype()) << "): output " << o << " element " << i << " is "
            << wide.as<float>()[i] << ", expected " << want;
      }
    }
  }
}

std::string chosen_kernel(const Operator& op, const std::vector<Operand>& operands) {
  Problem problem(op, operands, RowGaps::none);
  const KernelRequest request{op, problem.inputs, problem.outputs, 1, problem.store};
  return std::string(select_kernel(cpu::kernels(), request).entry->name);
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "(no error)";
}

double relative_error(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape().elements(), b.shape().elements());
  const Tensor x = a.to_float32();
  const Tensor y = b.to_float32();
  double error = 0;
  double most = 1e-30;
  for (std::int64_t i = 0; i < y.elements(); ++i) {
    const double difference = std::fabs(static_cast<double>(x.as<float>()[i]) - static_cast<double>(y.as<float>()[i]));
    error = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(error, difference);
    most = std::max(most, std::fabs(static_cast<double>(y.as<float>()[i])));
  }
  return error / most;
}

bool test_level_is_missing() {
  const char* wanted = std::getenv("RONDO_TEST_LEVEL");
  return wanted != nullptr && wanted != cpu_level_name(cpu_level());
}

}  // namespace rondo::test
