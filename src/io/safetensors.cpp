#include "io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/hash.h"
#include "core/log.h"
#include "core/text.h"
#include "io/json_config.h"
#include "io/lfs_pointer.h"
#include "io/mapped_file.h"
#include "rondo/error.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library

constexpr std::array<std::pair<std::string_view, DType>, 9> kDtypeNames{{{"F32", DType::f32},
                                                                         {"BF16", DType::bf16},
                                                                         {"F16", DType::f16},
                                                                         {"F8_E4M3", DType::f8_e4m3},
                                                                         {"I8", DType::s8},
                                                                         {"U8", DType::u8},
                                                                         {"I32", DType::s32},
                                                                         {"I64", DType::s64},
                                                                         {"BOOL", DType::boolean}}};

/// Read as float32, as diffusers does.
constexpr std::string_view kDouble = "F64";

std::optional<DType> dtype_from_header(std::string_view name) {
  for (const auto& [known, dtype] : kDtypeNames) {
    if (name == known) return dtype;
  }
  return std::nullopt;
}

TensorRecord parse_record(const json& entry, std::size_t data_bytes, const std::string& where) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets")) {
    throw FileError(where + " has no dtype, shape and data_offsets");
  }
  TensorRecord record;
  const json& dtype = entry["dtype"];
  const auto known = dtype.is_string() ? dtype_from_header(dtype.get_ref<const std::string&>()) : std::nullopt;
  if (!dtype.is_string()) throw FileError(fmt::format("{} has dtype {}; allowed is a name", where, dtype.dump()));
  if (!known) record.stored_as = dtype.get<std::string>();
  record.dtype = known.value_or(DType::f32);
  const bool wide = record.stored_as == kDouble;
  record.readable = known || wide;

  const json& shape = entry["shape"];
  if (!shape.is_array() || shape.size() > Shape::kMaxRank) {
    throw FileError(fmt::format("{} has a shape that is no list of at most {} extents", where, Shape::kMaxRank));
  }
  std::uint64_t bytes = wide ? sizeof(double) : dtype_size(record.dtype);
  for (const json& element : shape) {
    const std::uint64_t extent = element.is_number_unsigned() ? element.get<std::uint64_t>() : UINT64_MAX;
    if (extent > static_cast<std::uint64_t>(INT64_MAX) || __builtin_mul_overflow(bytes, extent, &bytes)) {
      throw FileError(fmt::format("{} has the impossible shape {}", where, printable(shape.dump())));
    }
    record.shape.push_back(static_cast<std::int64_t>(extent));
  }

  const json& offsets = entry["data_offsets"];
  const bool pair =
      offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() && offsets[1].is_number_unsigned();
  const std::uint64_t begin = pair ? offsets[0].get<std::uint64_t>() : 0;
  const std::uint64_t end = pair ? offsets[1].get<std::uint64_t>() : 0;
  if (!pair || end < begin || end > data_bytes) {
    throw FileError(fmt::format("{} has data_offsets {}; the file holds {} bytes of data", where,
                                printable(offsets.dump()), data_bytes));
  }
  if (record.readable && end - begin != bytes) {
    throw FileError(fmt::format("{} has {} bytes of data, but {} {} takes {}", where, end - begin,
                                wide ? "float64" : dtype_name(record.dtype), record.shape.to_string(), bytes));
  }
  record.offset = begin;
  record.bytes = end - begin;
  return record;
}

/// The records must tile the data section, as the format demands.
void check_tiling(const std::map<std::string, TensorRecord>& records, std::size_t data_bytes,
                  const std::string& source) {
  std::vector<const std::pair<const std::string, TensorRecord>*> order;
  order.reserve(records.size());
  for (const auto& entry : records) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.offset, a->second.bytes) < std::pair(b->second.offset, b->second.bytes);
  });
  std::size_t expected = 0;
  for (const auto* entry : order) {
    if (entry->second.offset != expected) {
      throw FileError(
          fmt::format("{}: tensor '{}' starts at byte {} of the data, {} byte {} where the one before it ends", source,
                      printable(entry->first), entry->second.offset,
                      entry->second.offset < expected ? "overlapping" : "leaving a hole after", expected));
    }
    expected = entry->second.offset + entry->second.bytes;
  }
  if (expected != data_bytes) {
    throw FileError(fmt::format("{}: holds {} bytes of data, but its tensors take {}", source, data_bytes, expected));
  }
}

