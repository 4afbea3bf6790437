#pragma once
// What copies, kernels, CPU units and waits took, as a file of trace events that Perfetto and chrome://tracing show.
// Times come from events in the streams, so tracing splits what would be one launch; the model's worker alone uses it.
#include <chrono>
#include <cstdio>
#include <deque>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace millrace {

class Trace {
 public:
  using Clock = std::chrono::steady_clock;
  // Of the first device; of(track, device) of the others.
  enum Track : int { host = 1, compute = 2, copies = 3, cpu = 4 };
  static Track of(Track track, int device) { return static_cast<Track>(track + kTracks * device); }

  // Throws INVALID_ARGUMENT if the file cannot be written.
  explicit Trace(const std::string& path, int devices = 1);
  ~Trace();  // ends the file, if finish() has not
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  // The track's stream; must be at rest, so that its clock can be set to the host's.
  void attach(Track track, Backend& backend, Stream& stream);
  // What lies between begin() and the next end() of the track. Never waits.
  void begin(Track track, std::string name);
  void end(Track track);
  void host_span(std::string name, Clock::time_point begin, Clock::time_point end);
  // Numbers of this moment, drawn as a lane of bars.
  struct Count {
    const char* name;
    uint64_t value;
  };
  void counts(const char* lane, std::initializer_list<Count> counts);
  // Forgets what was begun and not ended, of a pass that was given up.
  void abandon();
  // Writes what has come to pass.
  void collect();
  // Writes the rest and closes the file. Throws WRITE_FAILED where it has not all of it.
  void finish();

 private:
  static constexpr int kTracks = 5;  // of a device
  struct Line {                      // one track
    Backend* backend = nullptr;
    Stream* stream = nullptr;
    std::unique_ptr<Event> origin;  // reached at origin_us of the host's clock
    double origin_us = 0;
  };
  struct Span {
    Track track;
    std::string name;
    std::unique_ptr<Event> begin, end;
  };
  std::unique_ptr<Event> mark(Line& line);
  void write(Track track, const std::string& name, double begin_us, double us);
  void wrote(int characters);

  std::string path_;
  std::FILE* file_;  // null once it is closed
  int why_ = 0;      // errno of the first write that failed
  Clock::time_point started_ = Clock::now();
  std::vector<Line> lines_;                                // by track
  std::deque<Span> open_;                                  // begun, or ended and not yet reached
  std::vector<std::vector<std::unique_ptr<Event>>> free_;  // by track
  bool first_ = true;
};

}  // namespace millrace
