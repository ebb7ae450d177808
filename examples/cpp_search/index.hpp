// A model and the corpus that it has encoded: never changed once made, so that any number of threads may search.
#pragma once

#include <bge.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct Passage {
    std::string id, text;
};

/// Reads a line of a corpus as bge does: an id is text or a whole number, and the title, if there is one, stands before the text.
inline Passage read_passage(const std::string &line) {
    const auto row = nlohmann::json::parse(line);
    const auto &id = row.contains("_id") ? row.at("_id") : row.at("id");
    const auto title = row.value("title", nlohmann::json());
    const auto text = (title.is_null() ? "" : title.get<std::string>() + " ") + row.at("text").get<std::string>();
    const auto *const blank = " \t\r\n";
    const auto begin = std::min(text.find_first_not_of(blank), text.size());
    const auto end = text.find_last_not_of(blank) + 1;
    return {id.is_number_integer() ? id.dump() : id.get<std::string>(), text.substr(begin, end - begin)};
}

/// Reads a BEIR corpus.jsonl.
inline std::vector<Passage> read_corpus(const std::string &path) {
    std::ifstream file(path);
    if (!file) {
        throw std::runtime_error(path + ": cannot be read");
    }
    std::vector<Passage> passages;
    std::size_t number = 0;
    for (std::string line; std::getline(file, line);) {
        ++number;
        if (line.find_first_not_of(" \t\r") == std::string::npos) {
            continue;
        }
        try {
            passages.push_back(read_passage(line));
        } catch (const nlohmann::json::exception &error) {
            throw std::runtime_error(path + ":" + std::to_string(number) + ": " + error.what());
        }
    }
    return passages;
}

class Index {
public:
    Index(const std::string &model, const std::vector<Passage> &passages) : model_(model), embedder_(open(model)) {
        std::vector<std::string> texts;
        for (const auto &passage : passages) {
            texts.push_back(passage.text);
        }
        rows_ = embedder_.encode(BGE_TEXT_ROLE_PASSAGE, texts);
    }

    const std::string &model() const { return model_; }

    std::vector<float> encode(bge_text_role role, const std::vector<std::string> &texts) const {
        return embedder_.encode(role, texts);
    }

    std::size_t dim() const { return embedder_.dim(); }

    /// The nearest passages, best first: place in the corpus and score.
    std::vector<std::pair<std::size_t, float>> search(const std::string &query, std::size_t k) const {
        const auto vector = embedder_.encode(BGE_TEXT_ROLE_QUERY, {query});
        std::vector<std::pair<std::size_t, float>> hits(rows_.size() / dim());
        for (std::size_t i = 0; i < hits.size(); ++i) {
            const auto row = rows_.begin() + static_cast<std::ptrdiff_t>(i * dim());
            hits[i] = {i, std::inner_product(vector.begin(), vector.end(), row, 0.0f)};
        }
        k = std::min(k, hits.size());
        const auto better = [](const auto &a, const auto &b) {
            return a.second != b.second ? a.second > b.second : a.first < b.first;
        };
        std::partial_sort(hits.begin(), hits.begin() + static_cast<std::ptrdiff_t>(k), hits.end(), better);
        hits.resize(k);
        return hits;
    }

private:
    static bge::Embedder open(const std::string &model) {
        bge::Config config(BGE_CONFIG_KIND_EMBED);
        config.set("embedder_name_or_path", model);
        bge::Embedder embedder(config);
        // Requests of several connections become one batch; under load the next one gathers while one is computed.
        embedder.coalesce(32, 500);
        return embedder;
    }

    std::string model_;
    bge::Embedder embedder_;
    std::vector<float> rows_;
};
