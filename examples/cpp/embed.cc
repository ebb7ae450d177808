// Prints the vectors of queries, one line a text, each number as the eight digits of its bits: embed MODEL TEXT...
#include <bge.hpp>
#include <cstdio>
#include <cstring>
#include <iostream>

int main(int argc, char **argv) try {
    if (argc < 3) {
        std::cerr << "usage: embed MODEL TEXT...\n";
        return 2;
    }
    bge::Config config(BGE_CONFIG_KIND_EMBED);
    config.set("embedder_name_or_path", argv[1]);
    const bge::Embedder embedder(config);
    const auto rows = embedder.encode(BGE_TEXT_ROLE_QUERY, std::vector<std::string>(argv + 2, argv + argc));
    for (std::size_t i = 0; i < rows.size(); ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, &rows[i], sizeof bits);
        std::printf("%08lx%c", static_cast<unsigned long>(bits), (i + 1) % embedder.dim() == 0 ? '\n' : ' ');
    }
    return 0;
} catch (const bge::Error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
