// Descriptors and executors: what libnnopbase.so hands out and operators read.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "simulator.h"

/// aclDataType
enum class Dtype : std::int32_t {
  float32 = 0,
  float16 = 1,
  int8 = 2,
  int32 = 3,
  uint8 = 4,
  int64 = 9,
  boolean = 12,
  bfloat16 = 27,
  float8_e4m3fn = 36,
};

/// aclFormat
enum class Format : std::int32_t { nchw = 0, nhwc = 1, nd = 2 };

using Dims = std::vector<std::int64_t>;

struct aclTensor {
  Dims dims;
  Dims strides;
  Dtype dtype;
  Format format;
  std::byte* first;  // the address of the view's first element
  ascend_simulator::Block block;

  std::int64_t elements() const;
  bool is_contiguous() const;
};

struct aclTensorList {
  std::vector<const aclTensor*> tensors;
};

struct aclScalar {
  double value;
};

struct aclIntArray {
  Dims values;
};

struct aclOpExecutor {
  std::string name;
  std::uint64_t workspace_bytes;
  std::vector<const aclTensor*> tensors;  // must be alive until the second phase has returned
  std::function<void()> compute;
};

namespace ascend_simulator {

std::size_t dtype_bytes(Dtype dtype);
bool is_float(Dtype dtype);

/// A strided view of device memory, for tasks: a copy of a descriptor.
struct View {
  Dims dims;
  Dims strides;
  Dtype dtype;
  std::byte* first;
  Block block;

  explicit View(const aclTensor& tensor);
  std::int64_t elements() const;
  /// Row-major order. Integers up to 2^53 are exact.
  std::vector<double> values() const;
  std::vector<float> floats() const;
  template <typename Real>
  void store(const std::vector<Real>& values) const;
  /// The same memory as [dims], where extents of 1 repeat; throws nothing, returns false where it cannot.
  bool broadcasts_to(const Dims& dims) const;
  View broadcast(const Dims& dims) const;
};

/// What an operator says of an argument.
struct Argument {
  const aclTensor* tensor;
  const char* name;
  bool optional = false;
  bool contiguous = false;
  std::vector<Dtype> dtypes = {};  // empty: any
};

/// The first phase: checks arguments, makes an executor. `rules` returns what is wrong; empty: nothing.
int plan(const char* name, std::uint64_t* workspace_bytes, aclOpExecutor** executor,
         const std::vector<Argument>& arguments, const std::string& broken_rule, std::function<void()> compute);
/// The second.
int run(const char* name, void* workspace, std::uint64_t workspace_bytes, aclOpExecutor* executor, void* stream);

}  // namespace ascend_simulator
