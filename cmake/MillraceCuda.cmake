# CUDA is found or left out, with one line that says which and why. The runtime is linked statically and libcuda not at
# all, so that the same addon loads on machines without a driver.
file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS cuda/*.cc cuda/*.cu)
set(cuda_stand_ins ${cuda_sources})
list(FILTER cuda_stand_ins INCLUDE REGEX "_none\\.cc$")  # what a build without CUDA says for itself
list(FILTER cuda_sources EXCLUDE REGEX "_none\\.cc$")

set(cuda_left_out "")
if(MILLRACE_CUDA STREQUAL "OFF")
  set(cuda_left_out "MILLRACE_CUDA=OFF")
elseif(MILLRACE_SANITIZE)
  set(cuda_left_out "sanitizer trees test the CPU side")
elseif(NOT cuda_sources)
  set(cuda_left_out "no sources")
else()
  # The toolkit's own messages are held back: one line about CUDA is enough, and it is ours.
  set(CMAKE_MESSAGE_LOG_LEVEL WARNING)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES ${MILLRACE_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # older CMake does not know that nvcc 12 takes it
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    find_package(CUDAToolkit REQUIRED)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
      set(cuda_left_out "CUDA ${CMAKE_CUDA_COMPILER_VERSION} found, 12.0 or newer needed")
    endif()
  else()
    set(cuda_left_out "no CUDA compiler found (nvcc on PATH, or CUDACXX)")
  endif()
  unset(CMAKE_MESSAGE_LOG_LEVEL)
endif()

if(NOT cuda_left_out)
  list(JOIN MILLRACE_CUDA_ARCHITECTURES " " architectures)
  message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_VERSION} found and used, for ${architectures}")
elseif(MILLRACE_CUDA STREQUAL "ON")
  message(FATAL_ERROR "MILLRACE_CUDA=ON, but CUDA is left out: ${cuda_left_out}.")
else()
  message(STATUS "CUDA: left out: ${cuda_left_out}")
endif()

function(millrace_add_cuda target)
  if(cuda_left_out)
    target_sources(${target} PRIVATE ${cuda_stand_ins})
    return()
  endif()
  add_library(millrace_cuda OBJECT ${cuda_sources})
  target_include_directories(millrace_cuda PRIVATE csrc "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(millrace_cuda PRIVATE millrace_options CUDA::cudart_static)
  target_compile_options(millrace_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Xcompiler=-fvisibility=hidden,-Wall,-Wextra,-ffp-contract=off -Xfatbin=-compress-all>)
  set_target_properties(millrace_cuda PROPERTIES
    CUDA_ARCHITECTURES "${MILLRACE_CUDA_ARCHITECTURES}"
    CUDA_STANDARD 20
    CUDA_STANDARD_REQUIRED ON
    CUDA_RUNTIME_LIBRARY Static)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:millrace_cuda>)
  target_link_libraries(${target} PUBLIC CUDA::cudart_static)
endfunction()
