# Compiler settings shared by every target, and the per-file instruction sets.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(FATAL_ERROR "millrace builds on Linux, x64 and arm64; this is ${CMAKE_SYSTEM_NAME}.")
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
  set(MILLRACE_X86 ON)
endif()

if((CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 11) OR
   (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14))
  message(FATAL_ERROR "millrace needs GCC 11 or Clang 14 (C++20); ${CMAKE_CXX_COMPILER} is "
    "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}: install g++-11 or newer and set CXX=g++-11.")
endif()

add_library(millrace_options INTERFACE)
target_compile_options(millrace_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-fvisibility=hidden;-fvisibility-inlines-hidden>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(millrace_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)  # false alarms on std::string, GCC bug 105651
endif()
# Contraction would round differently from one instruction set to the next, and fused multiply-add is written where it
# is meant. errno of math functions is read nowhere.
target_compile_options(millrace_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off;-fno-math-errno>)
if(MILLRACE_WERROR)
  target_compile_options(millrace_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(MILLRACE_X86)
  target_compile_definitions(millrace_options INTERFACE MILLRACE_X86=1)
endif()

# cmake-js and distributions put their own flags here; the optimisation level is ours.
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g")

if(MILLRACE_SANITIZE STREQUAL "address")
  # What is left out of `undefined` the address sanitizer finds as well, and it takes a fifth of the compile time.
  set(sanitize -fsanitize=address,undefined -fno-sanitize=null,vptr,object-size -fno-sanitize-recover=undefined)
elseif(MILLRACE_SANITIZE STREQUAL "thread")
  set(sanitize -fsanitize=thread)
elseif(MILLRACE_SANITIZE)
  message(FATAL_ERROR "MILLRACE_SANITIZE is \"${MILLRACE_SANITIZE}\": expected address or thread.")
endif()
if(MILLRACE_SANITIZE)
  set(CMAKE_CXX_FLAGS_RELEASE "-O1 -g1 -fno-omit-frame-pointer")  # assertions stay on: no NDEBUG
  target_compile_options(millrace_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${sanitize}>)
  target_link_options(millrace_options INTERFACE ${sanitize})
  target_compile_definitions(millrace_options INTERFACE MILLRACE_SANITIZED=1)
endif()

set(MILLRACE_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(MILLRACE_FLAGS_avx512 ${MILLRACE_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq)
set(MILLRACE_FLAGS_avx512vnni ${MILLRACE_FLAGS_avx512} -mavx512vnni)

# Of a sanitized tree a third of the compile time is the standard library's headers. Other trees read them file by file,
# since a file that lacks an include must fail somewhere, and GCC 12 warns wrongly of strings in what is precompiled.
function(millrace_precompile_headers target)
  if(NOT MILLRACE_SANITIZE)
    return()
  elseif(target STREQUAL "millrace_base")
    target_precompile_headers(${target} PRIVATE <algorithm> <array> <atomic> <chrono> <cmath> <condition_variable>
      <cstring> <deque> <functional> <limits> <map> <memory> <mutex> <numeric> <optional> <set> <span> <string>
      <string_view> <thread> <unordered_map> <utility> <vector>)
  else()
    target_precompile_headers(${target} REUSE_FROM millrace_base)
    target_compile_options(${target} PRIVATE -fPIC)  # as the library has it: programs are -fPIE otherwise, which is another
  endif()
endfunction()

# Files named *_<instruction set>.cc are compiled for it on x86-64 and left out elsewhere; the choice among them is made
# at run time. They must define no inline function of a shared header differently: keep std:: templates out of them.
function(millrace_select_instruction_sets sources)
  set(selected ${${sources}})
  foreach(set IN ITEMS avx2 avx512 avx512vnni)
    set(files ${selected})
    list(FILTER files INCLUDE REGEX "_${set}\\.cc$")
    if(NOT files)
      continue()
    elseif(MILLRACE_X86)
      set_source_files_properties(${files} PROPERTIES COMPILE_OPTIONS "${MILLRACE_FLAGS_${set}}"
        SKIP_PRECOMPILE_HEADERS ON)
    else()
      list(REMOVE_ITEM selected ${files})
    endif()
  endforeach()
  set(${sources} ${selected} PARENT_SCOPE)
endfunction()

# One executable for each <folder>/**/*<suffix>.cc, named after its path below the folder: core/half_test.cc becomes
# core_half_test. Their names are returned in `result`.
function(millrace_add_programs folder suffix result)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}/${folder}" ${folder}/*${suffix}.cc
    ${folder}/*${suffix}.cu)
  if(NOT TARGET millrace_cuda)  # what is in cuda/ itself needs it
    list(FILTER files EXCLUDE REGEX "^cuda/[^/]*$|\\.cu$")
  endif()
  set(programs)
  foreach(file IN LISTS files)
    string(REGEX REPLACE "\\.c[cu]$" "" name "${file}")
    string(REPLACE "/" "_" name "${name}")
    add_executable(${name} ${folder}/${file})
    if(file MATCHES "^(core|model|checkpoint|constraint)/")
      target_link_libraries(${name} PRIVATE millrace_base)
    else()
      target_link_libraries(${name} PRIVATE millrace_core)
    endif()
    if(file MATCHES "\\.cc$")
      millrace_precompile_headers(${name})
      if(suffix STREQUAL "_test" AND NOT MILLRACE_SANITIZE)
        # What they test is optimised as users have it; of a program of assertions a third of the compile time is not.
        target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
      endif()
    endif()
    if(TARGET millrace_cuda)
      target_include_directories(${name} PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
    endif()
    if(file MATCHES "\\.cu$")
      target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
      set_target_properties(${name} PROPERTIES CUDA_ARCHITECTURES "${program_architectures}" CUDA_STANDARD 20)
    endif()
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/${folder}")
    list(APPEND programs ${name})
  endforeach()
  set(${result} ${programs} PARENT_SCOPE)
endfunction()
