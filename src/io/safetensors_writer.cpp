#include "io/safetensors_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "io/file_writer.h"
#include "io/safetensors.h"
#include "rondo/error.h"

namespace rondo {

void write_safetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors,
                       const std::function<Tensor(const std::string& name)>& make,
                       const std::map<std::string, std::string>& metadata, const std::string& shown) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const std::size_t left = dtype_size(a.dtype);
    const std::size_t right = dtype_size(b.dtype);
    return left != right ? left > right : a.name < b.name;
  });
  nlohmann::json header;
  header["__metadata__"] = metadata;
  std::size_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    const std::size_t end = offset + static_cast<std::size_t>(tensor.shape.elements()) * dtype_size(tensor.dtype);
    nlohmann::json shape = nlohmann::json::array();
    for (std::size_t axis = 0; axis < tensor.shape.rank(); ++axis) shape.push_back(tensor.shape[axis]);
    header[tensor.name] = {
        {"dtype", safetensors_dtype_name(tensor.dtype)}, {"shape", std::move(shape)}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  constexpr std::size_t kLine = 64;  // the data, behind 8 bytes of length and the header, begins on a cache line
  text.resize((text.size() + 8 + kLine - 1) / kLine * kLine - 8, ' ');

  FileWriter file(path, shown);
  const std::uint64_t header_bytes = text.size();  // little-endian, as every machine we build for
  file.write(&header_bytes, sizeof header_bytes);
  file.write(text.data(), text.size());
  for (const TensorToWrite& wanted : tensors) {
    const Tensor tensor = make(wanted.name);
    if (tensor.dtype() != wanted.dtype || !(tensor.shape() == wanted.shape))
      throw Error(fmt::format("{}: tensor '{}' is not what was announced", path.string(), wanted.name));
    file.write(tensor.data(), tensor.bytes());
  }
  file.flush_to_disk();  // or a power cut could leave a header with nothing behind it
  file.finish();
}

}  // namespace rondo
