# CUDA is found or left out, with one line that says which and why. The runtime is linked statically and libcuda not at
# all, so that the same addon loads on machines without a driver.
function(millrace_add_cuda target)
  file(GLOB_RECURSE host_sources CONFIGURE_DEPENDS cuda/*.cc)
  file(GLOB_RECURSE device_sources CONFIGURE_DEPENDS cuda/*.cu)
  set(stand_in ${host_sources})
  list(FILTER stand_in INCLUDE REGEX "_none\\.cc$")  # what the backend says for itself when it is left out
  list(FILTER host_sources EXCLUDE REGEX "_none\\.cc$")

  set(left_out "")
  if(MILLRACE_CUDA STREQUAL "OFF")
    set(left_out "MILLRACE_CUDA=OFF")
  elseif(MILLRACE_SANITIZE)
    set(left_out "sanitizer trees test the CPU side")
  elseif(NOT device_sources)
    set(left_out "no sources")
  else()
    include(CheckLanguage)
    set(CMAKE_MESSAGE_LOG_LEVEL WARNING)  # one line about CUDA, and it is ours
    check_language(CUDA)
    unset(CMAKE_MESSAGE_LOG_LEVEL)
    if(NOT CMAKE_CUDA_COMPILER)
      set(left_out "no CUDA compiler found (nvcc on PATH or CUDACXX)")
    endif()
  endif()

  if(left_out)
    if(MILLRACE_CUDA STREQUAL "ON")
      message(FATAL_ERROR "MILLRACE_CUDA=ON, but ${left_out}.")
    endif()
    message(STATUS "CUDA: left out: ${left_out}")
    target_sources(${target} PRIVATE ${stand_in})
    return()
  endif()

  set(CMAKE_CUDA_ARCHITECTURES ${MILLRACE_CUDA_ARCHITECTURES})
  set(CMAKE_MESSAGE_LOG_LEVEL WARNING)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  unset(CMAKE_MESSAGE_LOG_LEVEL)
  set(CMAKE_CUDA_STANDARD 17)
  list(JOIN MILLRACE_CUDA_ARCHITECTURES " " architectures)
  message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_VERSION} found and used, for ${architectures}")

  add_library(millrace_cuda OBJECT ${host_sources} ${device_sources})
  target_include_directories(millrace_cuda PRIVATE csrc "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(millrace_cuda PRIVATE millrace_options CUDA::cudart_static)
  target_compile_options(millrace_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fvisibility=hidden,-Wall,-ffp-contract=off -Xfatbin=-compress-all>)
  set_target_properties(millrace_cuda PROPERTIES
    CUDA_ARCHITECTURES "${MILLRACE_CUDA_ARCHITECTURES}"
    CUDA_STANDARD 17
    CUDA_STANDARD_REQUIRED ON
    CUDA_RUNTIME_LIBRARY Static)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:millrace_cuda>)
  target_link_libraries(${target} PUBLIC CUDA::cudart_static)
endfunction()
