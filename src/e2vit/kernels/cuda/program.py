"""What Triton compiles: the forward, the gradient of queries and embeddings, the gradient of keys and values.

Tensors in registers are (query pose, feature, pixel), the pixel last, so that a warp reads neighbors in memory.
``GROUP`` query poses are held at once.
"""

import triton
import triton.language as tl

PIXELS = tl.constexpr(32)
EXCLUDED = tl.constexpr(-1e30)  # the score of a key beyond the border; finite, so that no infinity meets another


@triton.jit
def _vectors(source, piece, poses, pose, size, at, there, N: tl.constexpr, N_PAD: tl.constexpr):
    """(feature, pixel) of one pose of a map (…, feature, pose, pixel), zero where ``there`` is false."""
    n = tl.arange(0, N_PAD)[:, None]
    pointer = source + ((piece * N + n) * poses + pose) * size + at[None, :]
    return tl.load(pointer, mask=(n < N) & there[None, :], other=0.0).to(tl.float32)


@triton.jit
def _queries(q, piece, queries, g, pixels, pixel, there, D: tl.constexpr, D_PAD: tl.constexpr):
    """(query pose, feature, pixel)."""
    d = tl.arange(0, D_PAD)[None, :, None]
    pointer = q + ((piece * D + d) * queries + g[:, None, None]) * pixels + pixel[None, None, :]
    mask = (d < D) & (g < queries)[:, None, None] & there[None, None, :]
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _place(position, head, position_head, v, o, window, D: tl.constexpr, D_PAD: tl.constexpr):
    """(feature, 1): the embedding of offset o as pose v sees it."""
    d = tl.arange(0, D_PAD)
    pointer = position + head * position_head + (v * window + o) * D + d
    return tl.load(pointer, mask=d < D, other=0.0).to(tl.float32)[:, None]


@triton.jit
def _pose(pose, table, piece, v, g, m, queries, poses, entries, pixels, pixel, there):
    """(query pose, pixel): the part of the score that is the same for all offsets."""
    known = g < queries
    entry = tl.load(table + (v * queries + g) * poses + m, mask=known, other=0)
    pointer = pose + ((piece * queries + g) * entries + entry)[:, None] * pixels + pixel[None, :]
    return tl.load(pointer, mask=known[:, None] & there[None, :], other=0.0).to(tl.float32)


@triton.jit
def _sums(source, piece, outputs, v, g, queries, pixels, pixel, there):
    """Where (query pose, pixel) numbers of an output pose are kept, and which of them exist."""
    pointer = source + ((piece * outputs + v) * queries + g)[:, None] * pixels + pixel[None, :]
    return pointer, (g < queries)[:, None] & there[None, :]


@triton.jit
def _inside(row, column, height, width):
    return (row >= 0) & (row < height) & (column >= 0) & (column < width)


@triton.jit
def _scores(x, key, pose, there):
    """(query pose, pixel): x·key + pose, with ``key`` the sum of a key and the embedding of its offset."""
    return tl.where(there[None, :], tl.sum(x * key[None, :, :], 1) + pose, EXCLUDED)


