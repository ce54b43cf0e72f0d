// GroupNorm, scale and shift, and SiLU of a picture whose pixels keep their channels together, there and back.
//
//   x_hat = (x - mean) / sqrt(var + eps)            over the pixels and channels of a group
//   z     = (gamma x_hat + beta) (1 + scale) + shift
//   y     = z sigmoid(z), or z
//
// x is (B, P, C): pictures, pixels, channels. Each picture is one thread's alone, so that no sum depends on how many
// threads there are, or on the other pictures. Sums are of 32 pixels in the arithmetic's type A, then in double.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bfloat16 {
  uint16_t bits;
};

inline float up(float x) { return x; }
inline double up(double x) { return x; }
inline float up(bfloat16 x) {
  const uint32_t wide = uint32_t(x.bits) << 16;
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}

inline void put(float& to, float x) { to = x; }
inline void put(double& to, double x) { to = x; }
inline void put(bfloat16& to, float x) {  // to the nearest, ties to even; what is no number stays none
  uint32_t wide;
  std::memcpy(&wide, &x, 4);
  const uint32_t nearest = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  to.bits = uint16_t((wide & 0x7fffffff) > 0x7f800000 ? (wide >> 16) | 0x40 : nearest);
}

// exp by a polynomial on [-ln 2 / 2, ln 2 / 2] and a power of two: within 2 units in the last place, and in vectors.
inline double exponential(double x) { return std::exp(x); }
inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float power = std::nearbyint(x * 1.44269504f);
  const float r = (x - power * 0.693145752f) - power * 1.42860677e-6f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (int32_t(power) + 127) << 23;
  float two;
  std::memcpy(&two, &bits, 4);
  return p * two;
}

constexpr long BLOCK = 32;

// What is the same for all pixels of a picture: z = slope[c] x + offset[c].
template <class A>
struct Affine {
  std::vector<A> slope, offset, mean;

  Affine(const A* gamma, const A* beta, const A* scale, const A* shift, const A* means, const A* rstds, long C, long D)
      : slope(C), offset(C), mean(C) {
    for (long c = 0; c < C; c++) {
      const A factor = scale ? 1 + scale[c] : A(1), more = shift ? shift[c] : A(0);
      mean[c] = means[c / D];
      slope[c] = rstds[c / D] * gamma[c] * factor;
      offset[c] = (beta[c] - mean[c] * rstds[c / D] * gamma[c]) * factor + more;
    }
  }
};

template <class T, class A>
void forward(const T* x, const A* gamma, const A* beta, const A* scale, const A* shift, T* y, A* mean, A* rstd, long B,
             long P, long C, long G, double eps, long silu, long threads) {
  const long D = C / G;
#pragma omp parallel for num_threads(threads)
  for (long b = 0; b < B; b++) {
    const T* in = x + b * P * C;
    T* out = y + b * P * C;
    A *means = mean + b * G, *rstds = rstd + b * G;
    std::vector<A> sums(C), middle(C, A(0));
    std::vector<double> total(C);
    for (int pass = 0; pass < 2; pass++) {  // the mean; then the variance around it
      std::fill(total.begin(), total.end(), 0.0);
      for (long q = 0; q < P; q += BLOCK) {
        A* sum = sums.data();
        const A* m = middle.data();
        std::fill(sums.begin(), sums.end(), A(0));
        for (long p = q; p < std::min(P, q + BLOCK); p++) {
          const T* row = in + p * C;
          if (pass) {
#pragma GCC ivdep
            for (long c = 0; c < C; c++) {
              const A d = up(row[c]) - m[c];
              sum[c] += d * d;
            }
          } else {
#pragma GCC ivdep
            for (long c = 0; c < C; c++) sum[c] += up(row[c]);
          }
        }
        for (long c = 0; c < C; c++) total[c] += sum[c];
      }
      for (long g = 0; g < G; g++) {
        double one = 0;
        for (long c = g * D; c < (g + 1) * D; c++) one += total[c];
        one /= double(D * P);
        if (pass) {
          rstds[g] = A(1 / std::sqrt(one + eps));
        } else {
          means[g] = A(one);
          std::fill(middle.begin() + g * D, middle.begin() + (g + 1) * D, A(one));
        }
      }
    }
    const long at = b * C;
    const Affine<A> z(gamma, beta, scale ? scale + at : nullptr, shift ? shift + at : nullptr, means, rstds, C, D);
    const A *slope = z.slope.data(), *offset = z.offset.data();
    for (long p = 0; p < P; p++) {
      const T* row = in + p * C;
      T* to = out + p * C;
      if (silu) {
#pragma GCC ivdep
        for (long c = 0; c < C; c++) {
          const A v = slope[c] * up(row[c]) + offset[c];
          put(to[c], v / (1 + exponential(-v)));
        }
      } else {
#pragma GCC ivdep
        for (long c = 0; c < C; c++) put(to[c], slope[c] * up(row[c]) + offset[c]);
      }
    }
  }
}

