// A second device made of CPU memory, which mixes with the CPU as little as CUDA does.
//
// To PyTorch's dispatcher it is a separate backend (PrivateUse1) with its own tensors, storages and
// generators. An operator runs in the CPU's kernel, on the same memory labelled as CPU memory, so
// values, views, writes and changes of shape are real. Calls that CUDA rejects are rejected first.
// __init__.py builds and names the device, and says what it cannot imitate.

#include <ATen/ATen.h>
#include <ATen/ScalarOps.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>
#include <unistd.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

const c10::Device kHere(c10::DeviceType::PrivateUse1, 0);
const c10::DispatchKeySet kHost(c10::DispatchKey::CPU);

// There is one device with one stream, and all work is synchronous.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kHere.type(); }
  c10::Device exchangeDevice(c10::Device) const override { return kHere; }
  c10::Device getDevice() const override { return kHere; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, kHere); }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// ------------------------------------------------------------------ memory

// Memory labelled as the device's, which a CPU owner keeps alive.
template <typename Owner>
c10::DataPtr kept_by(Owner owner, void* data) {
  auto* kept = new Owner(std::move(owner));
  return {data, kept, [](void* it) { delete static_cast<Owner*>(it); }, kHere};
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr owner = c10::GetAllocator(c10::kCPU)->allocate(bytes);
    void* data = owner.get();
    return kept_by(std::move(owner), data);
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

Memory memory;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &memory);

at::Tensor same_form(const at::Tensor& form, c10::Storage storage, c10::DispatchKeySet keys) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, form.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(form.sizes(), form.strides(), form.storage_offset());
  impl->_set_conj(form.is_conj());
  impl->_set_neg(form.is_neg());
  return made;
}

// The tensors and storages of one call, each with both labels.
struct Call {
  std::vector<std::pair<c10::Storage, c10::Storage>> storages;  // here, on the host
  std::vector<std::pair<at::Tensor, at::Tensor>> tensors;

  c10::Storage to_host(const c10::Storage& here) {
    for (auto& pair : storages) {
      if (pair.first.unsafeGetStorageImpl() == here.unsafeGetStorageImpl()) return pair.second;
    }
    c10::Storage host(
        c10::Storage::use_byte_size_t(), here.nbytes(),
        c10::DataPtr(here.mutable_data(), c10::kCPU), c10::GetAllocator(c10::kCPU),
        here.resizable());
    storages.emplace_back(here, host);
    return host;
  }

  c10::Storage to_here(const c10::Storage& host) {
    for (auto& pair : storages) {
      if (pair.second.unsafeGetStorageImpl() == host.unsafeGetStorageImpl()) return pair.first;
    }
    c10::Storage here(
        c10::Storage::use_byte_size_t(), host.nbytes(), kept_by(host, host.mutable_data()),
        &memory, host.resizable());
    storages.emplace_back(here, host);
    return here;
  }

  at::Tensor to_host(const at::Tensor& here) {
    if (!here.defined() || !here.is_privateuseone()) return here;
    tensors.emplace_back(here, same_form(here, to_host(here.storage()), kHost));
    return tensors.back().second;
  }

  at::Tensor to_here(const at::Tensor& host) {
    if (!host.defined()) return host;
    if (host.is_sparse()) return sparse_here(*sparse_of(host));
    for (auto& pair : tensors) {
      if (pair.second.is_same(host)) return pair.first;
    }
    c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
    return same_form(host, to_here(host.storage()), keys);
  }

  static at::SparseTensorImpl* sparse_of(const at::Tensor& tensor) {
    return static_cast<at::SparseTensorImpl*>(tensor.unsafeGetTensorImpl());
  }

  at::Tensor sparse_here(const at::SparseTensorImpl& host) {
    auto made = at::detail::make_tensor<at::SparseTensorImpl>(
        c10::DispatchKeySet(c10::DispatchKey::SparsePrivateUse1), host.dtype());
    auto* impl = sparse_of(made);
    impl->resize_(host.sparse_dim(), host.dense_dim(), host.sizes());
    impl->set_indices_and_values_unsafe(to_here(host.indices()), to_here(host.values()));
    return made;
  }