@triton.jit
def forward(
    q, k, value, position, pose, table, offsets, out, logsum, heads, outputs, queries, poses, entries, height,
    width, side, count, position_head, D: tl.constexpr, E: tl.constexpr, D_PAD: tl.constexpr, E_PAD: tl.constexpr,
    M_PAD: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out of one output pose, and the logarithm of the normalizer of each of its query poses."""
    pixels, wide, margin = height * width, width + side - 1, side // 2
    padded, tiles = (height + side - 1) * wide, tl.cdiv(pixels, PIXELS)
    piece, v = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(1)
    pixel = tl.program_id(0) % tiles * PIXELS + tl.arange(0, PIXELS)
    real, row, column, head = pixel < pixels, pixel // width, pixel % width, piece % heads
    result = tl.zeros([E_PAD, PIXELS], tl.float32)
    for block in range(0, tl.cdiv(queries, GROUP)):
        g = block * GROUP + tl.arange(0, GROUP)
        x = _queries(q, piece, queries, g, pixels, pixel, real, D, D_PAD)
        top, total = tl.full([GROUP, PIXELS], EXCLUDED, tl.float32), tl.zeros([GROUP, PIXELS], tl.float32)
        for m in range(poses):
            same = _pose(pose, table, piece, v, g, m, queries, poses, entries, pixels, pixel, real)
            for i in range(count):
                o = tl.load(offsets + i)
                y, z = row + o // side, column + o % side
                key = _vectors(k, piece, poses, m, padded, y * wide + z, real, D, D_PAD)
                key += _place(position, head, position_head, v, o, side * side, D, D_PAD)
                s = _scores(x, key, same, _inside(y - margin, z - margin, height, width))
                larger = tl.maximum(top, s)
                total = total * tl.exp(top - larger) + tl.exp(s - larger)
                top = larger
        logs = top + tl.log(total)
        pointer, mask = _sums(logsum, piece, outputs, v, g, queries, pixels, pixel, real)
        tl.store(pointer, logs, mask=mask)
        for m in range(poses):
            same = _pose(pose, table, piece, v, g, m, queries, poses, entries, pixels, pixel, real)
            for i in range(count):
                o = tl.load(offsets + i)
                y, z = row + o // side, column + o % side
                key = _vectors(k, piece, poses, m, padded, y * wide + z, real, D, D_PAD)
                key += _place(position, head, position_head, v, o, side * side, D, D_PAD)
                s = _scores(x, key, same, _inside(y - margin, z - margin, height, width))
                weight = tl.sum(tl.where((g < queries)[:, None], tl.exp(s - logs), 0.0), 0)
                result += weight[None, :] * _vectors(value, piece, poses, m, padded, y * wide + z, real, E, E_PAD)
    e = tl.arange(0, E_PAD)[:, None]
    pointer = out + ((piece * E + e) * outputs + v) * pixels + pixel[None, :]
    tl.store(pointer, result.to(out.dtype.element_ty), mask=(e < E) & real[None, :])


@triton.jit
def backward_queries(
    q, k, value, position, pose, table, offsets, dout, logsum, mean, dq, dposition, dpose, heads, outputs, queries,
    poses, entries, height, width, side, count, position_head, D: tl.constexpr, E: tl.constexpr,
    D_PAD: tl.constexpr, E_PAD: tl.constexpr, M_PAD: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The gradient of some query poses and what they give to the embeddings; mean[v,g] = Σ_{m,o} weight·dweight."""
    pixels, wide, margin = height * width, width + side - 1, side // 2
    padded, tiles = (height + side - 1) * wide, tl.cdiv(pixels, PIXELS)
    piece, g = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    pixel = tl.program_id(0) % tiles * PIXELS + tl.arange(0, PIXELS)
    real, row, column, head = pixel < pixels, pixel // width, pixel % width, piece % heads
    x = _queries(q, piece, queries, g, pixels, pixel, real, D, D_PAD)
    dx, d = tl.zeros([GROUP, D_PAD, PIXELS], tl.float32), tl.arange(0, D_PAD)
    for v in range(outputs):
        slope = _vectors(dout, piece, outputs, v, pixels, pixel, real, E, E_PAD)
        pointer, mask = _sums(logsum, piece, outputs, v, g, queries, pixels, pixel, real)
        logs, average = tl.load(pointer, mask=mask, other=0.0), tl.zeros([GROUP, PIXELS], tl.float32)
        for m in range(poses):
            same = _pose(pose, table, piece, v, g, m, queries, poses, entries, pixels, pixel, real)
            for i in range(count):
                o = tl.load(offsets + i)
                y, z = row + o // side, column + o % side
                key = _vectors(k, piece, poses, m, padded, y * wide + z, real, D, D_PAD)
                key += _place(position, head, position_head, v, o, side * side, D, D_PAD)
                s = _scores(x, key, same, _inside(y - margin, z - margin, height, width))
                dweight = tl.sum(slope * _vectors(value, piece, poses, m, padded, y * wide + z, real, E, E_PAD), 0)
                average += tl.exp(s - logs) * dweight[None, :]
        pointer, mask = _sums(mean, piece, outputs, v, g, queries, pixels, pixel, real)
        tl.store(pointer, average, mask=mask)
        of_pose, index = tl.zeros([M_PAD, GROUP, PIXELS], tl.float32), tl.arange(0, M_PAD)[:, None, None]
        for i in range(count):
            o = tl.load(offsets + i)
            y, z = row + o // side, column + o % side
            there = _inside(y - margin, z - margin, height, width)
            place = _place(position, head, position_head, v, o, side * side, D, D_PAD)
            of_place = tl.zeros([GROUP, PIXELS], tl.float32)
            for m in range(poses):
                same = _pose(pose, table, piece, v, g, m, queries, poses, entries, pixels, pixel, real)
                key = _vectors(k, piece, poses, m, padded, y * wide + z, real, D, D_PAD) + place
                s = _scores(x, key, same, there)
                dweight = tl.sum(slope * _vectors(value, piece, poses, m, padded, y * wide + z, real, E, E_PAD), 0)
                ds = tl.where(mask, tl.exp(s - logs) * (dweight[None, :] - average), 0.0)
                dx += ds[:, None, :] * key[None, :, :]
                of_place += ds
                of_pose += tl.where(index == m, ds[None, :, :], 0.0)
            total = tl.sum(tl.sum(x * of_place[:, None, :], 2), 0)
            to = dposition + ((head * outputs + v) * side * side + o) * D + d
            tl.atomic_add(to, total, mask=d < D)
        known = (tl.arange(0, M_PAD) < poses)[:, None] & (g < queries)[None, :]
        entry = tl.load(table + (v * queries + g)[None, :] * poses + tl.arange(0, M_PAD)[:, None], mask=known, other=0)
        to = dpose + ((piece * queries + g)[None, :] * entries + entry)[:, :, None] * pixels + pixel[None, None, :]
        tl.atomic_add(to, of_pose, mask=known[:, :, None] & real[None, None, :])
    pointer = dq + ((piece * D + d[None, :, None]) * queries + g[:, None, None]) * pixels + pixel[None, None, :]
    mask = (d < D)[None, :, None] & (g < queries)[:, None, None] & real[None, None, :]
    tl.store(pointer, dx.to(dq.dtype.element_ty), mask=mask)


@triton.jit
def backward_keys(
    q, k, value, position, pose, table, offsets, dout, logsum, mean, dk, dvalue, heads, outputs, queries, poses,
    entries, height, width, side, count, position_head, D: tl.constexpr, E: tl.constexpr, D_PAD: tl.constexpr,
    E_PAD: tl.constexpr, M_PAD: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The gradient of the key and the value of some pixels in one pose, from all queries whose window holds them."""
    pixels, wide, margin = height * width, width + side - 1, side // 2
    padded, tiles = (height + side - 1) * wide, tl.cdiv(pixels, PIXELS)
    piece, m = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(1)
    pixel = tl.program_id(0) % tiles * PIXELS + tl.arange(0, PIXELS)
    real, row, column, head = pixel < pixels, pixel // width, pixel % width, piece % heads
    at = (row + margin) * wide + column + margin
    own = _vectors(k, piece, poses, m, padded, at, real, D, D_PAD)
    content = _vectors(value, piece, poses, m, padded, at, real, E, E_PAD)
    down, up = tl.zeros([D_PAD, PIXELS], tl.float32), tl.zeros([E_PAD, PIXELS], tl.float32)
    for i in range(count):
        o = tl.load(offsets + i)
        y, z = row - o // side + margin, column - o % side + margin
        there, asker = _inside(y, z, height, width) & real, y * width + z
        for v in range(outputs):
            slope = _vectors(dout, piece, outputs, v, pixels, asker, there, E, E_PAD)
            dweight = tl.sum(slope * content, 0)
            key = own + _place(position, head, position_head, v, o, side * side, D, D_PAD)
            for block in range(0, tl.cdiv(queries, GROUP)):
                g = block * GROUP + tl.arange(0, GROUP)
                x = _queries(q, piece, queries, g, pixels, asker, there, D, D_PAD)
                same = _pose(pose, table, piece, v, g, m, queries, poses, entries, pixels, asker, there)
                pointer, mask = _sums(logsum, piece, outputs, v, g, queries, pixels, asker, there)
                logs = tl.load(pointer, mask=mask, other=0.0)
                pointer, mask = _sums(mean, piece, outputs, v, g, queries, pixels, asker, there)
                weight = tl.where(mask, tl.exp(_scores(x, key, same, there) - logs), 0.0)
                ds = weight * (dweight[None, :] - tl.load(pointer, mask=mask, other=0.0))
                down += tl.sum(x * ds[:, None, :], 0)
                up += tl.sum(weight, 0)[None, :] * slope
    d, e = tl.arange(0, D_PAD)[:, None], tl.arange(0, E_PAD)[:, None]
    pointer = dk + ((piece * D + d) * poses + m) * padded + at[None, :]
    tl.store(pointer, down.to(dk.dtype.element_ty), mask=(d < D) & real[None, :])
    pointer = dvalue + ((piece * E + e) * poses + m) * padded + at[None, :]
    tl.store(pointer, up.to(dvalue.dtype.element_ty), mask=(e < E) & real[None, :])
