// The guest `pricing`: an order book in C++17, as exchanges and ad auctions run it.
//
// `pricing [--generate N [SEED]]` reads orders from stdin, one per line as
//
//     INSTRUMENT,TRADER,buy|sell,PRICE,QUANTITY        e.g. ACME,t17,buy,101.25,300
//
// or makes N of them itself, matches them, and prints totals per instrument and the
// traders with the highest turnover. Lines that are no orders are counted and skipped.
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <map>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "book.hpp"

namespace {

using pricing::Book;
using pricing::Order;
using pricing::Side;

constexpr std::int64_t kMostCents = 100'000'000;
constexpr std::int64_t kMostPieces = 1'000'000;
constexpr std::size_t kTopTraders = 5;

struct Market {
    std::map<std::string, Book> books;
    std::uint64_t orders = 0;
    std::uint64_t rejected = 0;
};

std::vector<std::string_view> split(std::string_view line, char separator) {
    std::vector<std::string_view> fields;
    for (;;) {
        const std::size_t end = line.find(separator);
        fields.push_back(line.substr(0, end));
        if (end == std::string_view::npos) {
            return fields;
        }
        line.remove_prefix(end + 1);
    }
}

template <class Number>
std::optional<Number> parse_number(std::string_view text) {
    Number number = 0;
    const char* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, number);
    if (result.ec != std::errc() || result.ptr != end) {
        return std::nullopt;
    }
    return number;
}

/// "101.25" -> 10125; at most two digits behind the point.
std::optional<std::int64_t> parse_cents(std::string_view text) {
    const std::size_t point = text.find('.');
    const auto whole = parse_number<std::int64_t>(text.substr(0, point));
    if (!whole || *whole < 0 || *whole > kMostCents / 100) {
        return std::nullopt;
    }
    if (point == std::string_view::npos) {
        return *whole * 100;
    }
    const std::string_view digits = text.substr(point + 1);
    const auto part = parse_number<std::uint32_t>(digits);
    if (!part || digits.size() > 2) {
        return std::nullopt;
    }
    return *whole * 100 + (digits.size() == 1 ? *part * 10 : *part);
}

/// The instrument and the order of a line, if it is one.
[[gnu::noinline]] std::optional<std::pair<std::string, Order>> parse_order(std::string_view line) {
    const std::vector<std::string_view> fields = split(line, ',');
    if (fields.size() != 5 || fields[0].empty() || fields[1].empty()) {
        return std::nullopt;
    }
    const auto price = parse_cents(fields[3]);
    const auto quantity = parse_number<std::int64_t>(fields[4]);
    const bool known = fields[2] == "buy" || fields[2] == "sell";
    if (!known || !price || !quantity || *quantity < 1 || *quantity > kMostPieces) {
        return std::nullopt;
    }
    Order order;
    order.trader = std::string(fields[1]);
    order.side = fields[2] == "buy" ? Side::Buy : Side::Sell;
    order.price_cents = *price;
    order.quantity = *quantity;
    return std::make_pair(std::string(fields[0]), std::move(order));
}

void ingest(Market& market, std::string_view line) {
    if (line.empty()) {
        return;
    }
    auto parsed = parse_order(line);
    if (!parsed) {
        ++market.rejected;
        return;
    }
    auto& [instrument, order] = *parsed;
    order.id = instrument + "-" + std::to_string(++market.orders);
    market.books[instrument].submit(std::move(order));
}

/// Orders around prices that wander; the same seed makes the same orders.
class Generator {
public:
    explicit Generator(std::uint64_t seed) : state_(seed) {}

