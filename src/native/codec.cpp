// The codec as Python sees it: arrays in, bytes out, and back. vqrf/bitstream.py is the only caller.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bitstream.hpp"

namespace nb = nanobind;
using namespace vqrf;

namespace {

template <class T, int N>
using Input = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Lattice = Input<std::uint8_t, 3>;

Shape shape_of(const Lattice &partition) {
    return {static_cast<std::uint32_t>(partition.shape(0)), static_cast<std::uint32_t>(partition.shape(1)),
            static_cast<std::uint32_t>(partition.shape(2))};
}

template <class Array>
auto view(const Array &array) {
    return std::span(array.data(), array.size());
}

template <class Encode>
nb::bytes to_bytes(Encode encode) {
    std::vector<std::uint8_t> bytes;
    {
        const nb::gil_scoped_release release;
        bytes = encode();
    }
    return nb::bytes(bytes.data(), bytes.size());
}

template <class Encode>
nb::list to_streams(Encode encode) {
    std::vector<std::vector<std::uint8_t>> streams;
    {
        const nb::gil_scoped_release release;
        streams = encode();
    }
    nb::list out;
    for (const auto &stream : streams) out.append(nb::bytes(stream.data(), stream.size()));
    return out;
}

template <class T>
nb::object to_array(std::vector<T> values, std::vector<std::size_t> shape) {
    auto *owned = new std::vector<T>(std::move(values));
    nb::capsule owner(owned, [](void *p) noexcept { delete static_cast<std::vector<T> *>(p); });
    return nb::cast(nb::ndarray<nb::numpy, T>(owned->data(), shape.size(), shape.data(), owner));
}

template <class T>
nb::object to_vector(std::vector<T> values) {
    const std::size_t n = values.size();
    return to_array(std::move(values), {n});
}

// (type, items, scale, offset); items are [rows, columns] of uint8, or of uint16 (float16 as its bits).
nb::tuple to_tuple(Table table) {
    const std::vector<std::size_t> shape{table.rows, table.columns};
    nb::object items = table.type == TableType::kUint8 ? to_array(std::move(table.bytes), shape)
                                                       : to_array(std::move(table.items), shape);
    return nb::make_tuple(static_cast<int>(table.type), items, to_vector(std::move(table.scale)),
                          to_vector(std::move(table.offset)));
}

// The levels [N_l,width] of a pyramid.
nb::list to_list(Levels levels, std::size_t width) {
    nb::list out;
    for (auto &level : levels) {
        const std::size_t n = level.size() / width;
        out.append(to_array(std::move(level), {n, width}));
    }
    return out;
}

void add_planes(nb::dict &out, CompressedField field) {
    const std::size_t rank = field.n_components();
    nb::list planes, lines;
    for (Levels &levels : field.planes) planes.append(to_list(std::move(levels), rank));
    for (Levels &levels : field.lines) lines.append(to_list(std::move(levels), rank));
    out["planes"] = planes;
    out["lines"] = lines;
    out["plane_steps"] = to_array(std::move(field.plane_steps), {3, rank});
    out["line_steps"] = to_array(std::move(field.line_steps), {3, rank});
    out["mix"] = to_tuple(std::move(field.mix));
}

nb::dict to_dict(CompressedField field) {
    const Head &head = field.head;
    nb::list tables;
    for (Table &table : field.color_mlp) tables.append(to_tuple(std::move(table)));
    nb::dict out;
    out["lo"] = nb::make_tuple(head.lo[0], head.lo[1], head.lo[2]);
    out["hi"] = nb::make_tuple(head.hi[0], head.hi[1], head.hi[2]);
    out["space"] = nb::none();
    if (field.space) {
        nb::list map;
        for (const double value : field.space->map) map.append(value);
        out["space"] = nb::make_tuple(field.space->number, map);
    }
    out["constants"] = to_vector(std::vector<float>(head.constants.begin(), head.constants.end()));
    out["metadata"] = nb::bytes(field.metadata.data(), field.metadata.size());
    out["shading"] = static_cast<int>(field.shading);
    out["activation"] = static_cast<int>(head.activation);
    out["feature_frequencies"] = static_cast<int>(field.feature_frequencies);
    out["color_mlp"] = tables;
    out["partition"] = to_array(std::move(field.partition), {head.shape.x, head.shape.y, head.shape.z});
    if (field.is_planes()) {
        add_planes(out, std::move(field));
        return out;
    }
    if (head.codebook_size == 0) {
        out["coefficients"] = to_list(std::move(field.levels), field.steps.size());
        out["steps"] = to_vector(std::move(field.steps));
        const std::size_t n_rows = field.basis.size() / head.n_channels;
        out["basis"] = to_array(std::move(field.basis), {n_rows, head.n_channels});
        return out;
    }
    out["codebook"] = to_tuple(std::move(field.codebook));
    out["density"] = nb::make_tuple(to_vector(std::move(field.density)), to_vector(std::move(field.density_scale)),
                                    to_vector(std::move(field.density_offset)));
    out["codes"] = to_vector(std::move(field.codes));
    out["kept"] = nb::make_tuple(to_array(std::move(field.kept), {head.n_kept, head.n_channels}),
                                 to_vector(std::move(field.kept_scale)), to_vector(std::move(field.kept_offset)));
    return out;
}

nb::object decode(const nb::bytes &data, std::uint64_t max_bytes, bool truncated) {
    BitstreamError error;
    std::optional<CompressedField> field;
    const Bytes bytes(reinterpret_cast<const std::uint8_t *>(data.data()), data.size());
    {
        const nb::gil_scoped_release release;
        field = decode_file(bytes, max_bytes, truncated, error);
    }
    if (!field) return nb::make_tuple(error.section, error.offset, error.reason);
    return to_dict(std::move(*field));
}

Table table_of(const nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu> &items) {
    Table table;
    table.rows = static_cast<std::uint32_t>(items.shape(0));
    table.columns = static_cast<std::uint32_t>(items.shape(1));
    if (items.dtype() == nb::dtype<std::uint8_t>()) {
        table.type = TableType::kUint8;
        const auto *p = static_cast<const std::uint8_t *>(items.data());
        table.bytes.assign(p, p + items.size());
    } else if (items.dtype() == nb::dtype<std::uint16_t>()) {
        table.type = TableType::kUint16;
        const auto *p = static_cast<const std::uint16_t *>(items.data());
        table.items.assign(p, p + items.size());
    } else {
        throw nb::type_error("a table holds uint8 or uint16");
    }
    return table;
}

}  // namespace

