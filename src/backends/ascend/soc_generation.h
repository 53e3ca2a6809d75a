// Which generation of Ascend chips has what.
#pragma once

#include <string>
#include <string_view>

namespace rondo::ascend {

enum class SocGeneration : std::uint8_t {
  ascend310p,  // Atlas inference series
  ascend910,   // Atlas training series, "910A"
  ascend910b,  // Atlas A2
  ascend910c,  // Atlas A3
  ascend950,   // A5
  unknown,
};

/// What CANN's operator documents say of a generation. Never run on hardware by this project.
struct SocCapabilities {
  SocGeneration generation;
  std::string_view name;
  bool bf16;
  /// Products of float32 without rounding to a narrower format.
  bool f32_products;
  bool rms_norm;
  /// RotaryPositionEmbedding of pairs side by side; elsewhere it is put together from other operators.
  bool rotary;
  /// FusedInferAttentionScore: 0 for none, else the version to call (2 where 3 is missing).
  int fused_infer_attention;
  bool prompt_flash_attention;
  bool laser_attention;
  /// Attention on e4m3 operands with a scale a block (quant mode 7).
  bool fp8_attention;
  /// HcclBatchSendRecv, which messages between ranks are.
  bool messages;
};

/// Of aclrtGetSocName()'s answer, such as "Ascend910B2".
const SocCapabilities& soc_capabilities(std::string_view soc_name);

}  // namespace rondo::ascend
