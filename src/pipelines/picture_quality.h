// How far two pictures, or two tensors, are apart.
#pragma once

#include <span>

#include "rondo/image.h"

namespace rondo {

struct PictureQuality {
  double psnr = 0;  // dB, of levels from 0 to 255; infinite for equal pictures
  double ssim = 0;  // structural similarity of the luma, 1 for equal pictures (Wang et al., 2004)
};

/// Throws InvalidArgument for pictures of different sizes. Pictures smaller than SSIM's window of 11 x 11 are compared
/// as one window.
PictureQuality compare_pictures(const Image& wanted, const Image& given);

struct TensorQuality {
  double cosine = 1;
  double relative_l2 = 0;  // |given - wanted| / |wanted|
};

/// In float64. Two zero tensors are equal; of one zero tensor the cosine is 0.
TensorQuality compare_values(std::span<const float> wanted, std::span<const float> given);

}  // namespace rondo
