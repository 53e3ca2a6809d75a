// What an operator is: a name, its attributes, shape and dtype rules, and a plain reference in float64.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ops/ref_tensor.h"
#include "rondo/error.h"
#include "rondo/tensor.h"

namespace rondo {

/// What is known of a value before it is computed.
struct TensorType {
  Shape shape;
  DType dtype = DType::f32;
  Device device;

  bool operator==(const TensorType&) const = default;
  std::string to_string() const { return fmt::format("{} {}", dtype_name(dtype), shape.to_string()); }
};

/// Where an operator's kernels can leave gaps between the rows (all axes but the last) of what they write.
enum class RowGaps : std::uint8_t {
  none,
  between_batches,  // between one index of the first axis and the next
  anywhere,
};

class Operator {
 public:
  virtual ~Operator() = default;

  /// The operator's name: what kernels register for and what messages start with.
  virtual std::string_view name() const = 0;
  /// "eps=1e-06": everything, apart from the inputs, that the result depends on.
  virtual std::string attributes() const { return ""; }
  /// Types of the outputs. Throws InvalidArgument, naming the operator and the shapes, when the inputs do not fit.
  virtual std::vector<TensorType> infer(std::span<const TensorType> inputs) const = 0;
  /// Computes the outputs (their shapes are set, their values sized) in float64, as plainly as can be.
  virtual void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const = 0;
  /// Multiplications and additions of products and attention; 0 for operators that memory bounds.
  virtual double flops(std::span<const TensorType> /*inputs*/) const { return 0; }
  /// For operators that only look at their input differently: the output as a view, where strides allow one.
  virtual std::optional<Tensor> view(const Tensor& /*input*/) const { return std::nullopt; }
  /// What holds for every kernel, at full speed: an output may then be a part of a larger tensor.
  virtual RowGaps row_gaps() const { return RowGaps::none; }
  /// The input over whose elements the output's may be written one by one, as each is read before its place is
  /// written; -1: none.
  virtual int overwritable_input() const { return -1; }
  /// Whether it does more than compute its outputs: then it runs though nobody reads them or they are empty.
  virtual bool has_effect() const { return false; }
  /// Whether every token of output 0 (an index of its axis 1) depends on that token of the inputs alone, and otherwise
  /// on what all tokens share. Tokens may then be computed apart.
  virtual bool keeps_tokens() const { return false; }
  /// Of such an operator: the axis of an input that runs along its tokens; none for what they share.
  virtual std::optional<std::size_t> token_axis(std::span<const TensorType> inputs, std::size_t index) const {
    const Shape& shape = inputs[index].shape;
    if (shape.rank() < 3 || shape[1] != inputs[0].shape[1]) return std::nullopt;
    return 1;
  }
  /// For operators that do not run alike at every step of a request: what runs in this one's place, on the
  /// same inputs, at the steps that falls_back_at() names.
  virtual const Operator* fallback() const { return nullptr; }
  virtual bool falls_back_at(int /*step*/) const { return false; }

 protected:
  /// Throws "<name>: <message>" unless `holds`.
  template <typename... Args>
  void check(bool holds, fmt::format_string<Args...> format, Args&&... args) const {
    if (!holds) throw InvalidArgument(fmt::format("{}: {}", name(), fmt::format(format, std::forward<Args>(args)...)));
  }
  void check_count(std::span<const TensorType> inputs, std::size_t least, std::size_t most) const {
    check(inputs.size() >= least && inputs.size() <= most, "takes {} to {} inputs, given {}", least, most,
          inputs.size());
  }
  void check_floating(std::span<const TensorType> inputs) const {
    for (const TensorType& input : inputs) {
      check(is_floating(input.dtype), "takes floating inputs, given {}", input.to_string());
    }
  }
};

}  // namespace rondo