std::map<std::string, TensorRecord> parse_records(const json& header, std::size_t data_bytes,
                                                  const std::string& source) {
  if (!header.is_object()) throw FileError(fmt::format("{}: its header is no JSON object", source));
  std::map<std::string, TensorRecord> records;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    records.emplace(name, parse_record(entry, data_bytes, fmt::format("{}: tensor '{}'", source, printable(name))));
  }
  check_tiling(records, data_bytes, source);
  return records;
}

/// A shard's name in an index is text from a stranger: it must stay inside the folder.
void check_shard_name(const std::string& shard, const std::string& source) {
  const fs::path path(shard);
  const bool leaves =
      path.is_absolute() || std::any_of(path.begin(), path.end(), [](const fs::path& p) { return p == ".."; });
  if (shard.empty() || leaves || shard.find('\0') != std::string::npos) {
    throw FileError(
        fmt::format("{}: names the shard '{}'; allowed is a file inside the folder", source, printable(shard)));
  }
}

}  // namespace

std::string_view safetensors_dtype_name(DType dtype) {
  for (const auto& [name, known] : kDtypeNames) {
    if (known == dtype) return name;
  }
  throw Unsupported(fmt::format("safetensors: has no name for {}", dtype_name(dtype)));
}

void require_readable(const TensorRecord& record, const std::string& name, const std::string& source) {
  if (record.readable) return;
  std::string allowed(kDouble);
  for (const auto& [known, dtype] : kDtypeNames) allowed += fmt::format(", {}", known);
  throw FileError(fmt::format("{}: tensor '{}' has dtype {}; allowed are {}", source, printable(name),
                              printable(record.stored_as), allowed));
}

std::map<std::string, TensorRecord> parse_safetensors_header(std::string_view header, std::size_t data_bytes,
                                                             const std::string& source) {
  return parse_records(parse_json(header, source), data_bytes, source);
}

SafetensorsFile::SafetensorsFile(const fs::path& path)
    : source_(path.string()), file_(std::make_shared<const MappedFile>(path)) {
  const std::string& source = source_;
  const std::span<const std::byte> bytes = file_->bytes();
  refuse_lfs_pointer(source, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  std::uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) {
    throw FileError(fmt::format("{}: has {} bytes, too few for a safetensors file", source, bytes.size()));
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);  // little-endian, as every machine we build for
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - sizeof header_bytes) {
    throw FileError(fmt::format("{}: says that its header has {} bytes; the file has {} and a header at most {}",
                                source, header_bytes, bytes.size(), kMaxHeaderBytes));
  }
  data_ = bytes.subspan(sizeof header_bytes + header_bytes);
  header_ = {reinterpret_cast<const char*>(bytes.data() + sizeof header_bytes), header_bytes};
  const json parsed = parse_json(header_, source);
  records_ = parse_records(parsed, data_.size(), source);
  if (const auto found = parsed.find("__metadata__"); found != parsed.end() && found->is_object()) {
    for (const auto& [key, value] : found->items()) {
      if (value.is_string()) metadata_[key] = value.get<std::string>();
    }
  }
}

std::string SafetensorsFile::fingerprint() const {
  return fmt::format("{:016x} {} {}", hash_of(header_), file_->bytes().size(), file_->changed_ns());
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const TensorRecord& record = records_.at(name);
  require_readable(record, name, source_);
  const std::byte* begin = data_.data() + record.offset;
  if (!record.stored_as.empty()) {
    Tensor narrow = Tensor::empty(record.shape, record.dtype);
    for (std::int64_t i = 0; i < narrow.elements(); ++i) {
      double value = 0;
      std::memcpy(&value, begin + static_cast<std::size_t>(i) * sizeof value, sizeof value);
      narrow.as<float>()[i] = static_cast<float>(value);
    }
    return narrow;
  }
  if (reinterpret_cast<std::uintptr_t>(begin) % dtype_size(record.dtype) != 0) {
    // Writers pad the header to 8 bytes; one that does not would make every load a misaligned one.
    Tensor copy = Tensor::empty(record.shape, record.dtype);
    std::memcpy(copy.data(), begin, record.bytes);
    return copy;
  }
  return Tensor::share(file_, begin, record.shape, record.dtype);
}

