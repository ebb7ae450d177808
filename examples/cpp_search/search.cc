// A search service: search MODEL CORPUS.jsonl [PORT [THREADS]]. Prints the port that it listens on; 0 takes a free one.
//
//   GET  /search?q=what+melts+ice&k=3      {"model": ..., "hits": [{"id", "score", "text"}, ...]}
//   POST /embed   {"texts": [...], "role": "query"}      {"dim": ..., "vectors": [[...], ...]}
//   POST /reload  {"model": "checkpoint-100"}      swaps the model; requests go on with the old one until the new is ready
#include "index.hpp"

#include <charconv>
#include <httplib.h>
#include <iostream>
#include <memory>
#include <mutex>

using nlohmann::json;

namespace {

void answer(httplib::Response &response, const json &body) { response.set_content(body.dump(), "application/json"); }

/// Whoever asks for something wrong hears what, as JSON.
template <class F> httplib::Server::Handler guarded(F body) {
    return [body](const httplib::Request &request, httplib::Response &response) {
        try {
            body(request, response);
        } catch (const std::exception &error) {
            response.status = 400;
            response.set_content(json{{"error", error.what()}}.dump(-1, ' ', false, json::error_handler_t::replace),
                                 "application/json");
        }
    };
}

bge_text_role role_of(const std::string &name) {
    if (name == "query") {
        return BGE_TEXT_ROLE_QUERY;
    }
    if (name == "passage") {
        return BGE_TEXT_ROLE_PASSAGE;
    }
    throw std::invalid_argument("role is \"query\" or \"passage\"");
}

/// How many hits are asked for: 10 where nothing is said.
std::size_t hits_of(const std::string &text) {
    std::size_t k = 10;
    const auto *const end = text.data() + text.size();
    const auto read = std::from_chars(text.data(), end, k);
    if (!text.empty() && (read.ec != std::errc() || read.ptr != end)) {
        throw std::invalid_argument("k is a number of hits, not \"" + text + "\"");
    }
    return k;
}

} // namespace

int main(int argc, char **argv) try {
    if (argc < 3) {
        std::cerr << "usage: search MODEL CORPUS.jsonl [PORT [THREADS]]\n";
        return 2;
    }
    const auto passages = read_corpus(argv[2]);
    // Readers copy the pointer and keep their index alive; the last of them frees an old one.
    auto current = std::make_shared<const Index>(argv[1], passages);
    std::mutex reloading;
    const auto index = [&current] { return std::atomic_load(&current); };

    httplib::Server server;
    const std::size_t threads = argc > 4 ? std::stoul(argv[4]) : 64;
    server.new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
    server.set_tcp_nodelay(true);
    server.set_payload_max_length(1 << 20);

    server.Get("/search", guarded([&](const httplib::Request &request, httplib::Response &response) {
        if (request.get_param_value("q").empty()) {
            throw std::invalid_argument("give a query: /search?q=...");
        }
        const auto k = hits_of(request.get_param_value("k"));
        const auto now = index();
        json hits = json::array();
        for (const auto &[place, score] : now->search(request.get_param_value("q"), k)) {
            hits.push_back({{"id", passages[place].id}, {"score", score}, {"text", passages[place].text}});
        }
        answer(response, {{"model", now->model()}, {"hits", hits}});
    }));
    server.Post("/embed", guarded([&](const httplib::Request &request, httplib::Response &response) {
        const auto body = json::parse(request.body);
        const auto texts = body.at("texts").get<std::vector<std::string>>();
        const auto now = index();
        const auto rows = now->encode(role_of(body.value("role", "query")), texts);
        json vectors = json::array();
        const auto dim = static_cast<std::ptrdiff_t>(now->dim());
        for (auto row = rows.begin(); row != rows.end(); row += dim) {
            vectors.push_back(std::vector<float>(row, row + dim));
        }
        answer(response, {{"dim", dim}, {"vectors", vectors}});
    }));
    server.Post("/reload", guarded([&](const httplib::Request &request, httplib::Response &response) {
        const auto model = json::parse(request.body).at("model").get<std::string>();
        const std::lock_guard<std::mutex> one_at_a_time(reloading);
        std::atomic_store(&current, std::make_shared<const Index>(model, passages));
        answer(response, {{"model", model}});
    }));

    const int wanted = argc > 3 ? std::stoi(argv[3]) : 8080;
    const int port = wanted == 0 ? server.bind_to_any_port("127.0.0.1") : wanted;
    if (port < 0 || (wanted != 0 && !server.bind_to_port("127.0.0.1", port))) {
        throw std::runtime_error("the port is taken");
    }
    std::cout << port << std::endl;
    return server.listen_after_bind() ? 0 : 1;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