// dx, and for each picture and channel the sums of dz and of dz x_hat, of which the parameters' gradients are made.
template <class T, class A>
void backward(const T* x, const T* dy, const A* gamma, const A* beta, const A* scale, const A* shift, const A* mean,
              const A* rstd, T* dx, A* sum_dz, A* sum_dz_x_hat, long B, long P, long C, long G, long silu, long threads) {
  const long D = C / G;
#pragma omp parallel num_threads(threads)
  {
    std::vector<A> kept(size_t(P) * C), first(C), second(C);
    std::vector<double> one(C), other(C);
#pragma omp for
    for (long b = 0; b < B; b++) {
      const T *in = x + b * P * C, *from = dy + b * P * C;
      T* out = dx + b * P * C;
      const A *means = mean + b * G, *rstds = rstd + b * G;
      const long at = b * C;
      const Affine<A> z(gamma, beta, scale ? scale + at : nullptr, shift ? shift + at : nullptr, means, rstds, C, D);
      const A *slope = z.slope.data(), *offset = z.offset.data(), *middle = z.mean.data();
      A *u = first.data(), *v = second.data();
      std::fill(one.begin(), one.end(), 0.0);
      std::fill(other.begin(), other.end(), 0.0);
      for (long q = 0; q < P; q += BLOCK) {
        std::fill(first.begin(), first.end(), A(0));
        std::fill(second.begin(), second.end(), A(0));
        for (long p = q; p < std::min(P, q + BLOCK); p++) {
          const T *row = in + p * C, *grad = from + p * C;
          A* dz = kept.data() + p * C;
          if (silu) {
#pragma GCC ivdep
            for (long c = 0; c < C; c++) {
              const A value = up(row[c]), at_z = slope[c] * value + offset[c], s = 1 / (1 + exponential(-at_z));
              const A d = up(grad[c]) * s * (1 + at_z * (1 - s));
              dz[c] = d;
              u[c] += d;
              v[c] += d * (value - middle[c]);
            }
          } else {
#pragma GCC ivdep
            for (long c = 0; c < C; c++) {
              const A d = up(grad[c]);
              dz[c] = d;
              u[c] += d;
              v[c] += d * (up(row[c]) - middle[c]);
            }
          }
        }
        for (long c = 0; c < C; c++) {
          one[c] += u[c];
          other[c] += v[c];
        }
      }
      for (long g = 0; g < G; g++) {
        const double r = rstds[g];
        double straight = 0, along = 0;  // means of d x_hat, and of d x_hat x_hat
        for (long c = g * D; c < (g + 1) * D; c++) {
          const double factor = double(gamma[c]) * (scale ? 1 + double(scale[at + c]) : 1);
          sum_dz[at + c] = A(one[c]);
          sum_dz_x_hat[at + c] = A(other[c] * r);
          straight += factor * one[c] / double(D * P);
          along += factor * other[c] * r / double(D * P);
        }
        for (long c = g * D; c < (g + 1) * D; c++) {  // dx = r (d x_hat - straight - x_hat along)
          u[c] = A(-r * r * along);
          v[c] = A(-r * straight + r * r * along * middle[c]);
        }
      }
      for (long p = 0; p < P; p++) {
        const T* row = in + p * C;
        const A* dz = kept.data() + p * C;
        T* to = out + p * C;
#pragma GCC ivdep
        for (long c = 0; c < C; c++) put(to[c], slope[c] * dz[c] + u[c] * up(row[c]) + v[c]);
      }
    }
  }
}

}  // namespace

#define FOR_TYPE(name, T, A)                                                                                         \
  extern "C" void forward_##name(const T* x, const A* gamma, const A* beta, const A* scale, const A* shift, T* y,    \
                                 A* mean, A* rstd, long B, long P, long C, long G, double eps, long silu,            \
                                 long threads) {                                                                     \
    forward<T, A>(x, gamma, beta, scale, shift, y, mean, rstd, B, P, C, G, eps, silu, threads);                     \
  }                                                                                                                 \
  extern "C" void backward_##name(const T* x, const T* dy, const A* gamma, const A* beta, const A* scale,           \
                                  const A* shift, const A* mean, const A* rstd, T* dx, A* s, A* t, long B, long P,  \
                                  long C, long G, long silu, long threads) {                                          \
    backward<T, A>(x, dy, gamma, beta, scale, shift, mean, rstd, dx, s, t, B, P, C, G, silu, threads);              \
  }

FOR_TYPE(float32, float, float)
FOR_TYPE(float64, double, double)
FOR_TYPE(bfloat16, bfloat16, float)
