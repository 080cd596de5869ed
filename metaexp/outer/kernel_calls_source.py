"""The C++ around the calls that `kernel_calls` writes."""

# CALLS, DECLARATIONS, SORT and ABOUT are filled in. A kernel's exception (an index out of bounds) becomes a message.
PROGRAM = """
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>

SORT
extern "C" {
DECLARATIONS

const char* metaexp_about() { return ABOUT; }

int metaexp_run(void* const* inputs, void* const* results, char* memory, char* problem, size_t space) {
  try {
    CALLS
  } catch (const std::exception& e) {
    strncpy(problem, e.what(), space - 1);
    return 1;
  } catch (...) {
    return 1;
  }
  return 0;
}
}
"""

# The stable order of each row of integers. A short row: the place of each key is the number of keys in front of it,
# counted in vectors. A long one: byte by byte from the lowest (radix sort), without bytes in which all keys agree.
SORT = """
static void metaexp_sort_short(const int64_t* keys, int64_t* values, int64_t* places, int64_t* space, int64_t n) {
  constexpr int64_t L = 4;
  typedef int64_t V __attribute__((vector_size(8 * L), aligned(8)));
  const int64_t padded = (n + L - 1) / L * L;
  int64_t *key = space, *number = space + padded;
  for (int64_t i = 0; i < padded; ++i) {
    key[i] = i < n ? keys[i] : INT64_MAX;
    number[i] = i;
  }
  for (int64_t i = 0; i < n; ++i) {
    const V mine = keys[i] - V{}, at = i - V{};
    V smaller = {};
    for (int64_t j = 0; j < padded; j += L) {
      const V k = *(const V*)(key + j), m = *(const V*)(number + j);
      smaller -= (k < mine) | ((k == mine) & (m < at));
    }
    int64_t place = 0;
    for (int64_t l = 0; l < L; ++l) place += smaller[l];
    values[place] = keys[i];
    places[place] = i;
  }
}

static void metaexp_sort_long(const int64_t* keys, int64_t* values, int64_t* places, int64_t* space, int64_t n) {
  constexpr uint64_t SIGN = uint64_t(1) << 63;  // negative numbers come first
  uint64_t* key[2] = {(uint64_t*)space, (uint64_t*)space + n};
  int64_t* place[2] = {space + 2 * n, space + 3 * n};
  uint64_t differing = 0;
  for (int64_t i = 0; i < n; ++i) {
    key[0][i] = (uint64_t)keys[i] ^ SIGN;
    place[0][i] = i;
    differing |= key[0][i] ^ key[0][0];
  }
  int from = 0;
  for (int shift = 0; shift < 64; shift += 8) {
    if (!(differing >> shift & 255)) continue;
    int64_t starts[256] = {0}, sum = 0;
    for (int64_t i = 0; i < n; ++i) ++starts[key[from][i] >> shift & 255];
    for (int64_t digit = 0; digit < 256; ++digit) {
      const int64_t count = starts[digit];
      starts[digit] = sum;
      sum += count;
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t to = starts[key[from][i] >> shift & 255]++;
      key[1 - from][to] = key[from][i];
      place[1 - from][to] = place[from][i];
    }
    from = 1 - from;
  }
  for (int64_t i = 0; i < n; ++i) {
    values[i] = (int64_t)(key[from][i] ^ SIGN);
    places[i] = place[from][i];
  }
}

static void metaexp_sort(
    const int64_t* keys, int64_t* values, int64_t* places, int64_t* space, int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row) {
    (n <= 128 ? metaexp_sort_short : metaexp_sort_long)(keys + row * n, values + row * n, places + row * n, space, n);
  }
}
"""
