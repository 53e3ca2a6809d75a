#include "cli/trace_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

namespace rondo::cli {

std::string trace_to_json(const RunReport& report) {
  using nlohmann::json;
  json events = json::array();
  std::set<int> lanes;
  for (const RunReport::Event& event : report.events) {
    if (lanes.insert(event.lane).second) {
      events.push_back({{"ph", "M"},
                        {"name", "thread_name"},
                        {"pid", 1},
                        {"tid", event.lane},
                        {"args", {{"name", fmt::format("lane {}", event.lane)}}}});
    }
    events.push_back({{"ph", "X"},
                      {"name", event.op},
                      {"cat", event.component},
                      {"pid", 1},
                      {"tid", event.lane},
                      {"ts", event.start_ms * 1e3},
                      {"dur", event.duration_ms * 1e3},
                      {"args", {{"segment", event.segment}, {"kernel", event.kernel}, {"output", event.output}}}});
  }
  return json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump();
}

}  // namespace rondo::cli
