# Writes a hash of all headers below SOURCE, with BUILD (compiler and flags), as a C string to OUTPUT, touching it only
# when it changes.
include(${CMAKE_CURRENT_LIST_DIR}/write_line.cmake)
file(GLOB_RECURSE headers ${SOURCE}/include/*.h ${SOURCE}/src/*.h)
list(SORT headers)
set(text "${BUILD}")
foreach(header ${headers})
  file(SHA256 ${header} hash)
  string(APPEND text "\n${hash}")
endforeach()
string(SHA256 fingerprint "${text}")
string(SUBSTRING ${fingerprint} 0 16 fingerprint)
write_line(${OUTPUT} ${fingerprint})
