// Weights in the safetensors format (https://github.com/huggingface/safetensors), mapped and never copied.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/weight_source.h"
#include "rondo/tensor.h"

namespace rondo {

class MappedFile;

/// One row of a safetensors header.
struct TensorRecord {
  DType dtype = DType::f32;  // in which the tensor is read
  Shape shape;
  std::size_t offset = 0;  // from the start of the file's data section
  std::size_t bytes = 0;   // as stored
  /// The header's name of another dtype than `dtype`: "F64", which is read as float32, or one that is not read at all.
  /// Empty for most.
  std::string stored_as = {};
  bool readable = true;
};

/// Throws FileError, naming the dtype and those that are read, for a tensor of a dtype that is not.
void require_readable(const TensorRecord& record, const std::string& name, const std::string& source);

/// "F32", "BF16", ...
std::string_view safetensors_dtype_name(DType dtype);

/// What a header says, checked: shape and byte range agree (where the dtype is known), no overlap, no hole, all inside
/// the data. A dtype that is not known makes its tensor unreadable, not the file.
/// `data_bytes` is the size of the data section. Throws FileError, naming `source` and the tensor.
std::map<std::string, TensorRecord> parse_safetensors_header(std::string_view header, std::size_t data_bytes,
                                                             const std::string& source);

/// One mapped file.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::map<std::string, TensorRecord>& records() const { return records_; }
  /// The texts under __metadata__.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// Of the header, the file's size and the time of its last change.
  std::string fingerprint() const;
  /// A view of the mapped bytes, kept alive by the tensor; a converted copy of a tensor that is stored in float64.
  /// Throws FileError for one that is not readable.
  Tensor tensor(const std::string& name) const;
  /// Lets the system take the tensor's mapped pages back; reading them again maps them anew.
  void release(const std::string& name) const;

 private:
  std::string source_;
  std::shared_ptr<const MappedFile> file_;
  std::span<const std::byte> data_;
  std::map<std::string, TensorRecord> records_;
  std::map<std::string, std::string> metadata_;
  std::string_view header_;
};

/// A component's weights: one file, or the shards that an index lists.
class Checkpoint final : public WeightSource {
 public:
  /// `folder` holds diffusion_pytorch_model.safetensors or model.safetensors, or either's .index.json with its shards.
  /// Where both forms lie, diffusers takes the index of its own models and transformers the single file, and so it is
  /// here; a warning names the one that is not read.
  static Checkpoint open(const std::filesystem::path& folder);
  /// A single .safetensors file.
  static Checkpoint open_file(const std::filesystem::path& path);

  const std::string& source() const override { return source_; }
  const TensorRecord* find(const std::string& name) const override;
  Tensor tensor(const std::string& name) const override;
  std::vector<std::string> names() const override;
  void release(const std::string& name) const override;
  std::uint64_t stored_bytes() const override;
  std::string fingerprint() const override;
  std::uint64_t sample(const std::string& name) const override;

 private:
  /// The shards that an index lists.
  static Checkpoint open_index(const std::filesystem::path& index);

  std::string source_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t> file_of_;
};

}  // namespace rondo
