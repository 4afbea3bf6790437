# The target millrace_portable: the addon for systems older than the one that builds it. The C++ library is linked in, and
# what newer versions of glibc moved or added is taken from where it was before: the floor is glibc 2.30, and release.mjs
# reads the symbols to prove it. Source builds are not linked so: other C libraries know no such versions.
#
# A name that has a newer version is wrapped: __wrap_name jumps to name@old, whatever the prototype.
set(wrapped
  dladdr dlclose dlerror dlopen dlsym dlvsym pthread_condattr_setpshared pthread_create pthread_detach
  pthread_getspecific pthread_join pthread_key_create pthread_key_delete pthread_kill pthread_mutex_trylock
  pthread_mutexattr_destroy pthread_mutexattr_init pthread_mutexattr_setpshared pthread_mutexattr_settype pthread_once
  pthread_rwlock_destroy pthread_rwlock_init pthread_rwlock_rdlock pthread_rwlock_timedrdlock
  pthread_rwlock_timedwrlock pthread_rwlock_tryrdlock pthread_rwlock_trywrlock pthread_rwlock_unlock
  pthread_rwlock_wrlock pthread_rwlockattr_destroy pthread_rwlockattr_init pthread_rwlockattr_setpshared
  pthread_setspecific pthread_sigmask pthread_spin_destroy pthread_spin_init pthread_spin_lock pthread_spin_trylock
  pthread_spin_unlock sem_destroy sem_init sem_post sem_timedwait sem_trywait sem_wait shm_open shm_unlink)
# Younger than the others, and still older than the floor: name@version.
set(younger pthread_cond_clockwait@2.30)
# Written anew in portable.cc.
set(replaced arc4random fstat fstat64 lstat lstat64 stat stat64 fstatat fstatat64)

function(millrace_make_portable target)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(oldest 2.17)
    list(APPEND younger dlmopen@2.17)
    set(jump "adrp x16, :got:old_@name@\\n ldr x16, [x16, :got_lo12:old_@name@]\\n br x16")
  else()
    set(oldest 2.2.5)
    list(APPEND younger dlmopen@2.3.4)
    set(jump "jmp *old_@name@@GOTPCREL(%rip)")
  endif()
  set(text "// Made by cmake/MillracePortable.cmake.\n")
  foreach(entry IN LISTS wrapped younger)
    string(REGEX MATCH "^([^@]+)@?(.*)$" _ "${entry}")
    set(name "${CMAKE_MATCH_1}")
    set(version "${CMAKE_MATCH_2}")
    if(NOT version)
      set(version ${oldest})
    endif()
    string(REPLACE "@name@" "${name}" code "${jump}")
    string(APPEND text "asm(\".symver old_${name}, ${name}@GLIBC_${version}\\n .text\\n .globl __wrap_${name}\\n"
      " .hidden __wrap_${name}\\n .type __wrap_${name}, %function\\n__wrap_${name}:\\n ${code}\\n\");\n")
    target_link_options(${target} PRIVATE "-Wl,--wrap=${name}")
  endforeach()
  foreach(name IN LISTS replaced)
    target_link_options(${target} PRIVATE "-Wl,--wrap=${name}")
  endforeach()
  set(file "${CMAKE_BINARY_DIR}/portable_jumps.cc")
  file(GENERATE OUTPUT "${file}" CONTENT "${text}")
  target_sources(${target} PRIVATE "${file}" "${CMAKE_CURRENT_SOURCE_DIR}/cmake/portable.cc")
  # Where old systems keep these names; newer ones have empty libraries of the name.
  target_link_options(${target} PRIVATE -static-libstdc++)
  target_link_libraries(${target} PRIVATE
    -Wl,--push-state,--no-as-needed -l:libpthread.so.0 -l:libdl.so.2 -l:librt.so.1 -Wl,--pop-state)
endfunction()
