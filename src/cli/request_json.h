// A request as JSON: what a picture carries in its metadata and `--from` reads back.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "rondo/text_to_image.h"

namespace rondo::cli {

/// The request of picture `picture`, alone: its own seed, one image.
nlohmann::json request_to_json(const ResolvedTextToImageRequest& request, const GeneratedImage& picture,
                               const std::string& model, DType dtype);

/// JSON text; a path that is no UTF-8 does not stop it.
std::string dump_json(const nlohmann::json& json, int indent);

struct StoredRequest {
  TextToImageRequest request;
  std::optional<std::string> model;
  std::optional<std::string> dtype;
};

/// Reads what request_to_json wrote, from a picture made by `rondo generate`. Throws FileError.
StoredRequest read_stored_request(const std::string& picture);

}  // namespace rondo::cli