  // Copy back memory that the kernel exchanged, and changes of shape.
  void follow() {
    for (auto& [here, host] : storages) {
      if (here.data() == host.data() && here.nbytes() == host.nbytes()) continue;
      here.unsafeGetStorageImpl()->set_data_ptr_noswap(kept_by(host, host.mutable_data()));
      here.unsafeGetStorageImpl()->set_nbytes(host.nbytes());
    }
    for (auto& [here, host] : tensors) {
      auto* impl = here.unsafeGetTensorImpl();
      c10::Storage storage = to_here(host.storage());
      if (storage.unsafeGetStorageImpl() != here.storage().unsafeGetStorageImpl()) {
        impl->set_storage_keep_dtype(storage);
      }
      if (here.sizes() != host.sizes() || here.strides() != host.strides() ||
          here.storage_offset() != host.storage_offset()) {
        impl->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
      }
    }
  }
};

// ------------------------------------------------------------------ random numbers

void copy_state(at::CPUGeneratorImpl* to, at::CPUGeneratorImpl* from) {
  to->set_engine(from->engine());
  to->set_next_float_normal_sample(from->next_float_normal_sample());
  to->set_next_double_normal_sample(from->next_double_normal_sample());
}

struct Draws final : at::CPUGeneratorImpl {
  Draws() {
    device_ = kHere;
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }

 private:
  Draws* clone_impl() const override {
    auto* twin = new Draws();
    copy_state(twin, const_cast<Draws*>(this));
    return twin;
  }
};

at::Generator& default_draws() {
  static at::Generator draws = at::make_generator<Draws>();
  return draws;
}

at::CPUGeneratorImpl* state_of(const at::Generator& generator) {
  return static_cast<at::CPUGeneratorImpl*>(generator.unsafeGetGeneratorImpl());
}

// Lends a generator's state to the CPU's default generator, and restores that one afterwards.
struct Lent {
  at::CPUGeneratorImpl* lender;
  at::CPUGeneratorImpl* borrower = state_of(at::detail::getDefaultCPUGenerator());
  at::CPUGeneratorImpl before;

