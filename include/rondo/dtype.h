// Element types of tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "rondo/export.h"

namespace rondo RONDO_PUBLIC {

enum class DType : std::uint8_t { f32, bf16, f16, f8_e4m3, s8, u8, s32, s64, boolean };

/// Bytes of one element.
std::size_t dtype_size(DType dtype);

/// The name in the field: "float32", "bfloat16", "float16", "float8_e4m3fn", "int8", ...
std::string_view dtype_name(DType dtype);

/// Accepts the long name and the short one ("f32", "bf16", ...). Throws InvalidArgument, listing the names.
DType parse_dtype(std::string_view name);

/// True for f32, bf16, f16 and f8_e4m3.
bool is_floating(DType dtype);

}  // namespace RONDO_PUBLIC
