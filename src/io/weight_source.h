// Where named weights come from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rondo/tensor.h"

namespace rondo {

struct TensorRecord;

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// Where the weights come from, for messages.
  virtual const std::string& source() const = 0;
  /// Null when there is no such tensor.
  virtual const TensorRecord* find(const std::string& name) const = 0;
  /// The tensor as it is stored; a mapped one is not copied. Throws FileError when there is none.
  virtual Tensor tensor(const std::string& name) const = 0;
  virtual std::vector<std::string> names() const = 0;
  /// Bytes of all tensors as they are stored; 0 where nothing is.
  virtual std::uint64_t stored_bytes() const { return 0; }
  /// Text that changes whenever the weights may have changed; empty where that cannot be told, and nothing made of them
  /// is to be kept on disk.
  virtual std::string fingerprint() const { return ""; }
  /// A hash of some of the tensor's stored bytes: two fine-tunes may have one header, size and time.
  virtual std::uint64_t sample(const std::string& /*name*/) const { return 0; }
  /// Says that the tensor's bytes have been copied and need not stay in memory.
  virtual void release(const std::string& /*name*/) const {}
};

}  // namespace rondo
