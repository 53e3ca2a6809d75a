// SentencePiece trusts the normalisation table inside a model file; this checks it first.
#pragma once

#include <string_view>

namespace rondo {

/// True when every precompiled character map of a serialized SentencePiece ModelProto is sound: each step through its
/// double array stays inside, each value points at text that ends. A model without a map is sound. Bytes that are no
/// protocol buffer are not.
bool has_sound_charsmaps(std::string_view model);

}  // namespace rondo
