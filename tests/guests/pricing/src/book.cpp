// Matching: the best price first, within a price the oldest order first.
#include "book.hpp"

#include <algorithm>
#include <utility>

namespace pricing {

std::size_t Book::submit(Order order) {
    const std::int64_t limit = order.price_cents;
    std::size_t made = 0;
    if (order.side == Side::Buy) {
        made = match(order, asks_, [limit](std::int64_t ask) { return ask <= limit; });
    } else {
        made = match(order, bids_, [limit](std::int64_t bid) { return bid >= limit; });
    }
    if (order.quantity > 0) {
        ++waiting_;
        if (order.side == Side::Buy) {
            bids_[limit].push_back(std::move(order));
        } else {
            asks_[limit].push_back(std::move(order));
        }
    }
    return made;
}

template <class Levels, class Crosses>
std::size_t Book::match(Order& taker, Levels& levels, Crosses crosses) {
    std::size_t made = 0;
    while (taker.quantity > 0 && !levels.empty() && crosses(levels.begin()->first)) {
        auto best = levels.begin();
        auto& level = best->second;
        auto maker = level.begin();
        while (maker != level.end() && taker.quantity > 0) {
            fill(taker, *maker);
            ++made;
            if (maker->quantity == 0) {
                ++maker;
            }
        }
        waiting_ -= static_cast<std::size_t>(maker - level.begin());
        level.erase(level.begin(), maker);
        if (level.empty()) {
            levels.erase(best);
        }
    }
    return made;
}

[[gnu::noinline]] void Book::fill(Order& taker, Order& maker) {
    const std::int64_t quantity = std::min(taker.quantity, maker.quantity);
    taker.quantity -= quantity;
    maker.quantity -= quantity;
    const bool buys = taker.side == Side::Buy;
    trades_.push_back({buys ? taker.trader : maker.trader, buys ? maker.trader : taker.trader,
                       maker.price_cents, quantity});
}

std::int64_t Book::best_bid() const { return bids_.empty() ? 0 : bids_.begin()->first; }

std::int64_t Book::best_ask() const { return asks_.empty() ? 0 : asks_.begin()->first; }

}  // namespace pricing
