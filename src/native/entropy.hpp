// Adaptive binary range coder, integers only. FORMAT.md section 5 is the specification, vqrf/entropy.py the twin.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace vqrf {

inline constexpr int kMature = 80;
inline constexpr int kFastShift = 5;
inline constexpr auto kSlowShift = [] {
    std::array<std::uint8_t, kMature + 1> shifts{};
    for (int n = 0; n <= kMature; ++n)
        shifts[n] = n < 1 ? 1 : n < 3 ? 2 : n < 7 ? 3 : n < 20 ? 4 : n < 40 ? 5 : n < 80 ? 6 : 7;
    return shifts;
}();

// One adaptive bit: the mean of a fast and a slow estimate of P(bit = 1), each in 1/65536. While the context is young both
// move by about 1/(n + 1.5), so that a context costs little to learn.
struct BitModel {
    std::uint16_t fast = 1 << 15;
    std::uint16_t slow = 1 << 15;
    std::uint8_t seen = 0;

    // P(bit = 1) in 1/32768; 39 .. 32728, because an estimate stops moving below 2^shift.
    std::uint32_t probability() const { return (std::uint32_t{fast} + slow) >> 2; }

    void update(bool bit) {
        const int slow_shift = kSlowShift[seen];
        const int fast_shift = std::min(slow_shift, kFastShift);
        if (bit) {
            fast = static_cast<std::uint16_t>(fast + ((65535 - fast) >> fast_shift));
            slow = static_cast<std::uint16_t>(slow + ((65535 - slow) >> slow_shift));
        } else {
            fast = static_cast<std::uint16_t>(fast - (fast >> fast_shift));
            slow = static_cast<std::uint16_t>(slow - (slow >> slow_shift));
        }
        if (seen < kMature) ++seen;
    }
};

inline constexpr std::uint32_t kRenormalize = 1u << 24;
inline constexpr int kProbabilityBits = 15;

// Encoder and Decoder have the same interface, so that one walk over the voxels serves both: the encoder takes the value
// and gives it back, the decoder ignores what it is given.
class Encoder {
  public:
    explicit Encoder(std::size_t n_contexts) : models_(n_contexts) {}

    std::uint32_t bit(std::size_t context, std::uint32_t value) {
        BitModel &model = models_[context];
        narrow(model.probability(), value != 0);
        model.update(value != 0);
        return value;
    }

    // `n_bits` of `value`, most significant first; the contexts are the nodes 1 .. 2^n_bits - 1 of a binary tree.
    std::uint32_t tree(std::size_t base, int n_bits, std::uint32_t value) {
        std::uint32_t node = 1;
        for (int i = n_bits - 1; i >= 0; --i) node = 2 * node + bit(base + node, value >> i & 1);
        return value;
    }

    // Bits without a model, each of probability 1/2.
    std::uint32_t direct(int n_bits, std::uint32_t value) {
        for (int i = n_bits - 1; i >= 0; --i) narrow(1u << (kProbabilityBits - 1), (value >> i & 1) != 0);
        return value;
    }

    bool failed() const { return false; }
    void refuse() {}  // what it was given is a field, which has nothing to refuse

    // The bytes so far and the four that end the stream.
    std::vector<std::uint8_t> finish() {
        for (int i = 0; i < 5; ++i) shift_out();
        bytes_.erase(bytes_.begin());  // the byte before the first is always 0: no carry can leave the first one
        return std::move(bytes_);
    }

  private:
    void narrow(std::uint32_t probability, bool bit) {
        const std::uint32_t bound = (range_ >> kProbabilityBits) * probability;
        if (bit) {
            range_ = bound;
        } else {
            low_ += bound;
            range_ -= bound;
        }
        while (range_ < kRenormalize) {
            range_ <<= 8;
            shift_out();
        }
    }

    // Move the top byte of `low` out. A run of 0xFF waits, since a later carry may still turn it into zeros.
    void shift_out() {
        if (low_ < 0xFF000000u || low_ > 0xFFFFFFFFu) {
            const auto carry = static_cast<std::uint8_t>(low_ >> 32);
            bytes_.push_back(static_cast<std::uint8_t>(held_ + carry));
            bytes_.insert(bytes_.end(), n_waiting_, static_cast<std::uint8_t>(0xFF + carry));
            n_waiting_ = 0;
            held_ = static_cast<std::uint8_t>(low_ >> 24);
        } else {
            ++n_waiting_;
        }
        low_ = (low_ & 0x00FFFFFFu) << 8;
    }

    std::vector<BitModel> models_;
    std::vector<std::uint8_t> bytes_;
    std::uint64_t low_ = 0;
    std::uint32_t range_ = 0xFFFFFFFFu;
    std::uint8_t held_ = 0;
    std::size_t n_waiting_ = 0;
};

class Decoder {
  public:
    Decoder(std::size_t n_contexts, std::span<const std::uint8_t> bytes) : models_(n_contexts), bytes_(bytes) {
        for (int i = 0; i < 4; ++i) code_ = code_ << 8 | next();
        if (code_ >= range_) damaged_ = true;  // `code < range` holds from here on, so that nothing can wrap
    }

    std::uint32_t bit(std::size_t context, std::uint32_t = 0) {
        BitModel &model = models_[context];
        const bool value = narrow(model.probability());
        model.update(value);
        return value;
    }

    std::uint32_t tree(std::size_t base, int n_bits, std::uint32_t = 0) {
        std::uint32_t node = 1;
        for (int i = 0; i < n_bits; ++i) node = 2 * node + bit(base + node);
        return node - (1u << n_bits);
    }

    std::uint32_t direct(int n_bits, std::uint32_t = 0) {
        std::uint32_t value = 0;
        for (int i = 0; i < n_bits; ++i) value = 2 * value + narrow(1u << (kProbabilityBits - 1));
        return value;
    }

    // Whether no encoder wrote these bytes, or more were asked for than there are: what was decoded is meaningless.
    bool failed() const { return damaged_; }

    // Symbols that no encoder writes are damage, too.
    void refuse() { damaged_ = true; }

    // Whether the stream ended exactly where its encoder would have ended it.
    bool is_complete() const { return !damaged_ && next_ == bytes_.size() && code_ == 0; }

  private:
    bool narrow(std::uint32_t probability) {
        const std::uint32_t bound = (range_ >> kProbabilityBits) * probability;
        const bool bit = code_ < bound;
        if (bit) {
            range_ = bound;
        } else {
            code_ -= bound;
            range_ -= bound;
        }
        while (range_ < kRenormalize) {
            range_ <<= 8;
            code_ = code_ << 8 | next();
        }
        return bit;
    }

    std::uint8_t next() {
        if (next_ < bytes_.size()) return bytes_[next_++];
        damaged_ = true;
        return 0;
    }

    std::vector<BitModel> models_;
    std::span<const std::uint8_t> bytes_;
    std::size_t next_ = 0;
    std::uint32_t range_ = 0xFFFFFFFFu;
    std::uint32_t code_ = 0;
    bool damaged_ = false;
};

}  // namespace vqrf
