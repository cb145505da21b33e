// A .vqrf file from outside: the header, the table of its sections, their order and checksums; and a section's bytes, read from the
// front. FORMAT.md sections 1, 3 and 7. Twin: vqrf/codec/container.py.
#pragma once

#include <bit>
#include <type_traits>
#include <utility>

#include "bitstream.hpp"

namespace vqrf {

inline constexpr std::array<std::uint8_t, 8> kSignature{0x89, 'V', 'Q', 'R', '\r', '\n', 0x1A, '\n'};
inline constexpr std::uint64_t kHeaderBytes = 32, kEntryBytes = 32;
inline constexpr std::uint32_t kMaxSections = 64;
inline constexpr int kMaxRatioBits = 19;  // a coded byte describes fewer than 2^19 bytes: no context is surer than 39/32768

// The sections of a file, in their order; a version knows some of them.
enum KnownSection {
    kHEAD, kSPAC, kMETA, kCOLR, kBOOK, kSTEP, kPLAN, kMIXT, kPART, kDENS, kCODE, kKEPT,
    kLEV8, kLEV0 = kLEV8 + kMaxLevels, kPLN8, kPLN0 = kPLN8 + kMaxLevels, kLIN8, kLIN0 = kLIN8 + kMaxLevels, kKnown
};
inline constexpr std::array<const char *, kKnown> kNames{
    "HEAD", "SPAC", "META", "COLR", "BOOK", "STEP", "PLAN", "MIXT", "PART", "DENS", "CODE", "KEPT",
    "LEV8", "LEV7", "LEV6", "LEV5", "LEV4", "LEV3", "LEV2", "LEV1", "LEV0",
    "PLN8", "PLN7", "PLN6", "PLN5", "PLN4", "PLN3", "PLN2", "PLN1", "PLN0",
    "LIN8", "LIN7", "LIN6", "LIN5", "LIN4", "LIN3", "LIN2", "LIN1", "LIN0"};
constexpr bool is_critical(int known) { return known != kMETA; }
constexpr std::uint16_t method_of(int known) {
    return known == kHEAD || known == kSPAC || known == kMETA || known == kSTEP || known == kPLAN ? 0 : 1;
}
constexpr bool is_level(int known) { return known >= kLEV8 && known <= kLEV0; }

// Whether a major version knows a section.
constexpr bool is_known_in(std::uint16_t major, int known) {
    const bool of_planes = known == kPLAN || known == kMIXT || known >= kPLN8;
    if (major != kPlanesMajor) return !of_planes && (known != kSPAC || major == kSpaceMajor);
    return of_planes || known == kHEAD || known == kMETA || known == kCOLR || known == kPART;
}

inline constexpr const char *kDamaged = "coded bytes are damaged";

using std::to_string;

template <class T>
T load(const std::uint8_t *p) {
    static_assert(sizeof(T) <= 8);
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) bits |= std::uint64_t{p[i]} << (8 * i);
    if constexpr (std::is_same_v<T, float>)
        return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    else if constexpr (std::is_same_v<T, double>)
        return std::bit_cast<double>(bits);
    else
        return static_cast<T>(bits);
}

inline std::uint32_t crc32(Bytes bytes, std::uint32_t start = 0) {
    static constexpr auto table = [] {
        std::array<std::uint32_t, 256> t{};
        for (std::uint32_t i = 0; i < 256; ++i) {
            std::uint32_t c = i;
            for (int k = 0; k < 8; ++k) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
            t[i] = c;
        }
        return t;
    }();
    std::uint32_t c = ~start;
    for (const std::uint8_t b : bytes) c = table[(c ^ b) & 255] ^ (c >> 8);
    return ~c;
}

struct Section {
    std::string name;
    std::uint64_t offset = 0, stored = 0, raw = 0;
    std::uint32_t crc = 0;
    std::uint64_t entry = 0;  // where its row of the table is
    int known = -1;
    bool is_here = true;  // false for a level that a truncated file lacks
};

// Unwinds to decode_file, where it becomes the caller's `error`.
[[noreturn]] inline void refuse(std::string section, std::uint64_t offset, std::string reason) {
    throw BitstreamError{std::move(section), offset, std::move(reason)};
}

