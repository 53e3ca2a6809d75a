// libnnopbase.so, and what all operators share.
#include "tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "formats.h"
#include "state.h"

using namespace ascend_simulator;

namespace {

/// Descriptors that are alive, by address: one that is used after it was destroyed is found.
template <typename T>
std::set<const T*>& alive() {
  static std::set<const T*> all;
  return all;
}

template <typename T>
T* keep(T* made, const char* kind) {
  const std::lock_guard guard(lock());
  alive<T>().insert(made);
  ++state().descriptors[kind];
  return made;
}

template <typename T>
int destroy(const T* gone, const char* kind) {
  const std::lock_guard guard(lock());
  if (gone == nullptr) return kSuccess;
  if (alive<T>().erase(gone) == 0) breach(std::string(kind) + ": destroyed twice, or never made");
  --state().descriptors[kind];
  delete gone;
  return kSuccess;
}

}  // namespace

std::int64_t aclTensor::elements() const {
  std::int64_t count = 1;
  for (const std::int64_t extent : dims) count *= extent;
  return count;
}

bool aclTensor::is_contiguous() const {
  std::int64_t expected = 1;
  for (std::size_t axis = dims.size(); axis-- > 0;) {
    if (dims[axis] != 1 && strides[axis] != expected) return false;
    expected *= dims[axis];
  }
  return true;
}

namespace ascend_simulator {

std::size_t dtype_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
    case Dtype::int32: return 4;
    case Dtype::float16:
    case Dtype::bfloat16: return 2;
    case Dtype::int64: return 8;
    default: return 1;
  }
}

bool is_float(Dtype dtype) {
  return dtype == Dtype::float32 || dtype == Dtype::float16 || dtype == Dtype::bfloat16 ||
         dtype == Dtype::float8_e4m3fn;
}

View::View(const aclTensor& tensor)
    : dims(tensor.dims), strides(tensor.strides), dtype(tensor.dtype), first(tensor.first), block(tensor.block) {}

std::int64_t View::elements() const {
  std::int64_t count = 1;
  for (const std::int64_t extent : dims) count *= extent;
  return count;
}

namespace {

/// Calls visit(byte offset) for every element in row-major order.
template <typename Visit>
void for_each(const View& view, const Visit& visit) {
  const std::int64_t count = view.elements();
  if (count == 0) return;
  const auto size = static_cast<std::int64_t>(dtype_bytes(view.dtype));
  const std::size_t rank = view.dims.size();
  if (rank == 0) return visit(0);
  Dims index(rank, 0);
  const std::int64_t inner = view.dims[rank - 1];
  const std::int64_t step = view.strides[rank - 1] * size;
  std::int64_t offset = 0;
  for (std::int64_t done = 0; done < count; done += inner) {
    for (std::int64_t i = 0; i < inner; ++i) visit(offset + i * step);
    for (std::size_t axis = rank - 1; axis-- > 0;) {
      offset += view.strides[axis] * size;
      if (++index[axis] < view.dims[axis]) break;
      offset -= view.strides[axis] * size * view.dims[axis];
      index[axis] = 0;
    }
  }
}

const View& require_live(const View& view) {
  if (!is_live(view.block)) breach(state().running + " ran on memory that was freed");
  return view;
}

template <typename Real>
std::vector<Real> load(const View& view) {
  std::vector<Real> values;
  values.reserve(static_cast<std::size_t>(view.elements()));
  const std::byte* base = alias(view.first);
  with_format(view.dtype, [&](auto format) {
    for_each(require_live(view),
             [&](std::int64_t offset) { values.push_back(static_cast<Real>(decltype(format)::load(base + offset))); });
  });
  return values;
}

}  // namespace

std::vector<double> View::values() const { return load<double>(*this); }
std::vector<float> View::floats() const { return load<float>(*this); }

template <typename Real>
void View::store(const std::vector<Real>& values) const {
  std::byte* base = alias(first);
  const Real* value = values.data();
  with_format(dtype, [&](auto format) {
    for_each(require_live(*this), [&](std::int64_t offset) { decltype(format)::store(base + offset, *value++); });
  });
}
template void View::store(const std::vector<float>&) const;
template void View::store(const std::vector<double>&) const;

bool View::broadcasts_to(const Dims& wanted) const {
  if (dims.size() > wanted.size()) return false;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const std::int64_t extent = dims[dims.size() - 1 - i];
    if (extent != 1 && extent != wanted[wanted.size() - 1 - i]) return false;
  }
  return true;
}

View View::broadcast(const Dims& wanted) const {
  View wide = *this;
  wide.dims = wanted;
  wide.strides.assign(wanted.size(), 0);
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const std::size_t from = dims.size() - 1 - i;
    if (dims[from] != 1) wide.strides[wanted.size() - 1 - i] = strides[from];
  }
  return wide;
}

