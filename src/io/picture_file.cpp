#include "io/picture_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "io/exif.h"
#include "io/jpeg.h"
#include "io/mapped_file.h"
#include "io/png.h"
#include "io/webp.h"
#include "rondo/error.h"
#include "rondo/version.h"

namespace rondo {
namespace {

constexpr const char* kRequestKey = "rondo";
/// What a UserComment of ours begins with.
constexpr std::string_view kCommentHead = "rondo: ";
/// Exif's directories and our names; what remains of a JPEG's metadata is the request's.
constexpr std::size_t kExifOverhead = 256;

std::string software() { return "Rondo " + version(); }

std::string as_ascii(const std::string& json_text) {
  return nlohmann::json::parse(json_text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

/// What the first bytes say; nothing for other files.
std::optional<PictureFormat> format_of_content(std::span<const std::byte> file) {
  const std::string_view head(reinterpret_cast<const char*>(file.data()), std::min<std::size_t>(file.size(), 12));
  if (head.starts_with("\x89PNG")) return PictureFormat::png;
  if (head.starts_with("\xff\xd8\xff")) return PictureFormat::jpeg;
  if (head.starts_with("RIFF") && head.size() == 12 && head.substr(8) == "WEBP") return PictureFormat::webp;
  return std::nullopt;
}

PictureFormat require_format(const MappedFile& file, const std::string& source) {
  const auto format = format_of_content(file.bytes());
  if (!format) throw FileError(fmt::format("{}: is no picture; allowed are PNG, JPEG and WebP", source));
  return *format;
}

}  // namespace

PictureFormat picture_format(const std::filesystem::path& name) {
  std::string extension = name.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  if (extension == ".jpg" || extension == ".jpeg") return PictureFormat::jpeg;
  return extension == ".webp" ? PictureFormat::webp : PictureFormat::png;
}

void check_picture(PictureFormat format, std::int64_t width, std::int64_t height,
                   const std::optional<std::string>& request) {
  if (format == PictureFormat::png) return;
  const bool is_jpeg = format == PictureFormat::jpeg;
  const std::int64_t longest = is_jpeg ? kLongestJpegSide : kLongestWebpSide;
  if (std::max(width, height) > longest) {
    throw InvalidArgument(fmt::format("output: {} x {} is asked for; {} allows sides of up to {}: write .png", width,
                                      height, is_jpeg ? "JPEG" : "WebP", longest));
  }
  if (!is_jpeg || !request) return;
  constexpr std::size_t kMost = kMostJpegExifBytes - kExifOverhead;
  const std::size_t bytes = as_ascii(*request).size();
  if (bytes > kMost) {
    throw InvalidArgument(fmt::format(
        "output: the request takes {} bytes; JPEG keeps up to {} beside a picture: write .png or .webp", bytes, kMost));
  }
}

std::vector<std::byte> encode_picture(const Image& image, PictureFormat format, int quality,
                                      const std::optional<std::string>& request) {
  if (format == PictureFormat::png) {
    if (!request) return encode_png(image, {});
    return encode_png(image, {{"Software", software()}, {kRequestKey, *request}});
  }
  std::vector<std::byte> exif;
  if (request) exif = encode_exif(software(), std::string(kCommentHead) + as_ascii(*request));
  return format == PictureFormat::jpeg ? encode_jpeg(image, quality, exif) : encode_webp(image, quality, exif);
}

std::optional<std::string> read_picture_request(const std::filesystem::path& path) {
  const std::string source = path.string();
  const MappedFile file(path);
  const PictureFormat format = require_format(file, source);
  if (format == PictureFormat::png) {
    const std::map<std::string, std::string> texts = read_png_texts(path);
    const auto found = texts.find(kRequestKey);
    return found == texts.end() ? std::nullopt : std::optional(found->second);
  }
  const auto comment = read_exif_comment(format == PictureFormat::jpeg ? read_jpeg_exif(file.bytes(), source)
                                                                       : read_webp_exif(file.bytes(), source));
  if (!comment || !comment->starts_with(kCommentHead)) return std::nullopt;
  return comment->substr(kCommentHead.size());
}

Image read_picture(const std::filesystem::path& path) {
  const std::string source = path.string();
  const MappedFile file(path);
  switch (require_format(file, source)) {
    case PictureFormat::jpeg: return decode_jpeg(file.bytes(), source);
    case PictureFormat::webp: return decode_webp(file.bytes(), source);
    case PictureFormat::png: break;
  }
  return read_png(path);
}

}  // namespace rondo
