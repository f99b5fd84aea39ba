// Tables that grow, in C++. What each function copies follows from how it is written; `tests/tests/patterns.rs` has the sums.
#include <algorithm>
#include <cstddef>
#include <vector>

#define SITE __attribute__((noinline, noclone))

struct Item {
    long a, b, c;
};

struct Table {
    Item *items = nullptr;
    std::size_t count = 0;
};

// One more item of 24 bytes: a new array, a copy, delete[].
SITE static void append_array(Table &table) {
    Item *items = new Item[table.count + 1];
    std::copy_n(table.items, table.count, items);
    delete[] table.items;
    table.items = items;
    table.count++;
}

// The library reallocates for exactly one more.
SITE static void append_reserved(std::vector<Item> &table) {
    table.reserve(table.size() + 1);
    table.push_back(Item{1, 2, 3});
}

// A copy that is one longer takes the place of the vector.
SITE static void append_rebuilt(std::vector<double> &table) {
    std::vector<double> longer;
    longer.reserve(table.size() + 1);
    longer.assign(table.begin(), table.end());
    longer.push_back(0.5);
    table.swap(longer);
}

// Amortised: nothing is to be said.
SITE static void push_plain(std::vector<Item> &table) {
    table.push_back(Item{1, 2, 3});
}

SITE static void push_resized(std::vector<int> &table) {
    table.resize(table.size() + 1);
}

int main() {
    Table table;
    for (int round = 0; round < 150; round++)
        append_array(table);
    delete[] table.items;

    std::vector<Item> reserved, plain;
    std::vector<double> rebuilt;
    std::vector<int> resized;
    for (int round = 0; round < 100; round++) {
        append_reserved(reserved);
        append_rebuilt(rebuilt);
    }
    for (int round = 0; round < 30000; round++) {
        push_plain(plain);
        push_resized(resized);
    }
    return static_cast<int>(reserved.size() + rebuilt.size() - 200 + plain.size() - resized.size());
}
