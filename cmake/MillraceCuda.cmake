# CUDA is found or left out, with one line that says which and why. The runtime is linked statically and libcuda not at
# all, so that the same addon loads on machines without a driver.
file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS cuda/*.cc cuda/*.cu)
set(cuda_stand_ins ${cuda_sources})
list(FILTER cuda_stand_ins INCLUDE REGEX "_none\\.cc$")  # what a build without CUDA says for itself
list(FILTER cuda_sources EXCLUDE REGEX "_none\\.cc$")
# Plans of launches are host code without CUDA, part of every build and tested in it.
file(GLOB_RECURSE cuda_plan_sources CONFIGURE_DEPENDS cuda/plan/*.cc)
list(REMOVE_ITEM cuda_sources ${cuda_plan_sources})
# Files named *_sm90.cu use what sm_90a alone has: compiled for it only, and only where 90 is among the architectures.
set(cuda_sm90_sources ${cuda_sources})
list(FILTER cuda_sm90_sources INCLUDE REGEX "_sm90\\.cu$")
list(FILTER cuda_sources EXCLUDE REGEX "_sm90\\.cu$")

# Kernels take minutes to compile for all architectures: a build for this machine alone compiles for its own GPUs, and
# one without a GPU, unless told otherwise, for none.
set(cuda_architectures ${MILLRACE_CUDA_ARCHITECTURES})
if(NOT cuda_architectures AND MILLRACE_CUDA STREQUAL "ON")
  set(cuda_architectures 75-real 80-real 86-real 89-real 90-real 100-real 120)
elseif(NOT cuda_architectures AND NOT MILLRACE_CUDA STREQUAL "OFF")
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE capabilities OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  if(status EQUAL 0)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]+" capabilities "${capabilities}")
    foreach(capability IN LISTS capabilities)
      string(REPLACE "." "" capability "${capability}")
      list(APPEND cuda_architectures ${capability}-real)
    endforeach()
    list(REMOVE_DUPLICATES cuda_architectures)
  endif()
endif()

set(cuda_left_out "")
if(MILLRACE_CUDA STREQUAL "OFF")
  set(cuda_left_out "MILLRACE_CUDA=OFF")
elseif(MILLRACE_SANITIZE)
  set(cuda_left_out "sanitizer trees test the CPU side")
elseif(NOT cuda_architectures)
  set(cuda_left_out "no GPU on this machine (MILLRACE_CUDA=ON compiles for all)")
else()
  # The toolkit's own messages are held back: one line about CUDA is enough, and it is ours.
  set(CMAKE_MESSAGE_LOG_LEVEL WARNING)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES ${cuda_architectures})
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

set(program_architectures ${MILLRACE_PROGRAM_ARCHITECTURES})
if(NOT program_architectures)
  set(program_architectures ${cuda_architectures})
endif()

if(NOT cuda_left_out)
  list(JOIN cuda_architectures " " architectures)
  message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_VERSION} found and used, for ${architectures}")
elseif(MILLRACE_CUDA STREQUAL "ON")
  message(FATAL_ERROR "MILLRACE_CUDA=ON, but CUDA is left out: ${cuda_left_out}.")
else()
  message(STATUS "CUDA: left out: ${cuda_left_out}")
endif()

function(millrace_add_cuda target)
  target_sources(${target} PRIVATE ${cuda_plan_sources})
  if(cuda_left_out)
    target_sources(${target} PRIVATE ${cuda_stand_ins})
    return()
  endif()
  # The sampler's arithmetic is the CPU's, operation by operation.
  set_source_files_properties("${CMAKE_CURRENT_SOURCE_DIR}/cuda/sample.cu" "${CMAKE_CURRENT_SOURCE_DIR}/cuda/logits.cu"
    PROPERTIES COMPILE_OPTIONS -fmad=false)
  set(compress -Xfatbin=-compress-all)
  if(NOT CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.0)
    list(APPEND compress -compress-mode=size)
  endif()
  set(objects millrace_cuda)
  add_library(millrace_cuda OBJECT ${cuda_sources})
  set_target_properties(millrace_cuda PROPERTIES CUDA_ARCHITECTURES "${cuda_architectures}")
  if(cuda_sm90_sources AND cuda_architectures MATCHES "(^|;)90a?(-|;|$)")
    list(APPEND objects millrace_cuda_sm90)
    add_library(millrace_cuda_sm90 OBJECT ${cuda_sm90_sources})
    set_target_properties(millrace_cuda_sm90 PROPERTIES CUDA_ARCHITECTURES 90a-real)
    target_compile_definitions(millrace_cuda PRIVATE MILLRACE_CUDA_SM90A=1)
  endif()
  foreach(object IN LISTS objects)
    target_include_directories(${object} PRIVATE csrc "${CMAKE_CURRENT_SOURCE_DIR}")
    target_link_libraries(${object} PRIVATE millrace_options CUDA::cudart_static)
    target_compile_options(${object} PRIVATE
      $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${MILLRACE_WERROR}>>:-Werror all-warnings>
      $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Xcompiler=-fvisibility=hidden,-Wall,-Wextra,-ffp-contract=off ${compress}>)
    set_target_properties(${object} PROPERTIES
      CUDA_STANDARD 20
      CUDA_STANDARD_REQUIRED ON
      CUDA_RUNTIME_LIBRARY Static)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
  endforeach()
  target_link_libraries(${target} PUBLIC CUDA::cudart_static)
endfunction()

# Kernels in the place of ours (docs/KERNELS.md): examples/kernels/<name>.cu becomes build/Release/kernels/<name>.fatbin.
function(millrace_add_example_kernels)
  file(GLOB kernels CONFIGURE_DEPENDS examples/kernels/*.cu)
  if(cuda_left_out OR NOT kernels)
    return()
  endif()
  set(folder "${CMAKE_CURRENT_SOURCE_DIR}/build/Release/kernels")
  set(codes)
  foreach(architecture IN LISTS cuda_architectures)
    string(REGEX REPLACE "-(real|virtual)$" "" number "${architecture}")
    if(architecture MATCHES "-virtual$")  # PTX alone, for the driver to compile
      list(APPEND codes "-gencode=arch=compute_${number},code=compute_${number}")
    else()
      list(APPEND codes "-gencode=arch=compute_${number},code=sm_${number}")
    endif()
  endforeach()
  foreach(kernel IN LISTS kernels)
    get_filename_component(name "${kernel}" NAME_WE)
    set(header "${CMAKE_CURRENT_SOURCE_DIR}/csrc/lab/millrace_kernel.h")
    add_custom_command(OUTPUT "${folder}/${name}.fatbin"
      COMMAND "${CMAKE_COMMAND}" -E make_directory "${folder}"
      COMMAND "${CMAKE_CUDA_COMPILER}" --fatbin -std=c++17 ${codes} -I "${CMAKE_CURRENT_SOURCE_DIR}/csrc/lab" "${kernel}"
              -o "${folder}/${name}.fatbin"
      DEPENDS "${kernel}" "${header}"
      VERBATIM)
    list(APPEND outputs "${folder}/${name}.fatbin")
  endforeach()
  add_custom_target(example_kernels ALL DEPENDS ${outputs})
endfunction()
