#include "attention/attention_request.h"

#include <fmt/format.h>

#include <array>

#include "core/env.h"
#include "core/text.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr std::array<std::string_view, 3> kTuneModes{"off", "cached", "on"};

}  // namespace

TuneMode parse_tune_mode(std::string_view text, std::string_view source) {
  for (std::size_t i = 0; i < kTuneModes.size(); ++i) {
    if (text == kTuneModes[i]) return static_cast<TuneMode>(i);
  }
  throw InvalidArgument(
      fmt::format("{}: '{}' is given; allowed are {}", source, printable(text), fmt::join(kTuneModes, ", ")));
}

AttentionRequest AttentionRequest::native() const {
  AttentionRequest request = *this;
  request.backend = native_backend;
  request.native_backend.clear();
  request.quantization = {};
  request.native_steps.clear();
  return request;
}

AttentionRequest::NamedBackend AttentionRequest::named_backend() const {
  if (!backend.empty()) return {backend, backend_source};
  constexpr const char* kVariable = "RONDO_ATTENTION_BACKEND";
  const auto value = reads_environment ? env_value(kVariable) : std::nullopt;
  return value ? NamedBackend{*value, kVariable} : NamedBackend{};
}

std::string to_string(const AttentionRequest& request) {
  std::string text;
  if (!request.backend.empty()) text += " backend=" + request.backend;
  if (request.mode == AttentionOptMode::static_order) text += " opt_mode=static";
  text += to_string(request.quantization);
  if (!request.native_steps.empty()) text += fmt::format(" native at {}", selector_text(request.native_steps));
  if (request.tune) text += fmt::format(" tune={}", kTuneModes[static_cast<std::size_t>(*request.tune)]);
  return text;
}

}  // namespace rondo
