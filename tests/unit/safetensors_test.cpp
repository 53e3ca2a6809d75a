// Files that lie: each is refused with a message, none is trusted.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "graph/builder.h"
#include "io/json_config.h"
#include "io/safetensors.h"
#include "rondo/error.h"
#include "rondo/log.h"
#include "support/paths.h"

namespace rondo::test {
namespace {

std::string file_bytes(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t size = header.size();
  std::string bytes(sizeof size, '\0');
  std::memcpy(bytes.data(), &size, sizeof size);
  return bytes + header + std::string(data_bytes, 'x');
}

class Safetensors : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& bytes, const std::string& name = "model.safetensors") {
    write_file(folder_.path() / name, bytes);
    return folder_.path() / name;
  }
  void expect_refused(const std::string& header, std::size_t data_bytes, const std::string& part_of_message) {
    try {
      SafetensorsFile file(write(file_bytes(header, data_bytes)));
      FAIL() << header;
    } catch (const FileError& error) {
      EXPECT_NE(std::string(error.what()).find(part_of_message), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("model.safetensors"), std::string::npos) << error.what();
    }
  }
  TemporaryFolder folder_;
};

TEST_F(Safetensors, ReadsAGoodFile) {
  const SafetensorsFile file(write(file_bytes(
      R"({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]}, "e": {"dtype": "F32", "shape": [0], "data_offsets": [16, 16]}})",
      22)));
  EXPECT_EQ(file.records().size(), 3U);
  EXPECT_EQ(file.tensor("a").shape(), (Shape{2, 2}));
  EXPECT_EQ(file.tensor("b").dtype(), DType::bf16);
  EXPECT_EQ(file.tensor("e").elements(), 0);
}

TEST_F(Safetensors, RefusesLyingHeaders) {
  expect_refused(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}})", 9, "9 bytes of data");
  expect_refused(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})", 4, "data_offsets");
  expect_refused(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}})", 8, "data_offsets");
  expect_refused(R"({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}})", 8, "impossible shape");
  expect_refused(R"({"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 8]}})", 8,
                 "impossible shape");
  expect_refused(R"({"a": {"dtype": "F32", "shape": [18446744073709551615], "data_offsets": [0, 8]}})", 8,
                 "impossible shape");
  expect_refused(R"({"a": {"dtype": "F32", "shape": [1,1,1,1,1,1,1,1,1], "data_offsets": [0, 4]}})", 4, "shape");
  expect_refused(R"({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 4]}})", 4, "float64 [1] takes 8");
  expect_refused(R"({"a": {"dtype": 5, "shape": [1], "data_offsets": [0, 8]}})", 8, "dtype 5");
  expect_refused(R"({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 9]}})", 8, "data_offsets");
  expect_refused(
      R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}})",
      6, "overlapping");
  expect_refused(
      R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}})",
      12, "hole");
  expect_refused(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 9, "its tensors take 4");
  expect_refused(R"({"a": {"dtype": "F32", "shape": [1]}})", 4, "has no dtype, shape and data_offsets");
  expect_refused(R"({"a": [1, 2]})", 4, "has no dtype, shape and data_offsets");
  expect_refused(
      R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})",
      8, "twice");
  expect_refused("[1]", 0, "no JSON object");
  expect_refused("{", 0, "not valid JSON");
  expect_refused("", 0, "not valid JSON");
}

TEST_F(Safetensors, Float64IsReadAsFloat32) {
  const std::vector<double> values{0.5, -3.25, 1e-320, 1e300};
  std::string bytes = file_bytes(R"({"a": {"dtype": "F64", "shape": [2, 2], "data_offsets": [0, 32]}})", 32);
  std::memcpy(bytes.data() + bytes.size() - 32, values.data(), 32);
  const SafetensorsFile file(write(bytes));
  EXPECT_EQ(file.records().at("a").dtype, DType::f32);
  const Tensor read = file.tensor("a");
  ASSERT_EQ(read.dtype(), DType::f32);
  EXPECT_EQ(read.shape(), (Shape{2, 2}));
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(read.as<float>()[i], static_cast<float>(values[i]));
}

/// A dtype that nobody knows spoils its tensor, not the file.
TEST_F(Safetensors, AnUnknownDtypeIsRefusedWhereItIsNeeded) {
  const std::string header =
      R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F4", "shape": [3], "data_offsets": [4, 6]}})";
  write(file_bytes(header, 6));
  const Checkpoint checkpoint = Checkpoint::open(folder_.path());
  EXPECT_EQ(checkpoint.tensor("a").elements(), 1);
  GraphBuilder builder(&checkpoint);
  EXPECT_NO_THROW(builder.weight("a", {1}, DType::f32));
  for (const std::function<void()>& use : std::initializer_list<std::function<void()>>{
           [&] { checkpoint.tensor("b"); }, [&] { builder.weight("b", {3}, DType::f32); }}) {
    try {
      use();
      FAIL();
    } catch (const FileError& error) {
      EXPECT_NE(std::string(error.what()).find("tensor 'b' has dtype F4; allowed are F64, F32"), std::string::npos)
          << error.what();
    }
  }
}

