// bge for C++17 and later: bge.h with destructors, std::string_view and exceptions. Header only; link as bge.h says.
//
// Objects are moved, not copied; they free themselves. A failed call throws bge::Error. What bge.h says on threads holds:
// const member functions may be called by any number of threads at once. A callback must not throw: it answers false to stop.
#ifndef BGE_HPP
#define BGE_HPP

#include <bge.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bge {

inline bge_str borrow(std::string_view text) noexcept {
    bge_str borrowed;
    borrowed.data = reinterpret_cast<const std::uint8_t *>(text.data());
    borrowed.len = text.size();
    return borrowed;
}

inline std::string_view view(bge_str text) noexcept {
    return {reinterpret_cast<const char *>(text.data), text.len};
}

/// What went wrong: `what()` is the whole message; status, place and findings are apart.
class Error : public std::runtime_error {
public:
    /// Takes over `error`, which may be null.
    Error(bge_status status, bge_error *error)
        : std::runtime_error(std::string(view(bge_error_message(error)))), status_(status),
          path_(view(bge_error_path(error))), field_(view(bge_error_field(error))),
          issues_(view(bge_error_issues(error))), line_(bge_error_line(error)) {
        bge_error_free(error);
    }

    bge_status status() const noexcept { return status_; }
    const std::string &path() const noexcept { return path_; }
    const std::string &field() const noexcept { return field_; }
    /// Everything that is wrong with settings, as a JSON array.
    const std::string &issues() const noexcept { return issues_; }
    /// Counted from 1; 0 where there is none.
    std::uint64_t line() const noexcept { return line_; }

private:
    bge_status status_;
    std::string path_, field_, issues_;
    std::uint64_t line_;
};

/// Something that happened; borrowed for the call of the listener.
struct Event {
    bge_event_kind kind;
    std::string_view stage, json;
    std::uint64_t done, total;
};

/// Answers true to go on and false to stop.
using Listener = std::function<bool(const Event &)>;

namespace detail {

template <auto Free> struct Deleter {
    template <class T> void operator()(T *object) const noexcept { Free(object); }
};

template <class T, auto Free> using Owner = std::unique_ptr<T, Deleter<Free>>;

/// Calls a function whose last parameter is the error.
template <class F, class... A> void call(F function, A... arguments) {
    bge_error *error = nullptr;
    const auto status = function(arguments..., &error);
    if (status != BGE_STATUS_OK) {
        throw Error(static_cast<bge_status>(status), error);
    }
}

/// Calls a function whose last parameters are a text and the error.
template <class F, class... A> std::string text(F function, A... arguments) {
    bge_text *out = nullptr;
    call(function, arguments..., &out);
    const Owner<bge_text, bge_text_free> owner(out);
    return std::string(view(bge_text_view(out)));
}

inline bool hear(void *listener, const bge_event *event) noexcept {
    return (*static_cast<const Listener *>(listener))(Event{static_cast<bge_event_kind>(event->kind),
                                                            view(event->stage), view(event->json), event->done,
                                                            event->total});
}

inline bge_event_fn callback(const Listener &listener) noexcept { return listener ? hear : nullptr; }
inline void *data(const Listener &listener) noexcept { return const_cast<Listener *>(&listener); }

inline std::vector<bge_str> borrow_all(const std::vector<std::string> &texts) {
    std::vector<bge_str> borrowed;
    borrowed.reserve(texts.size());
    for (const auto &item : texts) {
        borrowed.push_back(borrow(item));
    }
    return borrowed;
}

} // namespace detail

inline std::string_view version() noexcept { return view(bge_version()); }

/// Settings of one command, by name.
class Config {
public:
    explicit Config(bge_config_kind kind) {
        bge_abi_1();
        bge_config *made = nullptr;
        detail::call(bge_config_new, kind, &made);
        handle_.reset(made);
    }
    static Config parse(bge_config_kind kind, bge_format format, std::string_view text) {
        bge_config *made = nullptr;
        detail::call(bge_config_parse, kind, format, borrow(text), &made);
        return Config(made);
    }
    static Config parse_file(bge_config_kind kind, std::string_view path) {
        bge_config *made = nullptr;
        detail::call(bge_config_parse_file, kind, borrow(path), &made);
        return Config(made);
    }
    Config &set(std::string_view name, std::string_view value) {
        detail::call(bge_config_set, handle_.get(), borrow(name), borrow(value));
        return *this;
    }
    /// The value as JSON.
    std::string get(std::string_view name) const { return detail::text(bge_config_get, handle_.get(), borrow(name)); }
    /// `{"ok": ..., "issues": [...]}`.
    std::string check() const { return detail::text(bge_config_check, handle_.get()); }
    std::string render(bge_format format) const { return detail::text(bge_config_render, handle_.get(), format); }
    std::string schema() const { return detail::text(bge_config_schema, handle_.get()); }
    const bge_config *get() const noexcept { return handle_.get(); }

private:
    explicit Config(bge_config *made) : handle_(made) { bge_abi_1(); }
    detail::Owner<bge_config, bge_config_free> handle_;
};

