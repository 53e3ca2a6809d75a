// The weights of one model, each resolved once and shared by every plan and session.
#pragma once

#include <any>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backends/offloaded_weights.h"
#include "backends/packed_cache.h"
#include "io/weight_source.h"
#include "ops/operator.h"
#include "rondo/tensor.h"

namespace rondo {

/// How a kernel wants a weight.
struct PackedForm {
  /// All that the packed bytes depend on beside the stored weight: kernel, layout, sizes, the versions of what packs.
  std::string name;
  /// What make() of the store gives: a damaged file is told by it.
  std::vector<TensorType> parts;
  /// The backend's own description of the layout, for find_packed(); may be empty.
  std::any layout = {};
  /// Where its parts lie; what make() gives lies on the CPU.
  WeightHome home = {};
};

/// A weight in the form that a kernel wants. Immutable.
struct PackedWeight {
  PackedForm form;
  std::vector<Tensor> parts;
  /// True when the parts lie in a file that other processes may map as well.
  bool is_mapped = false;

  std::size_t bytes() const;
};

/// Safe to use from several threads.
class WeightStore {
 public:
  /// With a cache, packed forms are kept in it and taken from it, if the source has a fingerprint.
  explicit WeightStore(std::shared_ptr<const WeightSource> source, std::shared_ptr<PackedWeightCache> cache = nullptr);

  const WeightSource& source() const { return *source_; }

  /// From now on `name` stands for the rows of these stored weights, one after the other.
  void stack(const std::string& name, const std::vector<std::string>& parts);

  /// The weight in `dtype`: the mapped bytes where they are stored so, else a copy made once and shared.
  Tensor get(const std::string& name, DType dtype);
  /// The same where it has its home: copied there once and shared.
  Tensor get(const std::string& name, DType dtype, const WeightHome& home);

  /// The weight in this form: from an earlier call, from the cache, or as `make` builds its parts from the stored
  /// tensor. The mapped pages of the stored tensor are released afterwards. What is made on a device is not cached.
  std::shared_ptr<const PackedWeight> packed(const std::string& name, const PackedForm& form,
                                             const std::function<std::vector<Tensor>(const Tensor& stored)>& make);

  /// The packed form that was made last for this weight, or null.
  std::shared_ptr<const PackedWeight> find_packed(const std::string& name) const;

  /// The weights that are not on the device between their layers' turns; null: all are. Decided once, by `decide`, for
  /// all plans: before any of them takes a weight.
  std::shared_ptr<OffloadedWeights> offloaded(const Device& device,
                                              const std::function<std::shared_ptr<OffloadedWeights>()>& decide);

  /// Bytes of copies and packed forms that this store holds, wherever they lie; what is mapped does not count.
  std::size_t resident_bytes() const;
  /// What of a device's memory they take.
  std::size_t device_bytes() const;

 private:
  /// The weight as it is stored, or put together from its parts. The lock is held.
  Tensor stored(const std::string& name) const;
  Shape shape_of(const std::string& name) const;
  /// What tells the weight from one of another checkpoint with the same fingerprint.
  std::string samples_of(const std::string& name) const;
  void release(const std::string& name) const;
  /// The weight's form from the cache, or made and, where that is possible, kept in it. The lock is held.
  PackedWeight load_or_make(const std::string& name, const PackedForm& form,
                            const std::function<std::vector<Tensor>(const Tensor& stored)>& make) const;

  std::shared_ptr<const WeightSource> source_;
  std::shared_ptr<PackedWeightCache> cache_;  // null: none
  std::string fingerprint_;
  std::map<std::string, std::vector<std::string>> parts_;
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, DType>, PackedWeight> converted_;
  std::map<Device, std::shared_ptr<OffloadedWeights>> offloaded_;
  std::map<std::tuple<std::string, DType, Device, OffloadedWeights::Group*>, Tensor> on_device_;
  std::map<std::string, std::vector<std::shared_ptr<const PackedWeight>>> packed_;
};

}  // namespace rondo
