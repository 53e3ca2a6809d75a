// What the shared library shows: everything inside a namespace block marked so, nothing else.
#pragma once

#define RONDO_PUBLIC __attribute__((visibility("default")))
