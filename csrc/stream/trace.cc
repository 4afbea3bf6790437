#include "stream/trace.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace millrace {

namespace {

double microseconds(Trace::Clock::duration d) {
  return std::chrono::duration<double, std::micro>(d).count();
}

}  // namespace

Trace::Trace(const std::string& path, int devices)
    : path_(path), file_(std::fopen(path.c_str(), "w")), lines_(kTracks * devices + 1), free_(kTracks * devices + 1) {
  if (file_ == nullptr) {
    throw Error(code::kInvalidArgument,
                format("the trace '%s' cannot be written: %s", path.c_str(), std::strerror(errno)),
                "give a path in a folder that exists and may be written to");
  }
  std::fputs("[", file_);
  const auto name_track = [&](Track track, const std::string& name) {
    std::fprintf(file_, "%s\n{\"ph\":\"M\",\"pid\":1,\"tid\":%d,\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}}",
                 first_ ? "" : ",", track, name.c_str());
    first_ = false;
  };
  name_track(host, "steps");
  for (int device = 0; device < devices; device++) {
    const std::string which = devices == 1 ? "" : " " + std::to_string(device);
    name_track(of(compute, device), "compute stream" + which);
    name_track(of(copies, device), "copy stream" + which);
  }
  name_track(cpu, "CPU units");
}

Trace::~Trace() {
  try {
    finish();
  } catch (const Error&) {  // nobody asked
  }
}

void Trace::finish() {
  if (file_ == nullptr) return;
  for (Line& line : lines_) {
    if (line.stream == nullptr) continue;
    try {
      line.stream->synchronize();
    } catch (const Error&) {
      // A device that is lost: its last spans are not written.
    }
  }
  try {
    collect();
  } catch (const Error&) {
  }
  if ((std::fputs("\n]\n", file_) < 0 || std::fflush(file_) != 0) && why_ == 0) why_ = errno;
  std::fclose(std::exchange(file_, nullptr));
  if (why_ == 0) return;
  throw Error(code::kWriteFailed, format("the trace '%s' is not whole: %s", path_.c_str(), std::strerror(why_)),
              "give a path with more room, or trace fewer passes");
}

std::unique_ptr<Event> Trace::mark(Line& line) {
  auto& free = free_[&line - lines_.data()];
  std::unique_ptr<Event> event;
  if (free.empty()) {
    event = line.backend->create_event(EventUse::timed);
  } else {
    event = std::move(free.back());
    free.pop_back();
  }
  line.stream->record(*event);
  return event;
}

void Trace::attach(Track track, Backend& backend, Stream& stream) {
  Line& line = lines_[track];
  line.backend = &backend;
  line.stream = &stream;
  line.origin = mark(line);
  line.origin->synchronize();
  line.origin_us = microseconds(Clock::now() - started_);
}

void Trace::begin(Track track, std::string name) {
  open_.push_back({track, std::move(name), mark(lines_[track]), nullptr});
}

void Trace::end(Track track) {
  for (auto span = open_.rbegin(); span != open_.rend(); ++span) {
    if (span->track != track || span->end) continue;
    span->end = mark(lines_[track]);
    return;
  }
}

void Trace::host_span(std::string name, Clock::time_point begin, Clock::time_point end) {
  write(host, name, microseconds(begin - started_), microseconds(end - begin));
}

void Trace::counts(const char* lane, std::initializer_list<Count> counts) {
  wrote(std::fprintf(file_, ",\n{\"ph\":\"C\",\"pid\":1,\"name\":\"%s\",\"ts\":%.3f,\"args\":{", lane,
                     microseconds(Clock::now() - started_)));
  const char* comma = "";
  for (const Count& count : counts) {
    wrote(std::fprintf(file_, "%s\"%s\":%llu", std::exchange(comma, ","), count.name,
                       static_cast<unsigned long long>(count.value)));
  }
  wrote(std::fputs("}}", file_));
}

void Trace::write(Track track, const std::string& name, double begin_us, double us) {
  wrote(std::fprintf(file_, ",\n{\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f}", track,
                     name.c_str(), begin_us, us));
}

void Trace::wrote(int characters) {
  if (characters < 0 && why_ == 0) why_ = errno;
}

void Trace::abandon() {
  std::erase_if(open_, [](const Span& span) { return !span.end; });
}

void Trace::collect() {
  while (!open_.empty() && open_.front().end && open_.front().end->done()) {
    Span& span = open_.front();
    const Line& line = lines_[span.track];
    const double begin = 1e3 * span.begin->milliseconds_since(*line.origin);
    write(span.track, span.name, line.origin_us + begin, 1e3 * span.end->milliseconds_since(*span.begin));
    free_[span.track].push_back(std::move(span.begin));
    free_[span.track].push_back(std::move(span.end));
    open_.pop_front();
  }
}

}  // namespace millrace
