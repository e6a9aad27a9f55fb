// The other unit of the program.
namespace shop {
template <typename T>
static inline __attribute__((always_inline)) T clamp(T value, T low, T high) {
  return value < low ? low : value > high ? high : value;
}

__attribute__((noinline)) int price(int item) {
  int cents = item * 7;
  return clamp<int>(cents, 10, 99) + clamp<long long>(item, 0, 5);
}
}  // namespace shop
