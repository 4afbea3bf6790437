#include "lab/session.h"

#include "core/error.h"

namespace millrace::lab {

namespace {

template <typename Map>
auto& found(Map& map, uint32_t id, const char* what) {
  const auto it = map.find(id);
  if (it != map.end()) return it->second;
  throw Error(code::kInvalidArgument, format("there is no such %s in this lab", what),
              "it was released, or belongs to another lab");
}

}  // namespace

Session::Session(std::unique_ptr<Device> device)
    : device_(std::move(device)), own_(device_->backend().create_stream()) {}

Session::~Session() {
  try {
    finish();
  } catch (const Error&) {
    // A device that is lost runs nothing any more.
  }
}

void Session::finish() {
  own_->synchronize();
  for (const auto& [id, stream] : streams_) stream->synchronize();
}

uint32_t Session::allocate(size_t bytes, bool host) {
  Backend& backend = device_->backend();
  buffers_[next_] =
      host ? backend.allocate_host(bytes, "a buffer of the lab") : backend.allocate(bytes, "a buffer of the lab");
  return next_++;
}

uint32_t Session::create_stream() {
  streams_[next_] = device_->backend().create_stream();
  return next_++;
}

uint32_t Session::create_event() {
  events_[next_] = device_->backend().create_event(EventUse::timed);
  return next_++;
}

uint32_t Session::load_kernel(const KernelImage& image) {
  kernels_[next_] = device_->load_kernel(image);
  return next_++;
}

void Session::release(uint32_t id) {
  finish();
  buffers_.erase(id);
  streams_.erase(id);
  events_.erase(id);
  kernels_.erase(id);
}

std::byte* Session::at(uint32_t buffer, size_t offset, size_t bytes) const {
  const std::unique_ptr<Memory>& memory = found(buffers_, buffer, "buffer");
  if (offset <= memory->size() && bytes <= memory->size() - offset) return memory->data() + offset;
  throw Error(code::kInvalidArgument,
              format("expected %zu bytes from %zu on in a buffer, but it has %zu", bytes, offset, memory->size()),
              "describe() tells the bytes of every argument");
}

Stream& Session::stream_of(uint32_t id) const {
  return *found(streams_, id, "stream");
}
Event& Session::event_of(uint32_t id) const {
  return *found(events_, id, "event");
}
std::shared_ptr<Kernel> Session::kernel_of(uint32_t id) const {
  return found(kernels_, id, "kernel");
}

void Session::write(uint32_t buffer, size_t offset, const std::vector<std::byte>& bytes) {
  std::byte* to = at(buffer, offset, bytes.size());
  finish();
  own_->copy(to, bytes.data(), bytes.size());
  own_->synchronize();
}

std::vector<std::byte> Session::read(uint32_t buffer, size_t offset, size_t bytes) {
  const std::byte* from = at(buffer, offset, bytes);
  finish();
  std::vector<std::byte> out(bytes);
  own_->copy(out.data(), from, bytes);
  own_->synchronize();
  return out;
}

void Session::copy(uint32_t stream, uint32_t to, size_t to_offset, uint32_t from, size_t from_offset, size_t bytes) {
  stream_of(stream).copy(at(to, to_offset, bytes), at(from, from_offset, bytes), bytes);
}

void Session::fill(uint32_t stream, uint32_t buffer, size_t offset, size_t bytes, uint8_t value) {
  stream_of(stream).fill(at(buffer, offset, bytes), value, bytes);
}

void Session::record(uint32_t stream, uint32_t event) {
  stream_of(stream).record(event_of(event));
}

void Session::wait(uint32_t stream, uint32_t event) {
  stream_of(stream).wait(event_of(event));
}

void Session::synchronize(uint32_t stream) {
  stream_of(stream).synchronize();
}

double Session::elapsed_ms(uint32_t begin, uint32_t end) {
  event_of(begin).synchronize();
  event_of(end).synchronize();
  return event_of(end).milliseconds_since(event_of(begin));
}

Launch Session::launch_of(const LaunchRequest& request) const {
  Launch launch;
  launch.problem = make_problem(request.operation, request.dimensions);
  const std::vector<Argument>& expected = launch.problem.arguments;
  if (request.arguments.size() != expected.size()) {
    throw Error(code::kInvalidArgument,
                format("%s takes %zu arguments, received %zu", request.operation.c_str(), expected.size(),
                       request.arguments.size()),
                "operations() lists every operation's arguments");
  }
  for (size_t i = 0; i < expected.size(); i++) {
    const auto& [buffer, offset] = request.arguments[i];
    if (offset % 256 != 0) {
      throw Error(code::kInvalidArgument,
                  format("expected an offset that is a multiple of 256 for %s but received %zu",
                         expected[i].parameter->name, offset),
                  "kernels read 16 bytes at a time");
    }
    launch.arguments.push_back(at(buffer, offset, expected[i].bytes));
  }
  if (request.kernel != 0) launch.kernel = kernel_of(request.kernel);
  return launch;
}

void Session::launch(uint32_t stream, const LaunchRequest& request) {
  device_->launch(stream_of(stream), launch_of(request));
}

std::vector<double> Session::time(const std::vector<LaunchRequest>& requests, int count, int repeats) {
  std::vector<Launch> launches;
  for (const LaunchRequest& request : requests) launches.push_back(launch_of(request));
  finish();
  return device_->time(launches, count, repeats);
}

void Session::randomise(const LaunchRequest& request, uint64_t seed, bool outputs) {
  const Launch launch = launch_of(request);
  finish();
  const std::vector<Argument>& arguments = launch.problem.arguments;
  for (size_t i = 0; i < arguments.size(); i++) {
    if (arguments[i].parameter->access == Access::out &&
        !(launch.problem.dimensions.contains("epilogue") && launch.problem["epilogue"] == 1)) {
      if (outputs) own_->fill(launch.arguments[i], 0xff, arguments[i].bytes);
      continue;
    }
    std::vector<std::byte> bytes(arguments[i].bytes);
    fill_argument(launch.problem, i, seed, bytes.data());
    own_->copy(launch.arguments[i], bytes.data(), bytes.size());
    own_->synchronize();
  }
  own_->synchronize();
}

}  // namespace millrace::lab
