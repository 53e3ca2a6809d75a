// main() of the tests that run once a CPU level or device.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "support/devices.h"
#include "support/tensors.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  ::testing::InitGoogleTest(&argc, argv);
  if (rondo::test::test_level_is_missing()) return kSkipped;
  if (const std::string missing = rondo::test::missing_test_device(); !missing.empty()) {
    std::printf("skipped: %s\n", missing.c_str());
    return kSkipped;
  }
  const int failed = RUN_ALL_TESTS();
  const std::vector<std::string> untested = rondo::test::device_operators_without_test();
  for (const std::string& op : untested) std::printf("no test ran the device's kernel of %s\n", op.c_str());
  return failed != 0 || !untested.empty() ? 1 : 0;
}