  explicit Lent(const at::Generator& generator) : lender(state_of(generator)) {
    copy_state(&before, borrower);
    copy_state(borrower, lender);
  }
  ~Lent() {
    copy_state(lender, borrower);
    copy_state(borrower, &before);
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const { return true; }
  bool isAvailable() const { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return default_draws();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<Draws>();
  }
  void resizePrivateUse1Bytes(const c10::Storage& here, size_t bytes) const override {
    c10::DataPtr data = memory.allocate(bytes);
    memory.copy_data(data.get(), here.data(), std::min(bytes, here.nbytes()));
    here.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(data));
    here.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

// ------------------------------------------------------------------ refusals

using Names = std::initializer_list<std::string_view>;

// Whether an operator is one of these, in place or not.
bool is_one_of(const c10::OperatorHandle& op, Names names) {
  std::string_view name = op.schema().name();
  name.remove_prefix(std::string_view("aten::").size());
  if (name.back() == '_') name.remove_suffix(1);
  return std::find(names.begin(), names.end(), name) != names.end();
}

// CUDA mixes with the CPU in two cases: scalars in pointwise operators or as a value to write, and
// indices.
bool may_be_elsewhere(
    const c10::OperatorHandle& op, const c10::Argument& argument, const at::Tensor& tensor) {
  if (!tensor.is_cpu()) return false;
  if (argument.alias_info() && argument.alias_info()->isWrite()) return false;
  if (argument.name() == "indices") {
    return is_one_of(op, {"index", "index_put", "_index_put_impl", "_unsafe_index"});
  }
  if (tensor.dim() > 0) return false;
  if (is_one_of(op, {"masked_fill", "fill", "index_fill", "index_put", "_index_put_impl"})) {
    return argument.name() == "value" || argument.name() == "values";
  }
  return op.hasTag(at::Tag::pointwise) || is_one_of(op, {"floor_divide"});
}

void check_device(
    const c10::OperatorHandle& op, const c10::Argument& argument, const at::Tensor& tensor) {
  TORCH_CHECK(
      !tensor.defined() || tensor.is_privateuseone() || may_be_elsewhere(op, argument, tensor),
      "Expected all tensors to be on the same device, but got ", argument.name(), " is on ",
      tensor.device(), ", different from other tensors on ", kHere,
      " (when checking argument in method ", op.schema().operator_name(), ")");
}

const pid_t kProcess = getpid();
int64_t lost = 0;  // the number of reads out of bounds since the last call of lost()

// A value out of bounds raises an error on the CPU; on CUDA it ends the process.
[[noreturn]] void lose(const c10::OperatorHandle& op, const c10::Error& error) {
  lost += 1;
  TORCH_CHECK(
      false, "device-side assert triggered in ", op.schema().operator_name(), ": ",
      error.what_without_backtrace());
}

// Whether an error is about values that a kernel read; CUDA cannot report those.
bool is_about_values(const c10::OperatorHandle& op, const std::string& error) {
  const auto says = [&](const char* text) { return error.find(text) != std::string::npos; };
  if (is_one_of(op, {"binary_cross_entropy", "bernoulli"})) {
    return says("between 0 and 1") || says("p_in >= 0");
  }
  return says("out of ") &&
      is_one_of(op, {"index", "_unsafe_index", "index_put", "_index_put_impl", "index_select",
                     "index_add", "index_copy", "index_fill", "gather", "scatter", "scatter_add",
                     "scatter_reduce", "take", "put", "embedding", "nll_loss_forward",
                     "nll_loss2d_forward", "multi_margin_loss"});
}

// CUDA does not multiply integer matrices.
void check_dtype(const c10::OperatorHandle& op, const at::Tensor& tensor) {
  TORCH_CHECK(
      !at::isIntegralType(tensor.scalar_type(), /*includeBool=*/true) ||
          !is_one_of(op, {"mm", "addmm", "bmm", "baddbmm", "addbmm", "addmv", "mv", "dot", "vdot"}),
      '"', op.schema().name(), "\" not implemented for '", tensor.scalar_type(), "'");
}

// In deterministic mode, CUDA rejects operators without a deterministic algorithm. Source: PyTorch
// documentation, torch.use_deterministic_algorithms.
void check_deterministic(const c10::OperatorHandle& op) {
  if (at::globalContext().deterministicAlgorithms() &&
      is_one_of(op, {"nll_loss2d_forward", "_adaptive_avg_pool2d_backward",
                     "adaptive_max_pool2d_backward", "upsample_bilinear2d_backward",
                     "grid_sampler_2d_backward", "histc", "kthvalue", "cumsum",
                     "_ctc_loss_backward"})) {
    at::globalContext().alertNotDeterministic(op.schema().name());
  }
}

// ------------------------------------------------------------------ operators

using Stack = torch::jit::Stack;

c10::IValue to_host(
    Call& call, const c10::OperatorHandle& op, const c10::Argument& argument,
    const c10::IValue& value) {
  if (value.isTensor()) {
    check_device(op, argument, value.toTensor());
    if (value.toTensor().defined()) check_dtype(op, value.toTensor());
    return call.to_host(value.toTensor());
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) {
      check_device(op, argument, tensor);
      list.push_back(call.to_host(tensor));
    }
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
      if (tensor) check_device(op, argument, *tensor);
      list.push_back(tensor ? std::make_optional(call.to_host(*tensor)) : std::nullopt);
    }
    return list;
  }
  if (value.isStorage()) return call.to_host(value.toStorage());
  if (value.isDevice()) return c10::Device(c10::kCPU);
  return value;
}

c10::IValue to_here(Call& call, const c10::IValue& value) {
  if (value.isTensor()) return call.to_here(value.toTensor());
  if (!value.isTensorList()) return value;
  c10::List<at::Tensor> list;
  for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(call.to_here(tensor));
  return list;
}

