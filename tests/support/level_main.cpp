// main() of the tests that run once a CPU level.
#include <gtest/gtest.h>

#include "support/tensors.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  ::testing::InitGoogleTest(&argc, argv);
  if (rondo::test::test_level_is_missing()) return kSkipped;
  return RUN_ALL_TESTS();
}
