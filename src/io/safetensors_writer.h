// Writing .safetensors files, one tensor in memory at a time.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "rondo/tensor.h"

namespace rondo {

struct TensorToWrite {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

/// Writes a new file, with `metadata` under __metadata__. `make` is called once a tensor, in the file's order: wide
/// elements first, so that all lie aligned. The bytes are on the disk when it returns. Throws FileError, in which the
/// file is called `shown` (default: `path`); what was written until then stays.
void write_safetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors,
                       const std::function<Tensor(const std::string& name)>& make,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}},
                       const std::string& shown = "");

}  // namespace rondo
