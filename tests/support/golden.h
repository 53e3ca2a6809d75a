// Golden outputs: what the reference implementations compute, stored by tools/golden.
#pragma once

#include <string>

#include "graph/session.h"
#include "io/safetensors.h"
#include "support/paths.h"

namespace rondo::test {

/// The folder of a golden pipeline: "emoji" is the bundled model, the others lie in the test data.
inline std::filesystem::path pipeline_folder(const std::string& name) {
  return name == "emoji" ? emoji_folder() : data_folder() / name;
}

inline Checkpoint golden_tensors(const std::string& name) {
  return Checkpoint::open_file(data_folder() / (name + ".safetensors"));
}

/// Copies a golden tensor into a session's input, converting to its dtype.
inline void set_input(Session& session, const std::string& name, const Tensor& value) {
  Tensor target = session.input(name);
  ASSERT_EQ(target.shape(), value.shape()) << name;
  const Tensor source = value.dtype() == target.dtype() ? value : value.to(target.dtype());
  std::copy_n(source.as<std::byte>(), source.bytes(), target.as<std::byte>());
}

}  // namespace rondo::test
