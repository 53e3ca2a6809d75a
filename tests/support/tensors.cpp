#include "support/tensors.h"

#include <cmath>
#include <cstdlib>

#include "backends/cpu/kernels.h"
#include "core/cpu_level.h"
#include "core/threads.h"
#include "io/safetensors.h"
#include "rondo/error.h"

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

std::vector<Tensor> run_kernel(const Operator& op, const std::vector<Operand>& operands, const std::string& kernel,
                               int threads, RowGaps gaps) {
  Problem problem(op, operands, gaps);
  const ThreadTeamScope team(threads);
  const KernelRequest request{op, problem.inputs, problem.outputs, threads, problem.store};
  const KernelEntry* entry = nullptr;
  for (const KernelEntry& candidate : cpu::kernels()) {
    if ((candidate.op == op.name() || candidate.op == "*") && candidate.name == kernel) entry = &candidate;
  }
  if (entry == nullptr) throw Error("no kernel '" + kernel + "' for " + std::string(op.name()));
  if (const Refusal refusal = entry->supports(request)) throw Error(std::string(op.name()) + ": " + *refusal);

  const std::unique_ptr<Kernel> prepared = entry->make(request);
  std::vector<Tensor> inputs;
  for (const Operand& operand : operands)
    inputs.push_back(operand.is_weight && entry->packs_weights ? Tensor() : operand.tensor);
  Tensor scratch = Tensor::zeros({static_cast<std::int64_t>(prepared->scratch_bytes())}, DType::u8);
  prepared->run({inputs, problem.outputs, {scratch.as<std::byte>(), prepared->scratch_bytes()}, threads});
  return problem.outputs;
}

void expect_kernel_matches_reference(const Operator& op, const std::vector<Operand>& operands,
                                     const std::string& kernel, int threads, Tolerance tolerance) {
  std::vector<Tensor> outputs = run_kernel(op, operands, kernel, threads);
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
        const double error = std::fabs(static_cast<double>(wide.as<float>()[i]) - want);
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
