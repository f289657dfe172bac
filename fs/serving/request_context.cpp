#include "fs/serving/request_context.hpp"

namespace limaquota {
namespace {
thread_local RequestContext* in_service = nullptr;
}  // namespace

RequestContext* RequestContext::current() { return in_service; }

RequestContext::Serving::Serving(RequestContext& context) { in_service = &context; }

RequestContext::Serving::~Serving() { in_service = nullptr; }

}  // namespace limaquota
