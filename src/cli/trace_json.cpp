#include "cli/trace_json.h"

#include <map>
#include <nlohmann/json.hpp>

namespace rondo::cli {

std::string trace_to_json(const RunReport& report) {
  using nlohmann::json;
  json events = json::array();
  std::map<std::string, std::size_t> rows;
  for (const RunReport::Event& event : report.events) {
    const auto [row, is_new] = rows.emplace(event.component, rows.size() + 1);
    if (is_new) {
      events.push_back({{"ph", "M"},
                        {"name", "thread_name"},
                        {"pid", 1},
                        {"tid", row->second},
                        {"args", {{"name", event.component}}}});
    }
    events.push_back({{"ph", "X"},
                      {"name", event.op},
                      {"cat", event.component},
                      {"pid", 1},
                      {"tid", row->second},
                      {"ts", event.start_ms * 1e3},
                      {"dur", event.duration_ms * 1e3},
                      {"args", {{"segment", event.segment}, {"kernel", event.kernel}, {"output", event.output}}}});
  }
  return json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump();
}

}  // namespace rondo::cli