inline std::uint16_t major_of(Bytes data) { return load<std::uint16_t>(&data[8]); }

inline void check_header(Bytes data) {
    const std::size_t n = data.size();
    if (!std::equal(kSignature.begin(), kSignature.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(n, 8)),
                    data.begin()))
        refuse("header", 0, "not a .vqrf file");
    if (n < kHeaderBytes)
        refuse("header", n, "truncated: the header has 32 bytes, the file " + to_string(n));
    const auto major = major_of(data), minor = load<std::uint16_t>(&data[10]);
    if (major < kMajor || major > kPlanesMajor)
        refuse("header", 8, "version " + to_string(major) + "." + to_string(minor) +
                                " is not supported: this reader knows 1.x to 3.x");
    const auto count = load<std::uint32_t>(&data[12]);
    if (count < 1 || count > kMaxSections) refuse("header", 12, "section count " + to_string(count) + " is outside 1..64");
    const std::uint64_t table_end = kHeaderBytes + kEntryBytes * count;
    if (n < table_end)
        refuse("header", n,
               "truncated: header and section table have " + to_string(table_end) + " bytes, the file " + to_string(n));
    const std::uint32_t crc = crc32(data.subspan(kHeaderBytes, kEntryBytes * count), crc32(data.first(28)));
    if (crc != load<std::uint32_t>(&data[28])) refuse("header", 28, "checksum mismatch");
    if (load<std::uint32_t>(&data[24]) != 0) refuse("header", 24, "reserved bytes are not zero");
}

inline Section read_entry(Bytes data, std::uint64_t entry) {
    const std::uint8_t *p = &data[entry];
    Section s;
    s.entry = entry;
    for (int i = 0; i < 4; ++i)
        if (!((p[i] >= 'A' && p[i] <= 'Z') || (p[i] >= '0' && p[i] <= '9')))
            refuse("header", entry, "section name is not four capital letters or digits");
    s.name.assign(reinterpret_cast<const char *>(p), 4);
    for (int k = 0; k < kKnown; ++k)
        if (s.name == kNames[k] && is_known_in(major_of(data), k)) s.known = k;
    const auto flags = load<std::uint16_t>(p + 4), method = load<std::uint16_t>(p + 6);
    s.stored = load<std::uint64_t>(p + 8);
    s.raw = load<std::uint64_t>(p + 16);
    s.crc = load<std::uint32_t>(p + 24);
    if (s.known < 0) {
        if (flags & 1) refuse(s.name, entry, "unknown critical section");
        return s;
    }
    if (flags != is_critical(s.known)) refuse(s.name, entry + 4, "flags are " + to_string(flags) + ", not the section's");
    if (method != method_of(s.known))
        refuse(s.name, entry + 6, "coding method " + to_string(method) + " is not supported");
    if (load<std::uint32_t>(p + 28) != 0) refuse(s.name, entry + 28, "reserved bytes are not zero");
    return s;
}

// The section table, checked to tile the file exactly, with every checksum right. With `truncated`, levels after the coarsest and
// what follows them may be missing.
inline std::vector<Section> read_table(Bytes data, bool truncated) {
    check_header(data);
    const auto count = load<std::uint32_t>(&data[12]);
    const auto total = load<std::uint64_t>(&data[16]);
    std::vector<Section> sections;
    std::uint64_t end = kHeaderBytes + kEntryBytes * count;
    int last_known = -1;
    for (std::uint32_t i = 0; i < count; ++i) {
        Section s = read_entry(data, kHeaderBytes + kEntryBytes * i);
        if (s.known >= 0 && s.known <= last_known) refuse(s.name, s.entry, "appears twice or out of order");
        if (s.known >= 0) last_known = s.known;
        if (end > total || s.stored > total - end)
            refuse("header", 16, "file length " + to_string(total) + " is not the sum of its parts");
        s.offset = end;
        end += s.stored;
        sections.push_back(std::move(s));
    }
    if (end != total) refuse("header", 16, "file length " + to_string(total) + " is not the sum of its parts");
    bool optional = false;
    for (Section &s : sections) {
        s.is_here = s.offset + s.stored <= data.size();
        if (!s.is_here && !(truncated && optional))
            refuse(s.name, data.size(),
                   "truncated: ends at byte " + to_string(s.offset + s.stored) + ", the file has " +
                       to_string(data.size()));
        optional = optional || is_level(s.known);
    }
    if (data.size() > total) refuse("end", total, to_string(data.size() - total) + " trailing bytes");
    for (const Section &s : sections)
        if (s.is_here && crc32(data.subspan(s.offset, s.stored)) != s.crc) refuse(s.name, s.offset, "checksum mismatch");
    return sections;
}

