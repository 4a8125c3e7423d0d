// The weight gradient of a depthwise convolution, with channels last.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

// One function for each instruction set, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HIPIE_CLONES __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define HIPIE_CLONES
#endif

namespace hipie {
namespace {

using at::Tensor;

// Channels that are computed together.
constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

struct Sizes {
  int64_t batch, channels, height, width, out_height, out_width, kernel, stride, padding;
};

inline __attribute__((always_inline)) Lanes load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}

// Adds to sums[j], for j < Kernel, the products of a row of gradients and of the row of inputs that
// starts j pixels later. Two sets of sums, as a sum has to wait for the one before it.
template <int Kernel, int Stride>
inline __attribute__((always_inline)) void add_row(
    const float* input, const float* gradient, int64_t width, float* sums) {
  Lanes even[Kernel] = {}, odd[Kernel] = {};
  int64_t x = 0;
  for (; x + 1 < width; x += 2) {
    const Lanes first = load(gradient + x * kLanes), second = load(gradient + (x + 1) * kLanes);
    const float* pixels = input + x * Stride * kLanes;
    for (int j = 0; j < Kernel; ++j) {
      even[j] += first * load(pixels + j * kLanes);
      odd[j] += second * load(pixels + (j + Stride) * kLanes);
    }
  }
  for (int j = 0; x < width && j < Kernel; ++j) {
    even[j] += load(gradient + x * kLanes) * load(input + (x * Stride + j) * kLanes);
  }
  for (int j = 0; j < Kernel; ++j) {
    const Lanes sum = load(sums + j * kLanes) + even[j] + odd[j];
    std::memcpy(sums + j * kLanes, &sum, sizeof(sum));
  }
}

HIPIE_CLONES void add_rows(
    const float* input, const float* gradient, int64_t width, int64_t kernel, int64_t stride,
    float* sums) {
  if (kernel == 3 && stride == 1) return add_row<3, 1>(input, gradient, width, sums);
  if (kernel == 3) return add_row<3, 2>(input, gradient, width, sums);
  if (kernel == 5 && stride == 1) return add_row<5, 1>(input, gradient, width, sums);
  if (kernel == 5) return add_row<5, 2>(input, gradient, width, sums);
  if (stride == 1) return add_row<7, 1>(input, gradient, width, sums);
  return add_row<7, 2>(input, gradient, width, sums);
}

// Copies `count` of kLanes channels of a row of pixels as floats; the other lanes keep their zeros.
template <typename T>
HIPIE_CLONES void widen(const T* from, int64_t pixels, int64_t step, int64_t count, float* to) {
  if (count == kLanes) {
    for (int64_t x = 0; x < pixels; ++x, from += step, to += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) to[lane] = static_cast<float>(from[lane]);
    }
    return;
  }
  for (int64_t x = 0; x < pixels; ++x, from += step, to += kLanes) {
    for (int64_t lane = 0; lane < count; ++lane) to[lane] = static_cast<float>(from[lane]);
  }
}

// The gradient of the channels from `first` on. The rows of inputs that an output row reads are
// kept as floats in a ring of as many rows as the kernel has.
template <typename T>
void channels(const Sizes& s, const T* gradient, const T* input, int64_t first, float* result) {
  const int64_t count = std::min<int64_t>(kLanes, s.channels - first), kernel = s.kernel;
  const int64_t padded = std::max(s.width + 2 * s.padding, (s.out_width - 1) * s.stride + kernel);
  std::vector<float> ring(kernel * padded * kLanes), row(s.out_width * kLanes),
      sums(kernel * kernel * kLanes);
  for (int64_t image = 0; image < s.batch; ++image) {
    int64_t next = 0;  // row of the padded input that is copied next
    for (int64_t y = 0; y < s.out_height; ++y) {
      for (; next < y * s.stride + kernel; ++next) {
        float* place = ring.data() + (next % kernel) * padded * kLanes;
        const int64_t from = next - s.padding;
        if (from < 0 || from >= s.height) {
          std::fill_n(place, padded * kLanes, 0.0f);
        } else {
          widen(
              input + (image * s.height + from) * s.width * s.channels + first, s.width, s.channels,
              count, place + s.padding * kLanes);
        }
      }
      widen(
          gradient + (image * s.out_height + y) * s.out_width * s.channels + first, s.out_width,
          s.channels, count, row.data());
      for (int64_t i = 0; i < kernel; ++i) {
        const float* rows = ring.data() + ((y * s.stride + i) % kernel) * padded * kLanes;
        add_rows(
            rows, row.data(), s.out_width, kernel, s.stride, sums.data() + i * kernel * kLanes);
      }
    }
  }
  for (int64_t lane = 0; lane < count; ++lane) {
    for (int64_t tap = 0; tap < kernel * kernel; ++tap) {
      result[(first + lane) * kernel * kernel + tap] = sums[tap * kLanes + lane];
    }
  }
}

Tensor depthwise_weight_gradient(
    const Tensor& grad_output, const Tensor& input, int64_t kernel, int64_t stride,
    int64_t padding) {
  const auto type = input.scalar_type();
  TORCH_CHECK_VALUE(
      (type == at::kFloat || type == at::kBFloat16) && grad_output.scalar_type() == type,
      "input and grad_output have to be float32 or bfloat16, both the same");
  TORCH_CHECK_VALUE(
      (kernel == 3 || kernel == 5 || kernel == 7) && (stride == 1 || stride == 2) && padding >= 0,
      "the kernel has to be 3, 5 or 7, the stride 1 or 2, and the padding not negative; they are ",
      kernel, ", ", stride, " and ", padding);
  const auto size = [&](int64_t side) { return (side + 2 * padding - kernel) / stride + 1; };
  TORCH_CHECK_VALUE(
      input.dim() == 4 && grad_output.dim() == 4 && input.size(2) + 2 * padding >= kernel &&
          input.size(3) + 2 * padding >= kernel && grad_output.size(0) == input.size(0) &&
          grad_output.size(1) == input.size(1) && grad_output.size(2) == size(input.size(2)) &&
          grad_output.size(3) == size(input.size(3)),
      "grad_output ", grad_output.sizes(), " does not fit input ", input.sizes());
  const Tensor inputs = input.contiguous(at::MemoryFormat::ChannelsLast),
               gradient = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
  const Sizes sizes{input.size(0),       input.size(1),       input.size(2), input.size(3),
                    grad_output.size(2), grad_output.size(3), kernel,        stride,
                    padding};
  Tensor result = at::zeros({sizes.channels, 1, kernel, kernel}, input.options().dtype(at::kFloat));
  if (input.numel() == 0) return result;
  float* to = result.mutable_data_ptr<float>();
  const int64_t blocks = (sizes.channels + kLanes - 1) / kLanes;
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      if (type == at::kFloat) {
        channels(
            sizes, gradient.const_data_ptr<float>(), inputs.const_data_ptr<float>(), block * kLanes,
            to);
      } else {
        channels(
            sizes, gradient.const_data_ptr<c10::BFloat16>(),
            inputs.const_data_ptr<c10::BFloat16>(), block * kLanes, to);
      }
    }
  });
  return result;
}

}  // namespace
}  // namespace hipie

TORCH_LIBRARY_IMPL(hipie, CPU, library) {
  library.impl("depthwise_weight_gradient", hipie::depthwise_weight_gradient);
}
