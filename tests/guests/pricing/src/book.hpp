// The order book of the guest `pricing`: price levels, and matching by price and time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace pricing {

enum class Side : std::uint8_t { Buy, Sell };

/// Prices are in cents, quantities in pieces.
struct Order {
    std::string id;
    std::string trader;
    Side side = Side::Buy;
    std::int64_t price_cents = 0;
    std::int64_t quantity = 0;
};

/// What a match makes: `quantity` pieces at the price of the order that waited.
struct Trade {
    std::string buyer;
    std::string seller;
    std::int64_t price_cents = 0;
    std::int64_t quantity = 0;
};

/// One instrument. Orders of a level wait in the order in which they came.
class Book {
public:
    /// Matches the order against the other side; what is left of it waits.
    /// Returns how many trades that made.
    std::size_t submit(Order order);

    [[nodiscard]] const std::vector<Trade>& trades() const { return trades_; }
    [[nodiscard]] std::size_t waiting() const { return waiting_; }
    /// 0 where no order waits on that side.
    [[nodiscard]] std::int64_t best_bid() const;
    [[nodiscard]] std::int64_t best_ask() const;

private:
    using Level = std::vector<Order>;
    using Bids = std::map<std::int64_t, Level, std::greater<>>;
    using Asks = std::map<std::int64_t, Level>;

    template <class Levels, class Crosses>
    std::size_t match(Order& taker, Levels& levels, Crosses crosses);
    void fill(Order& taker, Order& maker);

    Bids bids_;
    Asks asks_;
    std::vector<Trade> trades_;
    std::size_t waiting_ = 0;
};

}  // namespace pricing
