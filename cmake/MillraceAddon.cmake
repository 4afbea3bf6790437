# millrace.node. The include folders of Node-API come from two header-only packages; no Node headers are downloaded.
file(GLOB addon_sources CONFIGURE_DEPENDS csrc/addon/*.cc)
if(NOT addon_sources)
  return()
endif()

# Looks for a package as require() would: in node_modules of this folder and of every folder above it. (Running node
# instead would find a node, not necessarily the one that runs npm.)
function(millrace_find_package_include name header result)
  set(folder "${CMAKE_CURRENT_SOURCE_DIR}")
  while(TRUE)
    foreach(sub IN ITEMS "" "/include")
      if(EXISTS "${folder}/node_modules/${name}${sub}/${header}")
        set(${result} "${folder}/node_modules/${name}${sub}" PARENT_SCOPE)
        return()
      endif()
    endforeach()
    get_filename_component(parent "${folder}" DIRECTORY)
    if(parent STREQUAL folder)
      message(FATAL_ERROR "The npm package ${name} was not found above ${CMAKE_CURRENT_SOURCE_DIR}: run npm install.")
    endif()
    set(folder "${parent}")
  endwhile()
endfunction()

millrace_find_package_include(node-addon-api napi.h addon_api_include)
millrace_find_package_include(node-api-headers node_api.h api_headers_include)

add_library(millrace_addon MODULE ${addon_sources})
target_link_libraries(millrace_addon PRIVATE millrace_core)
target_include_directories(millrace_addon SYSTEM PRIVATE "${api_headers_include}" "${addon_api_include}")
file(READ "${CMAKE_CURRENT_SOURCE_DIR}/package.json" package_json LIMIT 4096)
string(REGEX MATCH "\"version\": *\"([^\"]+)\"" _ "${package_json}")
# In a worker that is being ended nothing can be called or thrown any more: what fails then is dropped and not fatal.
target_compile_definitions(millrace_addon PRIVATE NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
  NAPI_VERSION=8 NAPI_CPP_EXCEPTIONS NODE_GYP_MODULE_NAME=millrace BUILDING_NODE_EXTENSION
  MILLRACE_VERSION="${CMAKE_MATCH_1}")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/package.json")
set_target_properties(millrace_addon PROPERTIES PREFIX "" OUTPUT_NAME millrace SUFFIX ".node")

# Node unloads an addon when a worker thread that required it ends, while the engine's threads still run its code:
# nodelete keeps it mapped. The archive's symbols are hidden too, so that only Node-API's entry is exported.
if(MILLRACE_PORTABLE)
  include(MillracePortable)
  millrace_make_portable(millrace_addon)
endif()
target_link_options(millrace_addon PRIVATE -Wl,-z,nodelete -Wl,-z,now -Wl,--exclude-libs,ALL)

# An output of its own, not a step after linking: node-gyp rebuild empties build/ and nothing else.
set(addon_file "${MILLRACE_OUTPUT}/millrace.node")
add_custom_command(OUTPUT "${addon_file}"
  COMMAND "${CMAKE_COMMAND}" -E make_directory "${MILLRACE_OUTPUT}"
  # Replaced by renaming, never overwritten: a running process has the old file mapped.
  COMMAND "${CMAKE_COMMAND}" -E copy "$<TARGET_FILE:millrace_addon>" "${addon_file}.new"
  COMMAND "${CMAKE_COMMAND}" -E rename "${addon_file}.new" "${addon_file}"
  DEPENDS millrace_addon
  VERBATIM)
add_custom_target(millrace ALL DEPENDS "${addon_file}")