void SafetensorsFile::release(const std::string& name) const {
  const TensorRecord& record = records_.at(name);
  file_->release(data_.subspan(record.offset, record.bytes));
}

Checkpoint Checkpoint::open_file(const fs::path& path) {
  Checkpoint checkpoint;
  checkpoint.source_ = path.string();
  checkpoint.files_.emplace_back(path);
  for (const auto& [name, record] : checkpoint.files_.back().records()) checkpoint.file_of_.emplace(name, 0);
  return checkpoint;
}

Checkpoint Checkpoint::open_index(const fs::path& index) {
  const JsonConfig config = JsonConfig::load(index);
  const auto map = config.object().find("weight_map");
  if (map == config.object().end() || !map->is_object())
    config.refuse("weight_map", "allowed is an object of tensor: file");
  Checkpoint checkpoint;
  checkpoint.source_ = index.string();
  std::map<std::string, std::size_t> opened;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string())
      throw FileError(fmt::format("{}: tensor '{}' names no file", index.string(), printable(name)));
    const auto shard = file.get<std::string>();
    check_shard_name(shard, index.string());
    auto found = opened.find(shard);
    if (found == opened.end()) {
      checkpoint.files_.emplace_back(index.parent_path() / shard);
      found = opened.emplace(shard, checkpoint.files_.size() - 1).first;
    }
    if (!checkpoint.files_[found->second].records().contains(name)) {
      throw FileError(fmt::format("{}: tensor '{}' is not in '{}'", index.string(), printable(name), printable(shard)));
    }
    checkpoint.file_of_.emplace(name, found->second);
  }
  return checkpoint;
}

Checkpoint Checkpoint::open(const fs::path& folder) {
  struct Form {
    const char* file;
    bool is_index;
  };
  // In the order in which diffusers and transformers look.
  constexpr std::array kForms{Form{"diffusion_pytorch_model.safetensors.index.json", true},
                              Form{"diffusion_pytorch_model.safetensors", false}, Form{"model.safetensors", false},
                              Form{"model.safetensors.index.json", true}};
  const Form* taken = nullptr;
  for (const Form& form : kForms) {
    if (!fs::exists(folder / form.file)) continue;
    if (taken == nullptr) {
      taken = &form;
    } else {
      log(LogLevel::warning, "{}: is not read: {} lies beside it", (folder / form.file).string(), taken->file);
    }
  }
  if (taken != nullptr) return taken->is_index ? open_index(folder / taken->file) : open_file(folder / taken->file);
  throw FileError(fmt::format(
      "{}: holds no weights; looked for diffusion_pytorch_model.safetensors, model.safetensors and their .index.json",
      folder.string()));
}

const TensorRecord* Checkpoint::find(const std::string& name) const {
  const auto found = file_of_.find(name);
  return found == file_of_.end() ? nullptr : &files_[found->second].records().at(name);
}

Tensor Checkpoint::tensor(const std::string& name) const {
  const auto found = file_of_.find(name);
  if (found == file_of_.end()) throw FileError(fmt::format("{}: has no tensor '{}'", source_, name));
  return files_[found->second].tensor(name);
}

void Checkpoint::release(const std::string& name) const { files_[file_of_.at(name)].release(name); }

std::string Checkpoint::fingerprint() const {
  std::vector<std::string> parts;
  for (const SafetensorsFile& file : files_) parts.push_back(file.fingerprint());
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::uint64_t Checkpoint::sample(const std::string& name) const {
  constexpr std::size_t kSlices = 4;
  constexpr std::size_t kSlice = 1024;
  const Tensor stored = tensor(name);
  const std::string_view bytes(stored.as<char>(), stored.bytes());
  if (bytes.size() <= kSlices * kSlice) return hash_of(bytes);
  std::string slices;
  for (std::size_t i = 0; i < kSlices; ++i) slices += bytes.substr((bytes.size() - kSlice) / (kSlices - 1) * i, kSlice);
  return hash_of(slices);
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> result;
  for (const auto& [name, file] : file_of_) result.push_back(name);
  return result;
}

std::uint64_t Checkpoint::stored_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [name, file] : file_of_) bytes += files_[file].records().at(name).bytes;
  return bytes;
}

}  // namespace rondo