    std::string next_line() {
        static const char* const instruments[] = {"ACME", "GLOBEX", "HOOLI", "INITECH", "UMBRELLA"};
        const std::size_t which = below(std::size(instruments));
        cents_[which] += static_cast<std::int64_t>(below(21)) - 10;
        cents_[which] = std::clamp<std::int64_t>(cents_[which], 1'000, 50'000);
        const bool buys = below(2) == 0;
        const std::int64_t offset = static_cast<std::int64_t>(below(120)) - 30;
        const std::int64_t cents = cents_[which] + (buys ? -offset : offset);
        char line[96];
        std::snprintf(line, sizeof line, "%s,t%u,%s,%lld.%02lld,%u", instruments[which],
                      static_cast<unsigned>(below(40)), buys ? "buy" : "sell",
                      static_cast<long long>(cents / 100), static_cast<long long>(cents % 100),
                      static_cast<unsigned>(10 + below(500)));
        return line;
    }

private:
    // SplitMix64 (Steele, Lea, Flood 2014).
    std::uint64_t next() {
        std::uint64_t z = (state_ += 0x9e3779b97f4a7c15);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }
    std::uint64_t below(std::uint64_t bound) { return next() % bound; }

    std::uint64_t state_;
    std::int64_t cents_[5] = {10'125, 4'550, 23'000, 1'890, 7'777};
};

bool read_line(std::string& line) {
    line.clear();
    for (int c = std::getchar(); c != EOF; c = std::getchar()) {
        if (c == '\n') {
            return true;
        }
        line.push_back(static_cast<char>(c));
    }
    return !line.empty();
}

[[gnu::noinline]] void report(const Market& market) {
    std::printf("%llu orders, %llu rejected\n", static_cast<unsigned long long>(market.orders),
                static_cast<unsigned long long>(market.rejected));
    std::printf("%-10s %8s %10s %10s %10s %10s %8s\n", "instrument", "trades", "pieces", "mean",
                "best bid", "best ask", "waiting");
    std::map<std::string, std::int64_t> turnover;
    for (const auto& [instrument, book] : market.books) {
        std::int64_t pieces = 0;
        std::int64_t cents = 0;
        for (const auto& trade : book.trades()) {
            const std::int64_t value = trade.price_cents * trade.quantity;
            pieces += trade.quantity;
            cents += value;
            turnover[trade.buyer] += value;
            turnover[trade.seller] += value;
        }
        const double mean = pieces > 0 ? static_cast<double>(cents) / 100.0 / pieces : 0.0;
        std::printf("%-10s %8zu %10lld %10.2f %10.2f %10.2f %8zu\n", instrument.c_str(),
                    book.trades().size(), static_cast<long long>(pieces), mean,
                    book.best_bid() / 100.0, book.best_ask() / 100.0, book.waiting());
    }
    std::vector<std::pair<std::string, std::int64_t>> traders(turnover.begin(), turnover.end());
    const std::size_t shown = std::min(kTopTraders, traders.size());
    std::partial_sort(traders.begin(), traders.begin() + shown, traders.end(),
                      [](const auto& a, const auto& b) {
                          return a.second != b.second ? a.second > b.second : a.first < b.first;
                      });
    for (std::size_t i = 0; i < shown; ++i) {
        std::printf("%zu. %-6s %14.2f\n", i + 1, traders[i].first.c_str(),
                    traders[i].second / 100.0);
    }
}

int usage() {
    std::fputs("usage: pricing [--generate N [SEED]] < ORDERS.csv\n", stderr);
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string_view> args(argv + 1, argv + argc);
    Market market;
    if (args.empty()) {
        for (std::string line; read_line(line);) {
            ingest(market, line);
        }
    } else {
        if (args[0] != "--generate" || args.size() < 2 || args.size() > 3) {
            return usage();
        }
        const auto count = parse_number<std::uint64_t>(args[1]);
        const auto seed = parse_number<std::uint64_t>(args.size() > 2 ? args[2] : "1");
        if (!count || !seed) {
            return usage();
        }
        Generator generator(*seed);
        for (std::uint64_t i = 0; i < *count; ++i) {
            ingest(market, generator.next_line());
        }
    }
    report(market);
    return 0;
}
