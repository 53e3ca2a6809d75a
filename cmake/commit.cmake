# Writes the commit of SOURCE as a C string to OUTPUT, touching it only when it changes.
include(${CMAKE_CURRENT_LIST_DIR}/write_line.cmake)
execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE commit
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(commit "unknown")
endif()
write_line(${OUTPUT} ${commit})