TEST_F(Safetensors, AGitLfsPointerIsNamed) {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '0') + "\nsize 4711\n";
  const auto refusal = [&](const auto& open) -> std::string {
    try {
      open(write(pointer));
    } catch (const FileError& error) {
      return error.what();
    }
    return "";
  };
  for (const std::string& text : {refusal([](const auto& path) { SafetensorsFile file(path); }),
                                  refusal([](const auto& path) { JsonConfig::load(path); })}) {
    EXPECT_NE(text.find("model.safetensors: is a Git LFS pointer"), std::string::npos) << text;
    EXPECT_NE(text.find("4711 bytes are missing; run git lfs pull"), std::string::npos) << text;
  }
}

/// diffusers looks for the index of its own models first, transformers for the single file.
TEST_F(Safetensors, AnIndexBesideASingleFile) {
  std::string log;
  set_log_sink(LogLevel::warning, [&](LogLevel, std::string_view text) { log += text; });
  const auto names = [&](const std::string& stem) {
    write(file_bytes(R"({"stray": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 4), stem + ".safetensors");
    write(file_bytes(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 4), "part.safetensors");
    write(R"({"weight_map": {"a": "part.safetensors"}})", stem + ".safetensors.index.json");
    const std::vector<std::string> found = Checkpoint::open(folder_.path()).names();
    for (const char* end : {".safetensors", ".safetensors.index.json"})
      std::filesystem::remove(folder_.path() / (stem + end));
    return found;
  };
  EXPECT_EQ(names("diffusion_pytorch_model"), std::vector<std::string>{"a"});
  EXPECT_NE(log.find("diffusion_pytorch_model.safetensors: is not read"), std::string::npos) << log;
  EXPECT_EQ(names("model"), std::vector<std::string>{"stray"});
  EXPECT_NE(log.find("model.safetensors.index.json: is not read"), std::string::npos) << log;
  set_log_sink(LogLevel::off, {});
}

TEST_F(Safetensors, RefusesBadSizes) {
  for (const std::uint64_t size :
       {std::uint64_t{1} << 60, UINT64_MAX, std::uint64_t{200'000'000}, std::uint64_t{100}}) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &size, sizeof size);
    EXPECT_THROW(SafetensorsFile(write(bytes + "{}")), FileError) << size;
  }
  EXPECT_THROW(SafetensorsFile(write("")), FileError);
  EXPECT_THROW(SafetensorsFile(write("1234567")), FileError);
  EXPECT_THROW(SafetensorsFile(folder_.path() / "absent.safetensors"), FileError);
  EXPECT_THROW(SafetensorsFile(folder_.path()), FileError);
}

TEST_F(Safetensors, MisalignedDataIsCopied) {
  const SafetensorsFile file(
      write(file_bytes(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}} )" + std::string("  "), 4)));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.tensor("a").data()) % 4, 0U);
}

TEST_F(Safetensors, ShardsStayInsideTheFolder) {
  const std::string good = file_bytes(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 4);
  write(good, "part-1.safetensors");
  const auto index = [&](const std::string& shard) {
    write(R"({"weight_map": {"a": ")" + shard + R"("}})", "model.safetensors.index.json");
    return Checkpoint::open(folder_.path());
  };
  EXPECT_EQ(index("part-1.safetensors").names().size(), 1U);
  for (const char* bad : {"../part-1.safetensors", "/etc/passwd", "x/../../y", "", "absent.safetensors",
                          "part-1.safetensors\\u0000.txt"}) {
    EXPECT_THROW(index(bad), FileError) << bad;
  }
  write(R"({"weight_map": {"b": "part-1.safetensors"}})", "model.safetensors.index.json");
  EXPECT_THROW(Checkpoint::open(folder_.path()), FileError);
  write(R"({"weight_map": [1]})", "model.safetensors.index.json");
  EXPECT_THROW(Checkpoint::open(folder_.path()), FileError);
  write(R"({"weight_map": {"a": 1}})", "model.safetensors.index.json");
  EXPECT_THROW(Checkpoint::open(folder_.path()), FileError);
}

TEST_F(Safetensors, SymbolicLinksAreFollowed) {
  write(file_bytes(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 4), "blob");
  std::filesystem::create_symlink(folder_.path() / "blob", folder_.path() / "model.safetensors");
  EXPECT_EQ(Checkpoint::open(folder_.path()).names().size(), 1U);
}

TEST_F(Safetensors, AnEmptyFolderIsNamed) { EXPECT_THROW(Checkpoint::open(folder_.path()), FileError); }

}  // namespace
}  // namespace rondo::test
