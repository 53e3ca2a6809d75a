// Operators of CANN on Rondo's tensors, given to a stream.
#pragma once

#include <span>
#include <vector>

#include "backends/ascend/acl_operators.h"
#include "backends/ascend/ascend_runtime.h"
#include "backends/execution_device.h"

namespace rondo::ascend {

AclDtype acl_dtype(DType dtype);

/// What a kernel calls operators through, for one run. It owns the descriptors of a call until it returns, workspaces
/// and intermediate tensors until it goes: the stream's next caller may have them then, since its work comes later.
class AclCaller {
 public:
  AclCaller(const ExecutionDevice& device, DeviceStream& stream);
  ~AclCaller();
  AclCaller(const AclCaller&) = delete;
  AclCaller& operator=(const AclCaller&) = delete;

  const AscendRuntime& runtime() const { return stream_.runtime(); }
  AscendStream& stream() const { return stream_; }
  bool has(const char* name) const { return library_.find(name) != nullptr; }

  /// A tensor of this run.
  Tensor temporary(const Shape& shape, DType dtype) const { return device_.empty(shape, dtype, &stream_); }

  /// Descriptors, which live until the next call has returned. An undefined tensor is null.
  aclTensor* tensor(const Tensor& tensor, AclFormat format = AclFormat::nd);
  aclTensorList* list(std::span<const Tensor> tensors);
  aclScalar* scalar(double value, DType dtype = DType::f32);
  aclIntArray* ints(std::span<const std::int64_t> values);

  /// Both phases. Throws Unsupported where CANN has no such operator, DeviceError.
  template <typename... Args>
  void call(const AclOperator<Args...>& op, std::type_identity_t<Args>... args) {
    const AclOperatorSymbols& symbols = library_.require(op.name);
    std::uint64_t workspace_bytes = 0;
    aclOpExecutor* executor = nullptr;
    auto* const plan =
        reinterpret_cast<AclStatus (*)(Args..., std::uint64_t*, aclOpExecutor**)>(symbols.get_workspace_size);
    check(plan(args..., &workspace_bytes, &executor), op.name, "GetWorkspaceSize");
    run(symbols, op.name, workspace_bytes, executor);
  }

  // The operators that kernels are made of, on tensors of any strides unless it says otherwise.
  void copy(const Tensor& from, const Tensor& to);  // also to another dtype; `from` repeats where its extent is 1
  void add(const Tensor& a, const Tensor& b, const Tensor& y);
  void multiply(const Tensor& a, const Tensor& b, const Tensor& y);
  /// y = a + b * c
  void multiply_add(const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& y);
  void add_scalar(const Tensor& x, double value, const Tensor& y);
  void multiply_scalar(const Tensor& x, double value, const Tensor& y);
  /// y [M, N], dense, = x [M, K] w^T, with w [N, K], and a bias [N] where one is given.
  void linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y);

  /// The tensor, or a dense copy of it.
  Tensor dense(const Tensor& tensor);
  /// Runs `compute` on a dense tensor of y's type, y itself where it is one, and has y hold it afterwards.
  template <typename Compute>
  void into(const Tensor& y, const Compute& compute) {
    if (y.is_dense()) return compute(y);
    const Tensor whole = temporary(y.shape(), y.dtype());
    compute(whole);
    copy(whole, y);
  }

 private:
  void run(const AclOperatorSymbols& symbols, const char* name, std::uint64_t workspace_bytes, aclOpExecutor* executor);
  void check(AclStatus status, const char* name, const char* phase);
  void release_descriptors();

  const ExecutionDevice& device_;
  AscendStream& stream_;
  const AclLibrary& library_;
  std::vector<Tensor> workspaces_;
  std::vector<const aclTensor*> tensors_;
  std::vector<const aclTensorList*> lists_;
  std::vector<const aclScalar*> scalars_;
  std::vector<const aclIntArray*> ints_;
};

}  // namespace rondo::ascend
