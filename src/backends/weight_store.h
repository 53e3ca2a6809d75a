// The weights of one model, each resolved once and shared by every plan and session.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "io/weight_source.h"
#include "rondo/tensor.h"

namespace rondo {

/// A weight in the layout that a kernel wants. Backends derive from it.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  virtual std::size_t bytes() const = 0;
};

/// Safe to use from several threads.
class WeightStore {
 public:
  explicit WeightStore(std::shared_ptr<const WeightSource> source) : source_(std::move(source)) {}

  const WeightSource& source() const { return *source_; }

  /// From now on `name` stands for the rows of these stored weights, one after the other.
  void stack(const std::string& name, const std::vector<std::string>& parts);

  /// The weight in `dtype`: the mapped bytes where they are stored so, else a copy made once and shared.
  Tensor get(const std::string& name, DType dtype);

  /// Finds a packed form that `accepts` takes, or keeps the one that `make` builds from the stored tensor. The mapped
  /// pages of the stored tensor are released afterwards.
  std::shared_ptr<const PackedWeight> packed(
      const std::string& name, const std::function<bool(const PackedWeight&)>& accepts,
      const std::function<std::shared_ptr<const PackedWeight>(const Tensor& stored)>& make);

  /// The packed form that was made last for this weight, or null.
  std::shared_ptr<const PackedWeight> find_packed(const std::string& name) const;

  /// Bytes of copies and packed forms that this store holds; mapped weights do not count.
  std::size_t resident_bytes() const;

 private:
  /// The weight as it is stored, or put together from its parts. The lock is held.
  Tensor stored(const std::string& name) const;
  void release(const std::string& name) const;

  std::shared_ptr<const WeightSource> source_;
  std::map<std::string, std::vector<std::string>> parts_;
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, DType>, Tensor> converted_;
  std::map<std::string, std::vector<std::shared_ptr<const PackedWeight>>> packed_;
};

}  // namespace rondo
