#include "attention/attention_request.h"

#include <fmt/format.h>

#include <array>

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
