"""The C++ of `small_products`: a product of matrices whose sizes are template arguments."""

# Each element of C is one sum over k from 0 upwards of fused multiply-adds, whatever the sizes and the processor's
# vectors: the same bits for any number of lanes and threads.
SOURCE = """
#include <type_traits>

#ifndef METAEXP_SMALL_PRODUCTS
#define METAEXP_SMALL_PRODUCTS

// ROWS x VECTORS vectors of C in registers; the last vector has TAIL elements, or all if TAIL is 0.
template <typename T, int ROWS, int VECTORS, int TAIL, int K>
static inline void metaexp_block(
    const T* a, int64_t am, int64_t ak, const T* b, int64_t bk, T* c, int64_t cm) {
  using V = at::vec::Vectorized<T>;
  V sums[ROWS * VECTORS];
  c10::ForcedUnroll<ROWS * VECTORS>{}([&](auto i) { sums[i] = V(T(0)); });
  for (int64_t k = 0; k < K; ++k) {
    V row[VECTORS];
    c10::ForcedUnroll<VECTORS>{}([&](auto j) {
      if constexpr (j == VECTORS - 1 && TAIL > 0) {
        row[j] = V::loadu(b + k * bk + j * V::size(), TAIL);
      } else {
        row[j] = V::loadu(b + k * bk + j * V::size());
      }
    });
    c10::ForcedUnroll<ROWS>{}([&](auto i) {
      const V x(a[i * am + k * ak]);
      c10::ForcedUnroll<VECTORS>{}([&](auto j) {
        sums[i * VECTORS + j] = at::vec::fmadd(x, row[j], sums[i * VECTORS + j]);
      });
    });
  }
  c10::ForcedUnroll<ROWS>{}([&](auto i) {
    c10::ForcedUnroll<VECTORS>{}([&](auto j) {
      if constexpr (j == VECTORS - 1 && TAIL > 0) {
        sums[i * VECTORS + j].store(c + i * cm + j * V::size(), TAIL);
      } else {
        sums[i * VECTORS + j].store(c + i * cm + j * V::size());
      }
    });
  });
}

template <typename T, int M, int VECTORS, int TAIL, int K>
static inline void metaexp_columns(
    const T* a, int64_t am, int64_t ak, const T* b, int64_t bk, T* c, int64_t cm) {
  // Sums, a row of B and an element of A fit into 16 registers.
  constexpr int ROWS = VECTORS == 1 ? 8 : VECTORS == 2 ? 6 : VECTORS == 3 ? 4 : VECTORS == 4 ? 3 : 2;
  constexpr int WHOLE = M / ROWS * ROWS;
  for (int64_t m = 0; m < WHOLE; m += ROWS) {
    metaexp_block<T, ROWS, VECTORS, TAIL, K>(a + m * am, am, ak, b, bk, c + m * cm, cm);
  }
  if constexpr (M > WHOLE) {
    metaexp_block<T, M - WHOLE, VECTORS, TAIL, K>(a + WHOLE * am, am, ak, b, bk, c + WHOLE * cm, cm);
  }
}

template <typename T, int M, int N, int K>
static inline void metaexp_product(const T* a, int64_t am, int64_t ak, const T* b, int64_t bk, T* c) {
  constexpr int L = at::vec::Vectorized<T>::size();
  constexpr int VECTORS = (N + L - 1) / L, BLOCKS = (VECTORS + 4) / 5, WIDE = (VECTORS + BLOCKS - 1) / BLOCKS;
  constexpr int FULL = (VECTORS - 1) / WIDE, START = FULL * WIDE * L;
  for (int64_t n = 0; n < START; n += WIDE * L) {
    metaexp_columns<T, M, WIDE, 0, K>(a, am, ak, b + n, bk, c + n, N);
  }
  metaexp_columns<T, M, VECTORS - FULL * WIDE, N % L, K>(a, am, ak, b + START, bk, c + START, N);
}

// to[k * N + n] = b[k * bk + n * bn]
template <typename T, int N, int K>
static inline void metaexp_turn(const T* b, int64_t bk, int64_t bn, T* to) {
  int64_t n0 = 0;
  if constexpr (std::is_same_v<T, float>) {
    if (bk == 1) {
      for (; n0 + 8 <= N; n0 += 8) {
        for (int64_t k = 0; k + 8 <= K; k += 8) {
          at::vec::transpose_mxn<T, 8, 8>(b + n0 * bn + k, bn, to + k * N + n0, N);
        }
        for (int64_t n = n0; n < n0 + 8; ++n) {
          for (int64_t k = K / 8 * 8; k < K; ++k) to[k * N + n] = b[k + n * bn];
        }
      }
    }
  }
  for (int64_t n = n0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) to[k * N + n] = b[k * bk + n * bn];
  }
}

template <typename T, int BATCH, int M, int N, int K>
static inline void metaexp_products(
    const T* a, int64_t a0, int64_t am, int64_t ak, const T* b, int64_t b0, int64_t bk, int64_t bn, T* c) {
  alignas(64) T turned[K * N];
  for (int64_t i = 0; i < BATCH; ++i) {
    const T* one = b + i * b0;
    int64_t step = bk;
    if (bn != 1) {
      if (i == 0 || b0 != 0) metaexp_turn<T, N, K>(one, bk, bn, turned);
      one = turned;
      step = N;
    }
    metaexp_product<T, M, N, K>(a + i * a0, am, ak, one, step, c + i * M * N);
  }
}
#endif
"""

KERNEL = """
extern "C"
{head}
{{
    metaexp_products<{kind}, {batch}, {m}, {n}, {k}>({a}, {a_strides}, {b}, {b_strides}, c);
}}
"""
