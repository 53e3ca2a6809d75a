#include "backends/weight_store.h"

#include <algorithm>

namespace rondo {

void WeightStore::stack(const std::string& name, const std::vector<std::string>& parts) {
  const std::lock_guard lock(mutex_);
  parts_[name] = parts;
}

Tensor WeightStore::stored(const std::string& name) const {
  const auto found = parts_.find(name);
  if (found == parts_.end()) return source_->tensor(name);
  std::vector<Tensor> parts;
  for (const std::string& part : found->second) parts.push_back(source_->tensor(part));
  const DType first = parts[0].dtype();
  const bool alike = std::all_of(parts.begin(), parts.end(), [&](const Tensor& part) { return part.dtype() == first; });
  const DType dtype = alike ? first : DType::f32;
  Shape shape = parts[0].shape();
  shape[0] = 0;
  for (const Tensor& part : parts) shape[0] += part.shape()[0];
  Tensor whole = Tensor::empty(shape, dtype);
  std::byte* target = whole.as<std::byte>();
  for (const Tensor& part : parts) {
    const Tensor rows = part.dtype() == dtype ? part : part.to(dtype);
    target = std::copy_n(rows.as<std::byte>(), rows.bytes(), target);
  }
  return whole;
}

void WeightStore::release(const std::string& name) const {
  const auto found = parts_.find(name);
  if (found == parts_.end()) return source_->release(name);
  for (const std::string& part : found->second) source_->release(part);
}

Tensor WeightStore::get(const std::string& name, DType dtype) {
  const std::lock_guard lock(mutex_);
  const auto found = converted_.find({name, dtype});
  if (found != converted_.end()) return found->second;
  Tensor plain = stored(name);
  const bool mapped = !parts_.contains(name);
  if (plain.dtype() == dtype && mapped) return plain;
  Tensor converted = plain.dtype() == dtype ? std::move(plain) : plain.to(dtype);
  release(name);
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
  forms.push_back(make(stored(name)));
  release(name);
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
