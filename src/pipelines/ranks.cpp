#include "pipelines/ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <numeric>

#include "core/hash.h"
#include "core/memory.h"
#include "pipelines/rank_devices.h"

namespace rondo {
namespace {

/// A hash of a file's size and of pieces all over it: enough to tell two models of one shape apart, without reading
/// gigabytes.
std::uint64_t hash_of_samples(const std::filesystem::path& file, std::uint64_t size) {
  constexpr std::uint64_t kPiece = 4096;
  constexpr std::uint64_t kPieces = 64;
  std::ifstream stream(file, std::ios::binary);
  std::string seen = std::to_string(size);
  std::array<char, kPiece> piece{};
  for (std::uint64_t i = 0; i < kPieces; ++i) {
    const std::uint64_t begin = size > kPiece ? (size - kPiece) * i / (kPieces - 1) : 0;
    stream.clear();
    stream.seekg(static_cast<std::streamoff>(begin));
    stream.read(piece.data(), static_cast<std::streamsize>(std::min(size, kPiece)));
    seen.append(piece.data(), static_cast<std::size_t>(stream.gcount()));
  }
  return hash_of(seen);
}

}  // namespace

std::string fingerprint(const DiffusersFolder& folder) {
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) {
    const std::string extension = entry.path().extension().string();
    if (!entry.is_regular_file() ||
        (extension != ".safetensors" && extension != ".json" && extension != ".model" && extension != ".txt")) {
      continue;
    }
    lines.push_back(fmt::format("{} {:x}", std::filesystem::relative(entry.path(), folder.path()).string(),
                                hash_of_samples(entry.path(), entry.file_size())));
  }
  std::sort(lines.begin(), lines.end());
  return fmt::format("{} files, hash {:x}", lines.size(), hash_of(fmt::format("{}", fmt::join(lines, "\n"))));
}

Ranks::Ranks(std::shared_ptr<const ProcessGroups> groups, const ExecutionDevice* device) : groups_(std::move(groups)) {
  if (alone()) return;
  const std::vector<std::string> memories = memories_of_ranks(groups_->world(), device);
  const std::string& own = memories[static_cast<std::size_t>(groups_->world().rank())];
  on_this_memory_ = static_cast<int>(std::count(memories.begin(), memories.end(), own));
}

std::uint64_t Ranks::least(std::uint64_t number) const {
  if (alone()) return number;
  std::vector<std::uint64_t> all(static_cast<std::size_t>(groups_->world().size()));
  groups_->world().all_gather(std::as_bytes(std::span(&number, 1)), std::as_writable_bytes(std::span(all)));
  return *std::min_element(all.begin(), all.end());
}

std::vector<int> Ranks::branches_of(int count) const {
  if (degrees().cfg > 1) return {place().cfg};
  std::vector<int> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

void Ranks::require_same(std::span<const AgreedValue> values) const {
  if (!alone()) require_agreement(groups_->world(), values);
}

std::uint64_t Ranks::agree_on(std::uint64_t number) const {
  if (!alone()) groups_->world().broadcast(std::as_writable_bytes(std::span(&number, 1)), 0);
  return number;
}

void Ranks::share(Tensor& tensor) const {
  if (!alone()) groups_->sequence().broadcast({tensor.as<std::byte>(), tensor.bytes()}, 0);
}

std::vector<float> Ranks::join_branches(std::vector<float> own) const {
  if (degrees().cfg == 1) return own;
  std::vector<float> all(own.size() * 2);
  groups_->cfg().all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all)));
  return all;
}

void Ranks::send_picture(const Image& image) const { groups_->data().send(0, std::as_bytes(std::span(image.pixels))); }

Image Ranks::receive_picture(int part, int width, int height) const {
  Image image{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width) * height * 3)};
  groups_->data().receive(part, std::as_writable_bytes(std::span(image.pixels)));
  return image;
}

std::vector<std::uint64_t> Ranks::peak_memory() const {
  const std::uint64_t own = rondo::peak_memory();
  if (alone()) return {own};
  std::vector<std::uint64_t> all(static_cast<std::size_t>(groups_->world().size()));
  groups_->world().all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all)));
  return all;
}

void Ranks::fail(const std::string& reason) const {
  if (!alone()) groups_->world().fail(reason);
}

}  // namespace rondo
