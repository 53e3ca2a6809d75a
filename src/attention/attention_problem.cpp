#include "attention/attention_problem.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <vector>

#include "attention/attention_kernel.h"
#include "core/device_name.h"
#include "core/text.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr std::array<std::string_view, 3> kMaskKinds{"none", "boolean", "additive"};
constexpr std::int64_t kLargest = std::int64_t{1} << 24;

[[noreturn]] void refuse(std::string_view word, const char* allowed) {
  throw InvalidArgument(fmt::format("problem: '{}' is given; allowed is {}", printable(word), allowed));
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::int64_t parse_extent(std::string_view word, std::string_view digits) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || value < 1 || value > kLargest)
    refuse(word, "a whole number from 1 to 16777216");
  return value;
}

bool parse_switch(std::string_view word, std::string_view value) {
  if (value != "0" && value != "1") refuse(word, "0 or 1");
  return value == "1";
}

}  // namespace

std::string_view attention_layout_name(AttentionLayout layout) {
  constexpr std::array<std::string_view, 3> kNames{"bsnd", "bnsd", "bsh"};
  return kNames[static_cast<std::size_t>(layout)];
}

std::string to_string(const AttentionTiling& tiling) {
  std::string text;
  if (tiling.key_block != 0 || tiling.chunk != 0)
    text += fmt::format(" key_block={} chunk={}", tiling.key_block, tiling.chunk);
  if (tiling.layout) text += fmt::format(" layout={}", attention_layout_name(*tiling.layout));
  return text;
}

std::string_view mask_kind_name(MaskKind kind) { return kMaskKinds[static_cast<std::size_t>(kind)]; }

AttentionProblem describe_operands(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask) {
  AttentionProblem problem;
  problem.batch = query.shape()[0];
  problem.queries = query.shape()[1];
  problem.heads = query.shape()[2];
  problem.head_dim = query.shape()[3];
  problem.keys = key.shape()[1];
  problem.key_heads = key.shape()[2];
  problem.value_dim = value.shape()[3];
  problem.dtype = query.dtype();
  problem.device = query.device();
  if (mask.defined()) {
    problem.mask = mask.dtype() == DType::boolean ? MaskKind::boolean : MaskKind::additive;
    problem.mask_batch = mask.shape()[0] != 1;
    problem.mask_heads = mask.shape()[1] != 1;
    problem.mask_queries = mask.shape()[2] != 1 || problem.queries == 1;
  }
  if (key.strides()[1] < key.strides()[2]) problem.layout = AttentionLayout::bnsd;
  return problem;
}

std::string to_string(const AttentionProblem& p) {
  std::string text = fmt::format("q={}x{}x{}x{} kv={} dtype={} mask={}", p.batch, p.heads, p.queries, p.head_dim,
                                 p.keys, dtype_name(p.dtype), mask_kind_name(p.mask));
  if (p.key_heads != p.heads) text += fmt::format(" kv_heads={}", p.key_heads);
  if (p.value_dim != p.head_dim) text += fmt::format(" v_dim={}", p.value_dim);
  if (p.mask != MaskKind::none && (p.mask_batch || p.mask_heads || !p.mask_queries)) {
    text +=
        fmt::format(" mask_axes={}{}{}", p.mask_batch ? "b" : "", p.mask_heads ? "n" : "", p.mask_queries ? "q" : "");
  }
  if (p.layout == AttentionLayout::bnsd) text += " layout=bnsd";
  if (p.own_scale) text += " scale=own";
  if (p.causal) text += " causal=1";
  if (p.lse) text += " lse=1";
  if (p.varlen) text += " varlen=1";
  if (!p.device.is_cpu()) text += fmt::format(" device={}", to_string(p.device));
  return text + to_string(p.quantization);
}

AttentionProblem parse_attention_problem(std::string_view text) {
  AttentionProblem p;
  p.heads = p.keys = p.key_heads = p.value_dim = 0;
  for (const std::string_view word : split(text, ' ')) {
    if (word.empty()) continue;
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos) refuse(word, "KEY=VALUE, as in q=1x24x4608x128");
    const std::string_view key = word.substr(0, equals);
    const std::string_view value = word.substr(equals + 1);
    if (key == "q") {
      const auto parts = split(value, 'x');
      if (parts.size() != 4) refuse(word, "q=BATCHxHEADSxQUERIESxHEAD_DIM");
      p.batch = parse_extent(word, parts[0]);
      p.heads = parse_extent(word, parts[1]);
      p.queries = parse_extent(word, parts[2]);
      p.head_dim = parse_extent(word, parts[3]);
    } else if (key == "kv") {
      p.keys = parse_extent(word, value);
    } else if (key == "kv_heads") {
      p.key_heads = parse_extent(word, value);
    } else if (key == "v_dim") {
      p.value_dim = parse_extent(word, value);
    } else if (key == "dtype") {
      p.dtype = parse_dtype(value);
    } else if (key == "mask") {
      if (value == "none")
        p.mask = MaskKind::none;
      else if (value == "boolean" || value == "bool")
        p.mask = MaskKind::boolean;
      else if (value == "additive")
        p.mask = MaskKind::additive;
      else
        refuse(word, "mask=none, boolean or additive");
    } else if (key == "mask_axes") {
      if (value.find_first_not_of("bnq") != std::string_view::npos) refuse(word, "mask_axes= and letters of bnq");
      p.mask_batch = value.find('b') != std::string_view::npos;
      p.mask_heads = value.find('n') != std::string_view::npos;
      p.mask_queries = value.find('q') != std::string_view::npos;
    } else if (key == "layout") {
      if (value != "bsnd" && value != "bnsd") refuse(word, "layout=bsnd or bnsd");
      p.layout = value == "bnsd" ? AttentionLayout::bnsd : AttentionLayout::bsnd;
    } else if (key == "scale") {
      if (value != "own" && value != "default") refuse(word, "scale=default or own");
      p.own_scale = value == "own";
    } else if (key == "causal") {
      p.causal = parse_switch(word, value);
    } else if (key == "lse") {
      p.lse = parse_switch(word, value);
    } else if (key == "varlen") {
      p.varlen = parse_switch(word, value);
    } else if (key == "device") {
      p.device = parse_device(value, "device");
    } else if (key == "kv_cache") {
      p.quantization.dtype = parse_kv_cache_dtype(value, "kv_cache");
    } else if (key == "rotation") {
      p.quantization.rotates = parse_switch(word, value);
    } else if (key == "smooth_k") {
      p.quantization.smooths = parse_switch(word, value);
    } else {
      refuse(word,
             "q, kv, kv_heads, v_dim, dtype, mask, mask_axes, layout, scale, causal, lse, varlen, kv_cache, rotation, "
             "smooth_k or device");
    }
  }
  if (p.heads == 0) throw InvalidArgument("problem: q=BATCHxHEADSxQUERIESxHEAD_DIM is missing");
  if (p.keys == 0) p.keys = p.queries;
  if (p.key_heads == 0) p.key_heads = p.heads;
  if (p.value_dim == 0) p.value_dim = p.head_dim;
  if (!p.quantization.active()) p.quantization = {};
  if (p.heads % p.key_heads != 0)
    throw InvalidArgument(fmt::format("problem: {} heads are no multiple of {} key heads", p.heads, p.key_heads));
  return p;
}

}  // namespace rondo
