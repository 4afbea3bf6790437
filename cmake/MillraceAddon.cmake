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

add_library(millrace_addon_objects OBJECT ${addon_sources})
target_link_libraries(millrace_addon_objects PRIVATE millrace_core)
target_include_directories(millrace_addon_objects SYSTEM PRIVATE "${api_headers_include}" "${addon_api_include}")
file(READ "${CMAKE_CURRENT_SOURCE_DIR}/package.json" package_json LIMIT 4096)
string(REGEX MATCH "\"version\": *\"([^\"]+)\"" _ "${package_json}")
# In a worker that is being ended nothing can be called or thrown any more: what fails then is dropped and not fatal.
target_compile_definitions(millrace_addon_objects PRIVATE NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
  NAPI_VERSION=8 NAPI_CPP_EXCEPTIONS NODE_GYP_MODULE_NAME=millrace BUILDING_NODE_EXTENSION
  MILLRACE_VERSION="${CMAKE_MATCH_1}")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/package.json")

# Node unloads an addon when a worker thread that required it ends, while the engine's threads still run its code:
# nodelete keeps it mapped. The archive's symbols are hidden too, so that only Node-API's entry is exported.
# An output of its own, not a step after linking: node-gyp rebuild empties build/ and nothing else.
function(millrace_link_addon name folder)
  add_library(${name}_addon MODULE EXCLUDE_FROM_ALL $<TARGET_OBJECTS:millrace_addon_objects>)
  target_link_libraries(${name}_addon PRIVATE millrace_core)
  target_link_options(${name}_addon PRIVATE -Wl,-z,nodelete -Wl,-z,now -Wl,--exclude-libs,ALL)
  set_target_properties(${name}_addon PROPERTIES PREFIX "" OUTPUT_NAME ${name} SUFFIX ".node")
  set(file "${folder}/millrace.node")
  add_custom_command(OUTPUT "${file}"
    COMMAND "${CMAKE_COMMAND}" -E make_directory "${folder}"
    # Replaced by renaming, never overwritten: a running process has the old file mapped.
    COMMAND "${CMAKE_COMMAND}" -E copy "$<TARGET_FILE:${name}_addon>" "${file}.new"
    COMMAND "${CMAKE_COMMAND}" -E rename "${file}.new" "${file}"
    DEPENDS ${name}_addon
    VERBATIM)
  add_custom_target(${name} ${ARGN} DEPENDS "${file}")
endfunction()

millrace_link_addon(millrace "${CMAKE_CURRENT_SOURCE_DIR}/build/Release" ALL)

# The same objects, linked for older systems than this one: what a release packs.
include(MillracePortable)
millrace_link_addon(millrace_portable "${CMAKE_BINARY_DIR}/portable")
millrace_make_portable(millrace_portable_addon)