void bind_codec(nb::module_ &m) {
    m.def("decode", &decode, nb::arg("data"), nb::arg("max_bytes"), nb::arg("truncated"),
          "The arrays of a .vqrf file as a dict, or (section, offset, reason) of what is wrong with it.");
    m.def(
        "encode_partition",
        [](const Lattice &partition) {
            return to_bytes([&] { return encode_partition(shape_of(partition), view(partition)); });
        },
        nb::arg("partition"));
    m.def(
        "encode_density",
        [](const Lattice &partition, const Input<std::uint8_t, 1> &levels) {
            return to_bytes([&] { return encode_density(shape_of(partition), view(partition), view(levels)); });
        },
        nb::arg("partition"), nb::arg("levels"));
    m.def(
        "encode_codes",
        [](const Lattice &partition, std::uint32_t codebook_size, const Input<std::int32_t, 1> &codes) {
            return to_bytes(
                [&] { return encode_codes(shape_of(partition), view(partition), codebook_size, view(codes)); });
        },
        nb::arg("partition"), nb::arg("codebook_size"), nb::arg("codes"));
    m.def(
        "encode_kept",
        [](const Lattice &partition, const Input<std::uint8_t, 2> &levels) {
            const auto n_channels = static_cast<std::uint32_t>(levels.shape(1));
            return to_bytes(
                [&] { return encode_kept(shape_of(partition), view(partition), n_channels, view(levels)); });
        },
        nb::arg("partition"), nb::arg("levels"));
    m.def(
        "encode_levels",
        [](const Lattice &partition, const std::vector<Input<std::int16_t, 2>> &levels) {
            std::vector<std::span<const std::int16_t>> spans;
            for (const auto &level : levels) spans.push_back(view(level));
            const auto width = static_cast<std::uint32_t>(levels.at(0).shape(1));
            return to_streams([&] { return encode_levels(shape_of(partition), view(partition), width, spans); });
        },
        nb::arg("partition"), nb::arg("levels"));
    m.def(
        "encode_stacks",
        [](const std::vector<Lattice> &masks, const std::vector<std::vector<Input<std::int16_t, 2>>> &stacks) {
            std::vector<Shape> shapes;
            std::vector<Bytes> places;
            std::vector<Levels> levels(masks.size());
            for (std::size_t i = 0; i < masks.size(); ++i) {
                shapes.push_back(shape_of(masks[i]));
                places.push_back(view(masks[i]));
                for (const auto &level : stacks.at(i)) levels[i].emplace_back(level.data(), level.data() + level.size());
            }
            const auto width = static_cast<std::uint32_t>(stacks.at(0).at(0).shape(1));
            return to_streams([&] { return encode_stacks(shapes, places, levels, width); });
        },
        nb::arg("masks"), nb::arg("stacks"));
    m.def(
        "encode_tables",
        [](const std::vector<nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>> &items, bool by_column) {
            std::vector<Table> tables;
            for (const auto &array : items) tables.push_back(table_of(array));
            return to_bytes([&] { return encode_tables(tables, by_column); });
        },
        nb::arg("tables"), nb::arg("by_column"));
}
