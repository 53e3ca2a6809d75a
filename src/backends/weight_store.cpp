#include "backends/weight_store.h"

namespace rondo {

Tensor WeightStore::get(const std::string& name, DType dtype) {
  const std::lock_guard lock(mutex_);
  const auto found = converted_.find({name, dtype});
  if (found != converted_.end()) return found->second;
  Tensor stored = source_->tensor(name);
  if (stored.dtype() == dtype) return stored;
  Tensor converted = stored.to(dtype);
  source_->release(name);
  return converted_.emplace(std::pair(name, dtype), std::move(converted)).first->second;
}

std::shared_ptr<const PackedWeight> WeightStore::packed(
    const std::string& name, const std::function<bool(const PackedWeight&)>& accepts,
    const std::function<std::shared_ptr<const PackedWeight>(const Tensor& stored)>& make) {
  const std::lock_guard lock(mutex_);
  auto& forms = packed_[name];
  for (const auto& form : forms) {
    if (accepts(*form)) return form;
  }
  const Tensor stored = source_->tensor(name);
  forms.push_back(make(stored));
  source_->release(name);
  return forms.back();
}

std::shared_ptr<const PackedWeight> WeightStore::find_packed(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = packed_.find(name);
  return found == packed_.end() || found->second.empty() ? nullptr : found->second.back();
}

std::size_t WeightStore::resident_bytes() const {
  const std::lock_guard lock(mutex_);
  std::size_t bytes = 0;
  for (const auto& [key, tensor] : converted_) bytes += tensor.bytes();
  for (const auto& [name, forms] : packed_) {
    for (const auto& form : forms) bytes += form->bytes();
  }
  return bytes;
}

}  // namespace rondo
