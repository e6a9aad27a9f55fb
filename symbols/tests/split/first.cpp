// A program of two units, so that its debug info is in two files: built by build.sh.
namespace shop {
int price(int item);

struct Basket {
  int items[4];
  int count;
  int total() const;
};

static inline __attribute__((always_inline)) int discount(int sum) {
  if (sum > 100) {
    return sum - sum / 10;
  }
  return sum;
}

__attribute__((noinline)) int Basket::total() const {
  int sum = 0;
  for (int i = 0; i < count; i++) {
    sum += price(items[i]);
  }
  return discount(sum);
}
}  // namespace shop

extern "C" __attribute__((export_name("run"))) int run(int n) {
  shop::Basket basket = {{n, n + 1, n + 2, n + 3}, 4};
  return basket.total();
}