// The generator that an operator draws from: its argument, the device's default, or none.
std::optional<at::Generator> generator_for(
    const c10::OperatorHandle& op, c10::ArrayRef<c10::IValue> values) {
  bool draws = op.hasTag(at::Tag::nondeterministic_seeded);
  for (const c10::IValue& value : values) {
    if (!value.isGenerator()) continue;
    TORCH_CHECK(
        value.toGenerator().device() == kHere, "Expected a '", kHere.type(),
        "' device type for generator but found '", value.toGenerator().device().type(), "'");
    return value.toGenerator();
  }
  return draws ? std::make_optional(default_draws()) : std::nullopt;
}

// Runs the CPU kernel of this operator, or of another one, on an operator's arguments.
void run(const c10::OperatorHandle& op, Stack* stack) {
  TORCH_CHECK(
      getpid() == kProcess,
      "Cannot re-initialize the device in forked subprocess: use the 'spawn' start method");
  check_deterministic(op);
  Call call;
  const auto& arguments = op.schema().arguments();
  const size_t first = stack->size() - arguments.size();
  const auto generator = generator_for(op, torch::jit::last(*stack, arguments.size()));
  for (size_t i = 0; i < arguments.size(); ++i) {
    auto& value = (*stack)[first + i];
    value = value.isGenerator() ? c10::IValue() : to_host(call, op, arguments[i], value);
  }
  {
    std::optional<Lent> lent;
    if (generator) lent.emplace(*generator);
    try {
      op.redispatchBoxed(kHost, stack);
    } catch (const c10::Error& error) {
      if (is_about_values(op, error.what_without_backtrace())) lose(op, error);
      throw;
    }
  }
  call.follow();
  for (size_t i = first; i < stack->size(); ++i) (*stack)[i] = to_here(call, (*stack)[i]);
}

c10::OperatorHandle named(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

// PyTorch sends the convolutions of a private backend to two special operators.
void convolution(const c10::OperatorHandle&, Stack* stack) {
  static const auto op = named("aten::convolution");
  run(op, stack);
}

void convolution_backward(const c10::OperatorHandle& overrideable, Stack* stack) {
  static const auto op = named("aten::convolution_backward");
  const auto first = stack->end() - overrideable.schema().arguments().size();
  const std::vector<int64_t> bias{first->toTensor().size(1)};
  stack->insert(first + 3, bias);
  run(op, stack);
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool) {
  Call call;
  call.to_host(target).copy_(call.to_host(source));
  return target;
}

// For float16, the CPU rounds the factor of mul_ and _foreach_mul_ to float16; CUDA does not.
at::Tensor& multiply(at::Tensor& tensor, const at::Scalar& number) {
  at::Tensor wrapped = c10::scalar_to_tensor(number);
  wrapped.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor.mul_(wrapped);
}

// As between CPU and CUDA, a parameter stays the same object when its module moves.
bool can_take_the_data_of(const at::Tensor&, const at::Tensor&) {
  return true;
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  // PyTorch would call the out= variants, which warn about a shape that is fine.
  for (const char* loss : {"mse_loss", "smooth_l1_loss"}) {
    m.impl(loss, torch::CppFunction::makeFromBoxedFunction<&run>());
  }
  m.impl("mul_.Scalar", multiply);
  m.impl("_copy_from", copy_from);
  m.impl("_has_compatible_shallow_copy_type", can_take_the_data_of);
  m.impl(
      "convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution>());
  m.impl(
      "convolution_backward_overrideable",
      torch::CppFunction::makeFromBoxedFunction<&convolution_backward>());
}

TORCH_LIBRARY(stand_in, m) {
  m.def("start", []() { at::RegisterPrivateUse1HooksInterface(new Hooks()); });
  m.def("is_forked", []() { return getpid() != kProcess; });
  m.def("lost", []() { return std::exchange(lost, 0); });
  m.def("seed", [](int64_t seed) { default_draws().set_current_seed(seed); });
  m.def("get_state", []() { return default_draws().get_state(); });
  m.def("set_state", [](const at::Tensor& state) { default_draws().set_state(state); });
}

}  // namespace
