// The parts of the extension module.
#pragma once

#include <nanobind/nanobind.h>

namespace rondo::python {

void bind_attention(nanobind::module_& module);
void bind_operators(nanobind::module_& module);
void bind_parallel(nanobind::module_& module);

}  // namespace rondo::python
