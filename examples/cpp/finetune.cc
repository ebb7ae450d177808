// Fine-tunes: finetune "--model_name_or_path MODEL --train_data FILE --output_dir FOLDER ..." [STOP_AFTER].
#include <bge.hpp>
#include <iostream>
#include <limits>

int main(int argc, char **argv) try {
    if (argc < 2) {
        std::cerr << "usage: finetune FLAGS [STOP_AFTER]\n";
        return 2;
    }
    const auto stop_after = argc > 2 ? std::stoull(argv[2]) : std::numeric_limits<unsigned long long>::max();
    const auto config = bge::Config::parse(BGE_CONFIG_KIND_FINETUNE, BGE_FORMAT_FLAGS, argv[1]);
    const bge::Trainer trainer(config);
    std::cout << trainer.run([&](const bge::Event &event) {
        if (event.kind != BGE_EVENT_KIND_STEP) {
            return true;
        }
        std::cout << event.json << '\n';
        return event.done < stop_after; // false ends the run with a checkpoint
    }) << '\n';
    return 0;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
