#include "fs/serving/request_context.hpp"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace limaquota {
namespace {
thread_local RequestContext* in_service = nullptr;
#ifdef __SANITIZE_THREAD__
char order_of_requests;
#endif
}  // namespace

RequestContext* RequestContext::current() { return in_service; }

RequestContext::Serving::Serving(RequestContext& context) { in_service = &context; }

RequestContext::Serving::~Serving() { in_service = nullptr; }

#ifdef __SANITIZE_THREAD__
void RequestContext::before_answer() { __tsan_release(&order_of_requests); }
void RequestContext::after_request() { __tsan_acquire(&order_of_requests); }
#else
void RequestContext::before_answer() {}
void RequestContext::after_request() {}
#endif

}  // namespace limaquota
