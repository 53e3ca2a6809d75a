#include "backends/weight_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "backends/execution_device.h"
#include "io/safetensors.h"

namespace rondo {
namespace {

/// The tensor at home.
Tensor bring(const Tensor& host, const WeightHome& home) {
  if (home.device == nullptr) return host;
  if (home.group != nullptr) {
    if (Tensor placed = OffloadedWeights::place(*home.group, host); placed.defined()) return placed;
  }
  return home.device->upload(host);
}

}  // namespace

std::size_t PackedWeight::bytes() const {
  std::size_t bytes = 0;
  for (const Tensor& part : parts) bytes += part.bytes();
  return bytes;
}

WeightStore::WeightStore(std::shared_ptr<const WeightSource> source, std::shared_ptr<PackedWeightCache> cache)
    : source_(std::move(source)), cache_(std::move(cache)) {
  if (cache_ == nullptr) return;
  fingerprint_ = source_->fingerprint();
  if (fingerprint_.empty()) cache_ = nullptr;
}

void WeightStore::stack(const std::string& name, const std::vector<std::string>& parts) {
  const std::lock_guard lock(mutex_);
  parts_[name] = parts;
}

Shape WeightStore::shape_of(const std::string& name) const {
  const auto found = parts_.find(name);
  if (found == parts_.end()) return source_->find(name)->shape;
  Shape shape = source_->find(found->second[0])->shape;
  shape[0] = 0;
  for (const std::string& part : found->second) shape[0] += source_->find(part)->shape[0];
  return shape;
}

Tensor WeightStore::stored(const std::string& name) const {
  const auto found = parts_.find(name);
  if (found == parts_.end()) return source_->tensor(name);
  std::vector<Tensor> parts;
  for (const std::string& part : found->second) parts.push_back(source_->tensor(part));
  const DType first = parts[0].dtype();
  const bool alike = std::all_of(parts.begin(), parts.end(), [&](const Tensor& part) { return part.dtype() == first; });
  const DType dtype = alike ? first : DType::f32;
  Tensor whole = Tensor::empty(shape_of(name), dtype);
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

std::string WeightStore::samples_of(const std::string& name) const {
  const auto found = parts_.find(name);
  if (found == parts_.end()) return fmt::format("{:016x}", source_->sample(name));
  std::string text;
  for (const std::string& part : found->second) text += fmt::format(" {:016x}", source_->sample(part));
  return text;
}

PackedWeight WeightStore::load_or_make(const std::string& name, const PackedForm& form,
                                       const std::function<std::vector<Tensor>(const Tensor& stored)>& make) const {
  std::string key;
  PackedWeightCache* const cache = form.home.device == nullptr ? cache_.get() : nullptr;
  if (cache != nullptr) {
    key = fmt::format("weight {} ({}); as {}", name, samples_of(name), form.name);
    if (auto parts = cache->load(fingerprint_, key, form.parts)) return {form, std::move(*parts), true};
  }
  PackedWeight weight{form, make(stored(name)), false};
  release(name);
  for (Tensor& part : weight.parts) part = bring(part, form.home);
  if (cache == nullptr) return weight;
  if (auto parts = cache->keep(fingerprint_, key, weight.parts)) return {form, std::move(*parts), true};
  return weight;
}

Tensor WeightStore::get(const std::string& name, DType dtype) {
  const std::lock_guard lock(mutex_);
  const auto found = converted_.find({name, dtype});
  if (found != converted_.end()) return found->second.parts[0];
  const bool mapped = !parts_.contains(name);
  if (mapped) {
    Tensor plain = stored(name);
    if (plain.dtype() == dtype) return plain;
  }
  const PackedForm form{fmt::format("plain {}", dtype_name(dtype)), {{shape_of(name), dtype, {}}}};
  PackedWeight weight = load_or_make(name, form, [&](const Tensor& plain) -> std::vector<Tensor> {
    return {plain.dtype() == dtype ? plain : plain.to(dtype)};
  });
  return converted_.emplace(std::pair(name, dtype), std::move(weight)).first->second.parts[0];
}

Tensor WeightStore::get(const std::string& name, DType dtype, const WeightHome& home) {
  if (home.device == nullptr) return get(name, dtype);
  const std::lock_guard lock(mutex_);
  Tensor& copy = on_device_[{name, dtype, home.device->device(), home.group}];
  if (!copy.defined()) {
    const Tensor plain = stored(name);
    copy = bring(plain.dtype() == dtype ? plain : plain.to(dtype), home);
    release(name);
  }
  return copy;
}

std::shared_ptr<const PackedWeight> WeightStore::packed(
    const std::string& name, const PackedForm& form,
    const std::function<std::vector<Tensor>(const Tensor& stored)>& make) {
  const std::lock_guard lock(mutex_);
  auto& forms = packed_[name];
  for (const auto& known : forms) {
    if (known->form.name == form.name && known->form.home == form.home) return known;
  }
  forms.push_back(std::make_shared<const PackedWeight>(load_or_make(name, form, make)));
  return forms.back();
}

std::shared_ptr<const PackedWeight> WeightStore::find_packed(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = packed_.find(name);
  return found == packed_.end() || found->second.empty() ? nullptr : found->second.back();
}

std::shared_ptr<OffloadedWeights> WeightStore::offloaded(
    const Device& device, const std::function<std::shared_ptr<OffloadedWeights>()>& decide) {
  const std::lock_guard lock(mutex_);
  const auto found = offloaded_.find(device);
  if (found != offloaded_.end()) return found->second;
  return offloaded_.emplace(device, decide()).first->second;
}

std::size_t WeightStore::device_bytes() const {
  const std::lock_guard lock(mutex_);
  std::size_t bytes = 0;
  for (const auto& [device, weights] : offloaded_) bytes += weights == nullptr ? 0 : weights->slot_bytes();
  for (const auto& [key, tensor] : on_device_) bytes += std::get<3>(key) == nullptr ? tensor.bytes() : 0;
  for (const auto& [name, forms] : packed_) {
    for (const auto& form : forms) {
      const WeightHome& home = form->form.home;
      bytes += home.device != nullptr && home.group == nullptr ? form->bytes() : 0;
    }
  }
  return bytes;
}

std::size_t WeightStore::resident_bytes() const {
  const std::lock_guard lock(mutex_);
  std::size_t bytes = 0;
  for (const auto& [key, form] : converted_) bytes += form.is_mapped ? 0 : form.bytes();
  for (const auto& [key, tensor] : on_device_) bytes += tensor.bytes();
  for (const auto& [name, forms] : packed_) {
    for (const auto& form : forms) bytes += form->is_mapped ? 0 : form->bytes();
  }
  return bytes;
}

}  // namespace rondo
