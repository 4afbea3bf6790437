#include "core/error.h"

#include <exception>
#include <new>
#include <system_error>

namespace millrace {

Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error(code::kOutOfMemory, "the system has no memory left", "free memory and try again");
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::resource_unavailable_try_again) {  // what std::thread throws
      return Error(code::kOutOfMemory, "the system starts no more threads",
                   "raise the limits on threads and address space");
    }
    return Error(code::kInternal, error.what(), "report this with what led to it");
  } catch (const std::exception& error) {
    return Error(code::kInternal, error.what(), "report this with what led to it");
  } catch (...) {
    return Error(code::kInternal, "an exception of unknown type", "report this with what led to it");
  }
}

}  // namespace millrace
