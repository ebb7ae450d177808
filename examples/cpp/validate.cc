// Checks training data: validate FILE_OR_FOLDER [GROUP_SIZE]. Prints the report as JSON.
#include <bge.hpp>
#include <iostream>

int main(int argc, char **argv) try {
    if (argc < 2) {
        std::cerr << "usage: validate FILE_OR_FOLDER [GROUP_SIZE]\n";
        return 2;
    }
    bge::Config config(BGE_CONFIG_KIND_FINETUNE);
    config.set("train_data", argv[1]).set("train_group_size", argc > 2 ? argv[2] : "8");
    std::cout << bge::validate(config) << '\n';
    return 0;
} catch (const bge::Error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
