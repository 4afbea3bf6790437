#pragma once
// What a bench says of itself: in full after --help, and after an argument that it does not know.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace millrace {

// Ends the process where --help is asked for, before anything touches a GPU.
inline void help_if_asked(int argc, char** argv, const char* usage) {
  for (int i = 1; i < argc; i++) {
    if (std::strcmp(argv[i], "--help") != 0) continue;
    std::fputs(usage, stdout);
    std::exit(0);
  }
}

[[noreturn]] inline void refuse(const std::string& argument, const char* usage) {
  std::fprintf(stderr, "'%s' is no argument, or lacks its value\n%s", argument.c_str(), usage);
  std::exit(2);
}

}  // namespace millrace
