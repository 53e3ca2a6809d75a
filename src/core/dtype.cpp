#include "rondo/dtype.h"

#include <fmt/format.h>

#include <array>
#include <string>

#include "rondo/error.h"

namespace rondo {
namespace {

struct DTypeRow {
  DType dtype;
  std::size_t size;
  std::string_view name;
  std::string_view short_name;
};

constexpr std::array kRows{
    DTypeRow{DType::f32, 4, "float32", "f32"},      DTypeRow{DType::bf16, 2, "bfloat16", "bf16"},
    DTypeRow{DType::f16, 2, "float16", "f16"},      DTypeRow{DType::f8_e4m3, 1, "float8_e4m3fn", "f8_e4m3"},
    DTypeRow{DType::s8, 1, "int8", "s8"},           DTypeRow{DType::u8, 1, "uint8", "u8"},
    DTypeRow{DType::s32, 4, "int32", "s32"},        DTypeRow{DType::s64, 8, "int64", "s64"},
    DTypeRow{DType::boolean, 1, "bool", "boolean"},
};

const DTypeRow& row(DType dtype) { return kRows[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::size_t dtype_size(DType dtype) { return row(dtype).size; }
std::string_view dtype_name(DType dtype) { return row(dtype).name; }

DType parse_dtype(std::string_view name) {
  std::string known;
  for (const DTypeRow& r : kRows) {
    if (name == r.name || name == r.short_name) return r.dtype;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", r.name);
  }
  throw InvalidArgument(fmt::format("dtype: '{}' is not known; known are {}", name, known));
}

bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f8_e4m3;
}

}  // namespace rondo
