// What must hold of the C++ decoder, whatever the bytes: the fuzz target. An input that breaks it ends the process.
//   - no crash (the sanitizers say), and not more than a second of CPU time
//   - never more memory than the caller's budget and the fixed allowance on top of it
//   - a refusal names a section, a byte of the file and a reason
//   - what is accepted encodes to the same sections, and decodes from them again
//   - taken as a file that may be cut off: a file that is accepted anyway gives the same field; of one that is not, what is
//     there of its sections is what its field encodes to, up to the coarsest level at least
#include <malloc.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <new>

#include "container.hpp"

namespace {

constexpr std::uint64_t kBudget = std::uint64_t{1} << 20;
constexpr double kMaxSeconds = 1.0;

// Bytes that `operator new` handed out and `operator delete` has not got back, while `counting`.
std::atomic<bool> counting = false;
std::atomic<std::int64_t> live = 0, peak = 0;

void *count_new(std::size_t size) {
    void *p = std::malloc(size);
    if (p == nullptr) throw std::bad_alloc();
    if (counting) {
        const std::int64_t now = live += static_cast<std::int64_t>(malloc_usable_size(p));
        std::int64_t most = peak;
        while (now > most && !peak.compare_exchange_weak(most, now)) {
        }
    }
    return p;
}

void count_delete(void *p) noexcept {
    if (counting && p != nullptr) live -= static_cast<std::int64_t>(malloc_usable_size(p));
    std::free(p);
}

}  // namespace

// libFuzzer's own memory goes through AddressSanitizer's `new` and the `delete` below.
extern "C" const char *__asan_default_options() { return "alloc_dealloc_mismatch=0"; }

void *operator new(std::size_t size) { return count_new(size); }
void *operator new[](std::size_t size) { return count_new(size); }
void operator delete(void *p) noexcept { count_delete(p); }
void operator delete[](void *p) noexcept { count_delete(p); }
void operator delete(void *p, std::size_t) noexcept { count_delete(p); }
void operator delete[](void *p, std::size_t) noexcept { count_delete(p); }

namespace vqrf::fuzz {
namespace {

double cpu_seconds() {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// What all inputs of this process came to; said when it ends.
struct Tally {
    long n_tried = 0, n_accepted = 0, n_cut_off = 0;
    std::int64_t most_bytes = 0;
    double most_seconds = 0;

    ~Tally() {
        if (n_tried == 0) return;
        std::printf("%ld tried, %ld accepted; at most %lld bytes and %.3f s for one; %ld accepted as cut off\n", n_tried,
                    n_accepted, static_cast<long long>(most_bytes), most_seconds, n_cut_off);
    }
} tally;

void require(bool holds, const char *what) {
    if (holds) return;
    std::fprintf(stderr, "fuzz: %s\n", what);
    std::abort();
}

std::optional<CompressedField> decode_measured(Bytes data, bool truncated, BitstreamError &error) {
    live = peak = 0;
    const double start = cpu_seconds();
    counting = true;
    std::optional<CompressedField> field = decode_file(data, kBudget, truncated, error);
    counting = false;
    const double seconds = cpu_seconds() - start;
    tally.most_bytes = std::max<std::int64_t>(tally.most_bytes, peak);
    tally.most_seconds = std::max(tally.most_seconds, seconds);
    require(peak <= static_cast<std::int64_t>(kBudget + kAllowance), "decoding took more memory than the budget");
    require(seconds <= kMaxSeconds, "decoding took more than a second");
    return field;
}

const File *body_of(const std::vector<Part> &parts, const std::string &name) {
    for (const Part &part : parts)
        if (part.name() == name) return &part.body;
    return nullptr;
}

// What a file that is cut off and was accepted all the same says: whole sections, in the order of the file, the coarsest level among
// them. It may be whole but for a section that nobody knows.
void check_cut_off(Bytes file, const CompressedField &field) {
    const std::vector<Part> parts = encode_parts(field);
    const std::size_t n = get<std::uint32_t>(&file[12]);
    std::uint64_t end = kHeader + kRow * n;
    std::size_t n_whole = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const std::uint8_t *row = &file[kHeader + kRow * i];
        const std::string name(reinterpret_cast<const char *>(row), 4);
        const std::uint64_t start = end;
        end += get<std::uint64_t>(row + 8);
        const File *body = body_of(parts, name);
        if (end > file.size() || body == nullptr) continue;
        require(std::equal(body->begin(), body->end(), file.begin() + static_cast<std::ptrdiff_t>(start),
                           file.begin() + static_cast<std::ptrdiff_t>(end)),
                "a file that is cut off encodes to other bytes");
        ++n_whole;
    }
    require(!field.levels.empty() && n_whole > parts.size() - field.levels.size(), "too much of a file may be missing");
}

// The file as one that may be cut off; `field` is what it is otherwise, `error` why it was refused where it was.
void check_truncated(Bytes file, const std::optional<CompressedField> &field, const BitstreamError &error) {
    BitstreamError other;
    const std::optional<CompressedField> found = decode_measured(file, true, other);
    if (!found) {
        require(!field && !other.section.empty() && other.offset <= file.size() && !other.reason.empty(),
                "refused only where it may be cut off, or without a reason");
        return;
    }
    if (!field) {
        require(error.reason.starts_with("truncated"), "a file is accepted only where it may be cut off, and is not");
        ++tally.n_cut_off;
        return check_cut_off(file, *found);
    }
    const std::vector<Part> parts = encode_parts(*field), others = encode_parts(*found);
    require(parts.size() == others.size(), "has other sections where it may be cut off");
    for (std::size_t i = 0; i < parts.size(); ++i) require(parts[i].body == others[i].body, "is another field where it may be cut off");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    const Bytes file(data, size);
    BitstreamError error;
    const std::optional<CompressedField> field = decode_measured(file, false, error);
    ++tally.n_tried;
    if (field) require(peak > 0, "nothing was counted");
    if (!field || size % 8 == 0) check_truncated(file, field, error);  // what is whole is the same: some of it is enough
    if (!field) {
        require(!error.section.empty() && error.offset <= size && !error.reason.empty(), "a refusal without a reason");
        return 0;
    }
    ++tally.n_accepted;
    const std::vector<Part> parts = encode_parts(*field);
    const std::optional<std::vector<Part>> stored = split(file);
    require(stored.has_value(), "an accepted file has no sections");
    for (const Part &part : parts) {
        const File *body = body_of(*stored, part.name());
        require(body != nullptr && *body == part.body, "an accepted file encodes to other bytes");
    }
    const std::optional<CompressedField> again = decode_measured(assemble(parts), false, error);
    require(again.has_value(), "what an accepted file encodes to is refused");
    const std::vector<Part> parts_again = encode_parts(*again);
    for (const Part &part : parts) require(*body_of(parts_again, part.name()) == part.body, "decodes to another field");
    return 0;
}

}  // namespace vqrf::fuzz
