"""The C++ of `gru_kernel`: all steps of a recurrent unit for a block of tasks, whose sizes are template arguments."""

# Tasks do not meet, so the steps of one block of tasks run one after the other while its sums stay in the cache; every
# number is the same for any number of tasks and threads. `metaexp_product` is that of `small_products_source`.
GRU = """
#ifndef METAEXP_GRU
#define METAEXP_GRU

// sigmoid; with the vectors' exponential of 2 units of rounding
template <typename V>
static inline V metaexp_sigmoid(const V& x) {
  return V(1) / (V(1) + x.neg().exp_u20());
}

// tanh(x) = 2 sigmoid(2 x) - 1: absolute error of a unit of rounding
template <typename V>
static inline V metaexp_tanh(const V& x) {
  return V(2) / (V(1) + (x * V(-2)).exp_u20()) - V(1);
}

// body(place, count) for every vector of a row of N elements
template <typename T, int N, typename F>
static inline void metaexp_vectors(F&& body) {
  constexpr int L = at::vec::Vectorized<T>::size();
  for (int j = 0; j + L <= N; j += L) body(j, std::integral_constant<int, L>());
  if constexpr (N % L != 0) body(N / L * L, std::integral_constant<int, N % L>());
}

template <typename T, int M, int H>
static inline void metaexp_gru_block(int64_t steps, int64_t tasks, const T* into, const T* first, const T* turned,
                                     const T* bias, T* h, T* gates, T* kept, T* fresh) {
  using V = at::vec::Vectorized<T>;
  alignas(64) T sums[M * 3 * H];
  for (int64_t i = 0; i < M * H; ++i) h[i] = first[i];
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t at = t * tasks * H;
    metaexp_product<T, M, 3 * H, H>(h + at, H, 1, turned, 3 * H, sums);
    for (int64_t i = 0; i < M; ++i) {
      const T *x = into + 3 * (at + i * H), *s = sums + 3 * i * H, *before = h + at + i * H;
      T *after = h + at + (tasks + i) * H, *gate = gates + 2 * (at + i * H);
      metaexp_vectors<T, H>([&](int j, auto count) {
        constexpr int C = decltype(count)::value;
        auto sum = [&](int part) { return V::loadu(s + part * H + j, C) + V::loadu(bias + part * H + j, C); };
        const V reset = metaexp_sigmoid(V::loadu(x + j, C) + sum(0));
        const V update = metaexp_sigmoid(V::loadu(x + H + j, C) + sum(1));
        const V keeps = sum(2);
        const V made = metaexp_tanh(at::vec::fmadd(reset, keeps, V::loadu(x + 2 * H + j, C)));
        reset.store(gate + j, C);
        update.store(gate + H + j, C);
        keeps.store(kept + at + i * H + j, C);
        made.store(fresh + at + i * H + j, C);
        at::vec::fmadd(update, V::loadu(before + j, C) - made, made).store(after + j, C);
      });
    }
  }
}

template <typename T, int M, int H>
static inline void metaexp_gru_back_block(int64_t steps, int64_t tasks, const T* grad, const T* weight, const T* h,
                                          const T* gates, const T* kept, const T* fresh, T* into, T* sums, T* first) {
  using V = at::vec::Vectorized<T>;
  alignas(64) T carried[M * H], through[M * H];
  for (int64_t i = 0; i < M * H; ++i) carried[i] = 0;
  for (int64_t t = steps - 1; t >= 0; --t) {
    const int64_t at = t * tasks * H;
    for (int64_t i = 0; i < M; ++i) {
      const int64_t row = at + i * H;
      metaexp_vectors<T, H>([&](int j, auto count) {
        constexpr int C = decltype(count)::value;
        const V one(1), reset = V::loadu(gates + 2 * row + j, C), update = V::loadu(gates + 2 * row + H + j, C);
        const V made = V::loadu(fresh + row + j, C);
        const V g = V::loadu(grad + row + j, C) + V::loadu(carried + i * H + j, C);
        const V after = update * g;
        const V by_made = (g - after) * (one - made * made);
        const V by_update = (V::loadu(h + row + j, C) - made) * after * (one - update);
        const V passed = by_made * reset;
        const V by_reset = passed * V::loadu(kept + row + j, C) * (one - reset);
        after.store(carried + i * H + j, C);
        by_reset.store(into + 3 * row + j, C);
        by_update.store(into + 3 * row + H + j, C);
        by_made.store(into + 3 * row + 2 * H + j, C);
        by_reset.store(sums + 3 * row + j, C);
        by_update.store(sums + 3 * row + H + j, C);
        passed.store(sums + 3 * row + 2 * H + j, C);
      });
    }
    metaexp_product<T, M, H, 3 * H>(sums + 3 * at, 3 * H, 1, weight, H, through);
    for (int64_t i = 0; i < M * H; ++i) carried[i] += through[i];
  }
  for (int64_t i = 0; i < M * H; ++i) first[i] = carried[i];
}

// body(first task, number of tasks) for all blocks of M tasks, spread over the threads
template <int TASKS, int M, typename F>
static inline void metaexp_blocks(int threads, F&& body) {
  constexpr int64_t WHOLE = TASKS / M;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t block = 0; block < WHOLE; ++block) body(block * M, std::integral_constant<int, M>());
  if constexpr (TASKS % M != 0) body(WHOLE * M, std::integral_constant<int, TASKS % M>());
}

template <typename T, int STEPS, int TASKS, int H, int BLOCK>
static inline void metaexp_gru(int threads, const T* into, const T* first, const T* turned, const T* bias, T* made) {
  constexpr int64_t ONE = int64_t(STEPS) * TASKS * H;
  T *h = made, *gates = h + ONE + TASKS * H, *kept = gates + 2 * ONE, *fresh = kept + ONE;
  metaexp_blocks<TASKS, BLOCK>(threads, [&](int64_t task, auto count) {
    metaexp_gru_block<T, decltype(count)::value, H>(
        STEPS, TASKS, into + 3 * task * H, first + task * H, turned, bias, h + task * H, gates + 2 * task * H,
        kept + task * H, fresh + task * H);
  });
}

template <typename T, int STEPS, int TASKS, int H, int BLOCK>
static inline void metaexp_gru_back(int threads, const T* grad, const T* made, const T* weight, T* result) {
  constexpr int64_t ONE = int64_t(STEPS) * TASKS * H;
  const T *h = made, *gates = h + ONE + TASKS * H, *kept = gates + 2 * ONE, *fresh = kept + ONE;
  T *into = result, *sums = into + 3 * ONE, *first = sums + 3 * ONE;
  metaexp_blocks<TASKS, BLOCK>(threads, [&](int64_t task, auto count) {
    metaexp_gru_back_block<T, decltype(count)::value, H>(
        STEPS, TASKS, grad + task * H, weight, h + task * H, gates + 2 * task * H, kept + task * H, fresh + task * H,
        into + 3 * task * H, sums + 3 * task * H, first + task * H);
  });
}
#endif
"""

FORWARD = """
extern "C"
{head}
{{
    metaexp_gru<{kind}, {steps}, {tasks}, {hidden}, {block}>({threads}, {into}, {first}, {turned}, {bias}, made);
}}
"""

BACKWARD = """
extern "C"
{head}
{{
    metaexp_gru_back<{kind}, {steps}, {tasks}, {hidden}, {block}>({threads}, {grad}, {made}, {weight}, result);
}}
"""
