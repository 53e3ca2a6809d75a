// The extension module rondo._rondo: the C++ functions on arrays. What a user calls is Python, in python/rondo.
#include "module.h"

#include <nanobind/stl/string.h>

#include "rondo/error.h"
#include "rondo/version.h"

namespace nb = nanobind;

namespace rondo::python {
namespace {

void translate(const std::exception_ptr& pointer, void* /*payload*/) {
  try {
    std::rethrow_exception(pointer);
  } catch (const InvalidArgument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const Unsupported& error) {
    PyErr_SetString(PyExc_NotImplementedError, error.what());
  } catch (const Error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

}  // namespace
}  // namespace rondo::python

NB_MODULE(_rondo, module) {
  nb::register_exception_translator(rondo::python::translate);
  module.def("version", &rondo::version);
  rondo::python::bind_attention(module);
  rondo::python::bind_operators(module);
  rondo::python::bind_parallel(module);
}