/// Texts to vectors; const functions from any number of threads.
class Embedder {
public:
    explicit Embedder(const Config &config) {
        bge_embedder *made = nullptr;
        detail::call(bge_embedder_open, config.get(), &made);
        handle_.reset(made);
    }
    /// Joins small requests of several threads; before they start.
    void coalesce(std::size_t max_batch, std::uint32_t max_wait_us) {
        detail::call(bge_embedder_coalesce, handle_.get(), max_batch, max_wait_us);
    }
    std::size_t dim() const noexcept { return bge_embedder_dim(handle_.get()); }
    std::string notes() const { return detail::text(bge_embedder_notes, handle_.get()); }
    /// One row of dim() numbers a text.
    std::vector<float> encode(bge_text_role role, const std::vector<std::string> &texts) const {
        const auto borrowed = detail::borrow_all(texts);
        std::vector<float> rows(texts.size() * dim());
        detail::call(bge_embedder_encode, handle_.get(), role, borrowed.data(), borrowed.size(), rows.data(), rows.size());
        return rows;
    }

private:
    detail::Owner<bge_embedder, bge_embedder_free> handle_;
};

/// Pairs of query and passage to scores; const functions from any number of threads.
class Reranker {
public:
    explicit Reranker(const Config &config) {
        bge_reranker *made = nullptr;
        detail::call(bge_reranker_open, config.get(), &made);
        handle_.reset(made);
    }
    std::vector<float> score(const std::vector<std::string> &queries, const std::vector<std::string> &passages) const {
        if (queries.size() != passages.size()) {
            throw std::invalid_argument("as many passages as queries are needed");
        }
        const auto q = detail::borrow_all(queries), p = detail::borrow_all(passages);
        std::vector<float> scores(q.size());
        detail::call(bge_reranker_score, handle_.get(), q.data(), p.data(), q.size(), scores.data(), scores.size());
        return scores;
    }

private:
    detail::Owner<bge_reranker, bge_reranker_free> handle_;
};

/// A validation of bytes as they come.
class Validator {
public:
    Validator(const Config &config, std::string_view name) {
        bge_validator *made = nullptr;
        detail::call(bge_validator_new, config.get(), borrow(name), &made);
        handle_.reset(made);
    }
    void push(std::string_view bytes) {
        const auto borrowed = borrow(bytes);
        detail::call(bge_validator_push, handle_.get(), borrowed.data, borrowed.len);
    }
    /// The report as JSON.
    std::string finish() { return detail::text(bge_validator_finish, handle_.get()); }

private:
    detail::Owner<bge_validator, bge_validator_free> handle_;
};

/// A training run.
class Trainer {
public:
    explicit Trainer(const Config &config) {
        bge_trainer *made = nullptr;
        detail::call(bge_trainer_new, config.get(), &made);
        handle_.reset(made);
    }
    /// Trains on this thread; the report as JSON.
    std::string run(const Listener &listener = {}) const {
        return detail::text(bge_trainer_run, handle_.get(), detail::callback(listener), detail::data(listener));
    }
    /// From any thread.
    void stop() const noexcept { bge_trainer_stop(handle_.get()); }

private:
    detail::Owner<bge_trainer, bge_trainer_free> handle_;
};

#define BGE_HPP_WORK(name, function)                                                                                   \
    inline std::string name(const Config &config, const Listener &listener = {}) {                                     \
        return detail::text(function, config.get(), detail::callback(listener), detail::data(listener));               \
    }
/// Each gives its report as JSON.
BGE_HPP_WORK(validate, bge_validate)
BGE_HPP_WORK(mine, bge_mine)
BGE_HPP_WORK(score, bge_score)
BGE_HPP_WORK(evaluate, bge_evaluate)
BGE_HPP_WORK(merge, bge_merge)
#undef BGE_HPP_WORK

/// Runs the text of a pipeline file.
inline std::string pipeline(std::string_view text, const Listener &listener = {}) {
    return detail::text(bge_pipeline, borrow(text), detail::callback(listener), detail::data(listener));
}

} // namespace bge

#endif
