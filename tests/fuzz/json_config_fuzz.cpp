// Any bytes as each of the configs: refused, or read.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "io/json_config.h"
#include "models/autoencoder_kl.h"
#include "models/clip_text.h"
#include "models/flux_transformer.h"
#include "models/t5_encoder.h"
#include "rondo/error.h"
#include "schedulers/flow_match_euler.h"

namespace {

template <typename Parse>
void try_parse(const Parse& parse) {
  try {
    parse();
  } catch (const rondo::FileError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const rondo::JsonConfig config(rondo::parse_json({reinterpret_cast<const char*>(data), size}, "fuzz"), "fuzz");
    try_parse([&] { rondo::FluxTransformerConfig::parse(config); });
    try_parse([&] { rondo::T5EncoderConfig::parse(config); });
    try_parse([&] { rondo::ClipTextConfig::parse(config); });
    try_parse([&] { rondo::AutoencoderKlConfig::parse(config); });
    try_parse([&] { rondo::FlowMatchEulerScheduler::parse(config).schedule(4, 64); });
  } catch (const rondo::FileError&) {
  }
  return 0;
}
