// Packed weights on disk: found again, told apart, refused when damaged, bounded.
#include "backends/packed_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "backends/weight_store.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "rondo/error.h"
#include "rondo/log.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kElements = 32768;

/// Of what is packed: parts of several dtypes, one of them empty.
const std::vector<TensorType> kTypes{{{kElements}, DType::f32, {}}, {{3}, DType::s8, {}}, {{0}, DType::s32, {}}};

/// Under which the store keeps it.
constexpr const char* kKey = "weight w (0000000000000000); as twice";

class OneWeight final : public WeightSource {
 public:
  explicit OneWeight(std::string fingerprint) : fingerprint_(std::move(fingerprint)) {
    record_.shape = tensor_.shape();
    record_.dtype = tensor_.dtype();
  }
  const std::string& source() const override { return source_; }
  const TensorRecord* find(const std::string& /*name*/) const override { return &record_; }
  Tensor tensor(const std::string& /*name*/) const override { return tensor_; }
  std::vector<std::string> names() const override { return {"w"}; }
  std::string fingerprint() const override { return fingerprint_; }

 private:
  std::string source_ = "test";
  std::string fingerprint_;
  TensorRecord record_;
  Tensor tensor_ = random_tensor({kElements}, DType::f32, 1);
};

std::string read_file(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

class PackedCache : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("rondo-packed-cache-" + std::to_string(getpid()));
    fs::remove_all(folder_);
    set_log_sink(LogLevel::warning, [this](LogLevel, std::string_view text) { log_ += std::string(text) + "\n"; });
  }
  void TearDown() override {
    set_log_sink(LogLevel::off, {});
    fs::remove_all(folder_);
  }

  struct Packed {
    bool was_made = false;
    std::shared_ptr<const PackedWeight> weight;
  };
  /// What a process of its own would get: the weight doubled, with a part of another dtype beside it.
  Packed pack(const std::string& fingerprint = "a", const std::string& form = "twice", std::uint64_t limit = 1 << 30) {
    Packed packed;
    WeightStore store(std::make_shared<const OneWeight>(fingerprint),
                      std::make_shared<PackedWeightCache>(folder_, limit));
    const PackedForm wanted{form, kTypes};
    packed.weight = store.packed("w", wanted, [&](const Tensor& stored) -> std::vector<Tensor> {
      packed.was_made = true;
      Tensor twice = Tensor::empty({kElements}, DType::f32);
      for (std::int64_t i = 0; i < kElements; ++i) twice.as<float>()[i] = 2 * stored.as<float>()[i];
      return {twice, Tensor::zeros({3}, DType::s8), Tensor::zeros({0}, DType::s32)};
    });
    EXPECT_EQ(packed.weight->parts.size(), 3U);
    EXPECT_FLOAT_EQ(packed.weight->parts[0].as<float>()[7], 2 * OneWeight("").tensor("w").as<float>()[7]);
    return packed;
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
      if (entry.is_regular_file()) found.push_back(entry.path());
    }
    return found;
  }

  fs::path folder_;
  std::string log_;
};

TEST_F(PackedCache, GivesTheNextProcessWhatOnePacked) {
  const Packed first = pack();
  EXPECT_TRUE(first.was_made);
  EXPECT_TRUE(first.weight->is_mapped);  // the process that packs lets go of its own copy
  EXPECT_FALSE(pack().was_made);
  EXPECT_EQ(packed_cache_use(folder_).files, 1U);
  EXPECT_TRUE(pack("another checkpoint").was_made);
  EXPECT_TRUE(pack("a", "another form").was_made);
  EXPECT_TRUE(pack("").was_made);  // a source that cannot be told from others
  EXPECT_TRUE(pack("").was_made);
  EXPECT_EQ(files().size(), 3U);
  EXPECT_EQ(clear_packed_cache(folder_).files, 3U);
  EXPECT_TRUE(pack().was_made);
  EXPECT_EQ(log_, "");
}

TEST_F(PackedCache, PacksAnewWhatIsDamaged) {
  pack();
  const fs::path file = files().at(0);
  const auto whole = fs::file_size(file);
  for (const std::uintmax_t size : {whole - 1, std::uintmax_t{40}, std::uintmax_t{0}}) {
    fs::resize_file(file, size);
    log_.clear();
    EXPECT_TRUE(pack().was_made) << size;
    EXPECT_NE(log_.find(file.string()), std::string::npos) << log_;
    EXPECT_FALSE(pack().was_made) << size;
  }
  // Another weight's file under this one's name, and one whose parts have other shapes.
  pack("a", "another form");
  for (const fs::path& other : files()) {
    if (other != file) fs::copy_file(other, file, fs::copy_options::overwrite_existing);
  }
  EXPECT_TRUE(pack().was_made);
  PackedWeightCache cache(folder_, 1 << 30);
  EXPECT_TRUE(cache.load("a", kKey, kTypes));
  std::vector<TensorType> others = kTypes;
  others[1].shape = {4};
  EXPECT_FALSE(cache.load("a", kKey, others));
  others = {kTypes[0]};
  EXPECT_FALSE(cache.load("a", kKey, others));
}