int plan(const char* name, std::uint64_t* workspace_bytes, aclOpExecutor** executor,
         const std::vector<Argument>& arguments, const std::string& broken_rule, std::function<void()> compute) {
  const std::lock_guard guard(lock());
  if (const int code = fault(name)) return code;
  const std::string call(name);
  if (current_device() < 0) return fail(kNoContext, call + ": no device was set for this thread");
  if (workspace_bytes == nullptr || executor == nullptr) return fail(kNullPointer, call + ": no place for the results");
  std::vector<const aclTensor*> tensors;
  for (const Argument& argument : arguments) {
    const std::string what = call + ": " + argument.name;
    if (argument.tensor == nullptr) {
      if (!argument.optional) return fail(kNullPointer, what + " is null");
      continue;
    }
    if (alive<aclTensor>().count(argument.tensor) == 0) breach(what + " was destroyed, or never made");
    if (argument.tensor->block.device != current_device()) breach(what + " lies on another device than the thread's");
    const auto& allowed = argument.dtypes;
    if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), argument.tensor->dtype) == allowed.end()) {
      return fail(kInvalidArgument, what + " has dtype " + std::to_string(static_cast<int>(argument.tensor->dtype)));
    }
    if (argument.tensor->dtype == Dtype::bfloat16 && !soc_has_bfloat16())
      return fail(kInvalidArgument, what + ": this chip has no bfloat16");
    if (argument.contiguous && !argument.tensor->is_contiguous())
      return fail(kInvalidArgument, what + " is not contiguous");
    if (argument.tensor->dims.size() > 8) return fail(kInvalidArgument, what + " has more than eight axes");
    tensors.push_back(argument.tensor);
  }
  if (!broken_rule.empty()) return fail(kInvalidArgument, call + ": " + broken_rule);
  constexpr std::uint64_t kWorkspace = 1024;
  *workspace_bytes = kWorkspace;
  *executor = keep(new aclOpExecutor{call, kWorkspace, std::move(tensors), std::move(compute)}, "executors");
  return kSuccess;
}

int run(const char* name, void* workspace, std::uint64_t workspace_bytes, aclOpExecutor* executor, void* stream) {
  const std::lock_guard guard(lock());
  const std::string call(name);
  if (alive<aclOpExecutor>().count(executor) == 0) breach(call + ": its executor was used before, or never made");
  if (executor->name != call) breach(call + ": the executor is one of " + executor->name);
  for (const aclTensor* tensor : executor->tensors) {
    if (alive<aclTensor>().count(tensor) == 0) breach(call + ": a tensor was destroyed between the phases");
  }
  std::function<void()> compute = std::move(executor->compute);
  const std::uint64_t needed = executor->workspace_bytes;
  destroy(executor, "executors");  // whatever comes
  const std::string faulty = call + ".run";
  if (const int code = fault(faulty.c_str())) return code;
  if (workspace_bytes < needed) breach(call + ": its workspace is smaller than the first phase said");
  const Block block = block_of(workspace, needed, call + ": workspace");
  enqueue(stream, call, [=, compute = std::move(compute)] {
    if (!is_live(block)) breach(call + ": its workspace was freed before it ran");
    std::memset(alias(workspace), 0xAB, needed);  // whoever else uses it finds out
    compute();
  });
  return kSuccess;
}

}  // namespace ascend_simulator

extern "C" {

aclTensor* aclCreateTensor(const std::int64_t* dims, std::uint64_t rank, Dtype dtype, const std::int64_t* strides,
                           std::int64_t offset, Format format, const std::int64_t* storage_dims,
                           std::uint64_t storage_rank, void* data) {
  if (fault("aclCreateTensor") != 0) return nullptr;
  if (rank > 0 && dims == nullptr) return nullptr;
  aclTensor tensor{Dims(dims, dims + rank), {}, dtype, format, nullptr, {}};
  if (strides == nullptr) breach("aclCreateTensor: this simulator wants strides");
  tensor.strides.assign(strides, strides + rank);
  if (reinterpret_cast<std::uintptr_t>(data) % 32 != 0) breach("aclCreateTensor: data is not aligned to 32 bytes");
  std::int64_t storage = 1;
  for (std::uint64_t i = 0; i < storage_rank; ++i) storage *= storage_dims[i];
  std::int64_t last = offset;
  for (std::uint64_t i = 0; i < rank; ++i) {
    if (strides[i] < 0) breach("aclCreateTensor: a stride is negative");
    last += (dims[i] - 1) * strides[i];
  }
  const bool empty = tensor.elements() == 0;
  if (!empty && last >= storage) breach("aclCreateTensor: the view reaches beyond its storage");
  const auto size = static_cast<std::int64_t>(dtype_bytes(dtype));
  tensor.first = static_cast<std::byte*>(data) + offset * size;
  if (!empty)
    tensor.block = block_of(tensor.first, static_cast<std::size_t>((last - offset + 1) * size), "aclCreateTensor");
  if (empty) tensor.block.device = current_device();
  return keep(new aclTensor(std::move(tensor)), "tensors");
}
int aclDestroyTensor(const aclTensor* tensor) { return destroy(tensor, "tensors"); }

aclScalar* aclCreateScalar(void* value, Dtype dtype) {
  double read = 0;
  with_format(dtype, [&](auto format) { read = decltype(format)::load(static_cast<const std::byte*>(value)); });
  return keep(new aclScalar{read}, "scalars");
}
int aclDestroyScalar(const aclScalar* scalar) { return destroy(scalar, "scalars"); }

aclIntArray* aclCreateIntArray(const std::int64_t* values, std::uint64_t count) {
  return keep(new aclIntArray{Dims(values, values + count)}, "arrays");
}
int aclDestroyIntArray(const aclIntArray* array) { return destroy(array, "arrays"); }

aclTensorList* aclCreateTensorList(const aclTensor* const* tensors, std::uint64_t count) {
  return keep(new aclTensorList{{tensors, tensors + count}}, "lists");
}
int aclDestroyTensorList(const aclTensorList* list) {
  if (list == nullptr) return kSuccess;
  for (const aclTensor* member : list->tensors) destroy(member, "tensors");
  return destroy(list, "lists");
}

int aclDestroyAclOpExecutor(aclOpExecutor* executor) { return destroy(executor, "executors"); }

}  // extern "C"
