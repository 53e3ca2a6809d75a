#include "cli/request_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "io/json_config.h"
#include "io/picture_file.h"
#include "rondo/error.h"
#include "rondo/version.h"

namespace rondo::cli {

nlohmann::json request_to_json(const ResolvedTextToImageRequest& request, const GeneratedImage& picture,
                               const std::string& model, DType dtype) {
  nlohmann::json json{{"version", version()},
                      {"model", model},
                      {"dtype", dtype_name(dtype)},
                      {"prompt", request.prompt},
                      {"prompt_2", request.prompt_2},
                      {"width", request.width},
                      {"height", request.height},
                      {"num_inference_steps", request.num_inference_steps},
                      {"guidance_scale", request.guidance_scale},
                      {"true_cfg_scale", request.true_cfg_scale},
                      {"max_sequence_length", request.max_sequence_length},
                      {"seed", picture.seed}};
  // Without guidance there is none: stored, an empty one would turn guidance on where the request runs again.
  if (request.true_cfg_scale > 1) {
    json["negative_prompt"] = request.negative_prompt;
    json["negative_prompt_2"] = request.negative_prompt_2;
  }
  return json;
}

std::string dump_json(const nlohmann::json& json, int indent) {
  return json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

StoredRequest read_stored_request(const std::string& picture) {
  const std::optional<std::string> found = read_picture_request(picture);
  if (!found) throw FileError(fmt::format("{}: carries no request; it was not made by rondo generate", picture));
  const std::string source = picture + " (its metadata)";
  const JsonConfig json(parse_json(*found, source), source);
  StoredRequest stored;
  const auto text = [&](const char* key) {
    return json.has(key) ? std::optional(json.text(key, std::nullopt)) : std::nullopt;
  };
  const auto integer = [&](const char* key) {
    return json.has(key) ? std::optional(json.integer(key, std::nullopt, INT64_MIN, INT64_MAX)) : std::nullopt;
  };
  const auto number = [&](const char* key) {
    return json.has(key) ? std::optional(json.number(key, std::nullopt)) : std::nullopt;
  };
  stored.model = text("model");
  stored.dtype = text("dtype");
  if (stored.dtype && *stored.dtype != "float32" && *stored.dtype != "bfloat16")
    json.refuse("dtype", "allowed are float32 and bfloat16");
  TextToImageRequest& request = stored.request;
  request.prompt = text("prompt");
  request.prompt_2 = text("prompt_2");
  request.negative_prompt = text("negative_prompt");
  request.negative_prompt_2 = text("negative_prompt_2");
  request.width = integer("width");
  request.height = integer("height");
  request.num_inference_steps = integer("num_inference_steps");
  request.guidance_scale = number("guidance_scale");
  request.true_cfg_scale = number("true_cfg_scale");
  request.max_sequence_length = integer("max_sequence_length");
  if (json.has("seed")) {
    const auto seed = json.object().find("seed");
    if (!seed->is_number_unsigned()) json.refuse("seed", "allowed is a whole number from 0 to 18446744073709551615");
    request.seed = seed->get<std::uint64_t>();
  }
  return stored;
}

}  // namespace rondo::cli