// The known sections, and in `raw` the sum of their raw lengths.
inline std::array<Section, kKnown> select_known(const std::vector<Section> &sections, std::uint64_t max_bytes, std::uint64_t &raw) {
    std::array<Section, kKnown> known;
    raw = 0;
    for (const Section &s : sections) {
        if (s.known < 0) continue;
        known[s.known] = s;
        if (method_of(s.known) == 0 && s.raw != s.stored)
            refuse(s.name, s.entry + 16, "raw length " + to_string(s.raw) + " is not the stored length");
        if (method_of(s.known) == 1 && s.known != kCODE && s.raw >> kMaxRatioBits > s.stored)
            refuse(s.name, s.entry + 16,
                   "raw length " + to_string(s.raw) + " is too great for " + to_string(s.stored) + " stored bytes");
        if (s.raw > max_bytes - raw)
            refuse(s.name, s.entry + 16, "decoded sections take more than the limit of " + to_string(max_bytes) + " bytes");
        raw += s.raw;
    }
    if (known[kHEAD].known < 0) refuse(kNames[kHEAD], kHeaderBytes, "section is missing");
    return known;
}

// The first of those levels that a file must have, by the last of their names: as many as it has, the finest among them.
inline int first_level(const std::array<Section, kKnown> &known, int finest) {
    int n_levels = 0;
    for (int k = finest - kMaxLevels; k <= finest; ++k) n_levels += known[k].known >= 0;
    return finest + 1 - std::max(1, n_levels);
}

// Check that the sections are those of the file's kind, none too few and none too many.
inline void check_kind(std::uint16_t major, const std::array<Section, kKnown> &known, bool is_pyramid) {
    const bool is_planes = major == kPlanesMajor;
    for (int k = 0; k < kKnown; ++k) {
        if (!is_known_in(major, k)) continue;
        bool belongs = k <= kCOLR || k == kPART;
        if (is_planes)
            belongs = belongs || k < kPLN8 || (k <= kPLN0 ? k >= first_level(known, kPLN0) : k >= first_level(known, kLIN0));
        else if (is_pyramid)
            belongs = belongs || k == kSTEP || k >= first_level(known, kLEV0);
        else
            belongs = belongs || k == kBOOK || k == kDENS || k == kCODE || k == kKEPT;
        if (belongs && is_critical(k) && known[k].known < 0) refuse(kNames[k], kHeaderBytes, "section is missing");
        if (!belongs && known[k].known >= 0) refuse(kNames[k], known[k].entry, "does not belong to a file of this kind");
    }
}

// A section's bytes, read from the front.
class Reader {
  public:
    Reader(Bytes data, const Section &section)
        : section_(section), bytes_(section.is_here ? data.subspan(section.offset, section.stored) : Bytes()) {}

    template <class T>
    T take() {
        if (bytes_.size() < sizeof(T)) fail("ends inside its own header");
        const T value = load<T>(bytes_.data());
        bytes_ = bytes_.subspan(sizeof(T));
        return value;
    }
    Bytes rest() const { return bytes_; }
    void expect_raw(std::uint64_t expected) const {
        if (section_.raw != expected)
            refuse(section_.name, section_.entry + 16,
                   "raw length is " + to_string(section_.raw) + ", expected " + to_string(expected));
    }
    [[noreturn]] void fail(std::string reason) const { refuse(section_.name, section_.offset, std::move(reason)); }

    // Decode the rest of the section with `walk(decoder)`; it must use up every byte.
    template <class Walk>
    void decode(std::size_t n_contexts, Walk walk) const {
        Decoder decoder(n_contexts, bytes_);
        walk(decoder);
        if (!decoder.is_complete()) fail(kDamaged);
    }

  private:
    const Section &section_;
    Bytes bytes_;
};

}  // namespace vqrf