/// A file whose size and header are right and whose bytes are not, as a power cut may leave it.
TEST_F(PackedCache, ZeroedBytesAreFound) {
  pack();
  const fs::path file = files().at(0);
  const auto size = fs::file_size(file);
  // Any half is found when the file is mapped; what follows is the middle quarter.
  PackedWeightCache cache(folder_, 1 << 30);
  const std::string right = read_file(file);
  for (std::size_t begin = 0; begin <= 8; ++begin) {
    std::string half = right;
    const std::size_t data = right.size() - kElements * sizeof(float) - 3;  // behind the header
    const std::size_t at = data + begin * (right.size() - data) / 16;
    std::fill_n(half.begin() + static_cast<std::ptrdiff_t>(at), (right.size() - data) / 2, '\0');
    std::ofstream(file, std::ios::binary) << half;
    EXPECT_FALSE(cache.load("a", kKey, kTypes)) << begin;
  }
  std::ofstream(file, std::ios::binary) << right;
  EXPECT_TRUE(cache.load("a", kKey, kTypes));
  log_.clear();
  {
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(size / 2));
    bytes << std::string(size / 4, '\0');
  }
  std::vector<std::string> damaged;
  const auto collect = [&](const std::string& what) { damaged.push_back(what); };
  const std::string kept = read_file(file);
  EXPECT_EQ(verify_packed_cache(folder_, collect), 1U);
  ASSERT_EQ(damaged.size(), 1U);
  EXPECT_NE(damaged[0].find(file.string() + ": is damaged"), std::string::npos) << damaged[0];
  EXPECT_FALSE(fs::exists(file));
  std::ofstream(file, std::ios::binary) << kept;
  EXPECT_TRUE(pack().was_made) << "found when it is mapped as well";
  EXPECT_NE(log_.find("is damaged"), std::string::npos) << log_;
  damaged.clear();
  EXPECT_EQ(verify_packed_cache(folder_, collect), 0U);
  EXPECT_TRUE(damaged.empty());
}

/// Of many bytes some are checked when a file is mapped, and all on demand.
TEST_F(PackedCache, LargeFilesAreSampled) {
  constexpr std::int64_t kBytes = 8 << 20;
  PackedWeightCache cache(folder_, 1 << 30);
  const std::vector<TensorType> types{{{kBytes}, DType::u8, {}}};
  ASSERT_TRUE(cache.keep("a", "big", {Tensor::zeros(types[0].shape, DType::u8)}));
  const fs::path file = files().at(0);
  const auto data = static_cast<std::streamoff>(fs::file_size(file) - kBytes);
  const auto flip = [&](std::int64_t byte) {
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekg(data + byte);
    const char old = static_cast<char>(bytes.get());
    bytes.seekp(data + byte);
    bytes.put(static_cast<char>(old ^ 1));
  };
  for (const auto& [byte, found] : {std::pair(std::int64_t{0}, true), {kBytes - 1, true}, {kBytes / 4, false}}) {
    flip(byte);
    EXPECT_EQ(!cache.load("a", "big", types), found) << byte;
    if (found) flip(byte);
  }
  EXPECT_EQ(verify_packed_cache(folder_, [](const std::string&) {}), 1U);
  // What an older version wrote is no damage, and of no use.
  write_safetensors(file, {{"0", DType::u8, {4}}}, [](const std::string&) { return Tensor::zeros({4}, DType::u8); });
  std::string told;
  EXPECT_EQ(verify_packed_cache(folder_, [&](const std::string& what) { told += what; }), 0U);
  EXPECT_NE(told.find("is of an older version (removed)"), std::string::npos) << told;
}

TEST_F(PackedCache, KeepsToItsLimit) {
  constexpr std::uint64_t kTwoFiles = 2 * kElements * sizeof(float) + 4096;
  pack("a", "first", kTwoFiles);
  pack("a", "second", kTwoFiles);
  fs::last_write_time(files().at(0), fs::file_time_type::clock::now() - std::chrono::hours(2));
  fs::last_write_time(files().at(1), fs::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_FALSE(pack("a", "first", kTwoFiles).was_made);  // used, so that the second is the next to go
  EXPECT_TRUE(pack("a", "third", kTwoFiles).was_made);
  EXPECT_LE(packed_cache_use(folder_).bytes, kTwoFiles);
  EXPECT_FALSE(pack("a", "first", kTwoFiles).was_made);
  EXPECT_FALSE(pack("a", "third", kTwoFiles).was_made);
  EXPECT_FALSE(pack("a", "fourth", 1000).weight->is_mapped);  // more than all may take
}

TEST_F(PackedCache, RefusesAFolderThatCannotBe) {
  fs::create_directories(folder_);
  std::ofstream(folder_ / "file") << "x";
  try {
    PackedWeightCache cache(folder_ / "file", 1000);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_NE(std::string(error.what()).find("weight-cache: "), std::string::npos);
  }
}

}  // namespace
}  // namespace rondo::test
