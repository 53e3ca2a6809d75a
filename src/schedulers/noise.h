// Seeded Gaussian noise, the same as torch.randn gives on a CPU generator with the same seed.
#pragma once

#include <cstdint>
#include <vector>

namespace rondo {

/// `count` values as torch.randn(count, generator=torch.Generator("cpu").manual_seed(seed)) in float32 (equal to about
/// 1e-6: torch's vector code rounds logarithm and cosine otherwise).
std::vector<float> seeded_normal_noise(std::uint64_t seed, std::size_t count);

}  // namespace rondo
