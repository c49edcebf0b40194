"""Group attention of whole images, one (image, head) after the other, a block of pixels at a time: what numba compiles.

Keys and values of a piece are copied into "planes" (see ``products``), queries into blocks of WIDTH pixels, zeros
behind the end of a row: little enough for the second cache.
"""

import hashlib
from pathlib import Path

import numpy as np

from e2vit.kernels.cpu import products, scores
from e2vit.kernels.cpu.simd import WIDTH, compiled, entry, load, store, total

EXCLUDED = -1e30  # the score of a key beyond the border; finite, so that no infinity meets another
# In the closure of what is compiled and kept on disk, because numba looks for changes in one file alone.
SOURCE = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


@compiled
def _weights(A, B, C, T, W, P, x, keys, at, shifts, begin, count, position, columns, element, table, sizes, stride):
    """W of one block, with what its gradient needs. Returns P and whether whole scores were necessary."""
    outputs, queries, poses, depth, _ = sizes
    for attempt in range(2):
        scores.logits(A, B, C, x, keys, at, shifts, begin, count, position, columns, element, table, sizes, stride)
        if attempt == 0:
            for g in range(queries):
                scores.exponentials(A, g * poses * count * WIDTH, poses * count)
            for pair in range(outputs * queries):
                scores.exponentials(B, pair * count * WIDTH, count)
                scores.exponentials(C, pair * poses * WIDTH, poses)
            if scores.normalize(A, B, C, T, count, sizes) > (1e-20 if A.itemsize == 4 else 1e-250):
                scores.combine(W, A, B, C, count, sizes)
                return P, False
    if len(P) == 0:
        P = np.empty(outputs * queries * poses * columns * WIDTH, A.dtype)
    scores.direct(W, A, B, C, P, count, sizes)
    return P, True


@compiled
def _scratch(q, offsets, sizes):
    outputs, queries, poses, _, _ = sizes
    A, B = np.empty(queries * poses * offsets * WIDTH, q.dtype), np.empty(outputs * queries * offsets * WIDTH, q.dtype)
    C, T = np.empty(outputs * queries * poses * WIDTH, q.dtype), np.empty(outputs * queries * poses * WIDTH, q.dtype)
    return A, B, C, T, np.empty(outputs * poses * offsets * WIDTH, q.dtype), np.empty(0, q.dtype)


@compiled
def _move(to, at, outer, inner, source, start, source_outer, source_inner, many, some, length):
    """to[at + i·outer + j·inner + c] ← source[start + i·source_outer + j·source_inner + c] for all c < length."""
    for i in range(many):
        for j in range(some):
            a, b = at + i * outer + j * inner, start + i * source_outer + j * source_inner
            for c in range(0, length - WIDTH + 1, WIDTH):
                store(to, a + c, load(source, b + c))
            for c in range(length // WIDTH * WIDTH, length):
                to[a + c] = source[b + c]


@compiled
def _planes(like, planes, height, width, side, border):
    """Room for the maps of one piece, and in each row one plane more, ``border`` where there is no pixel, else zero."""
    stride, margin = -(-width // WIDTH) * WIDTH + side - 1, side // 2
    found = np.zeros((height + side - 1) * (planes + 1) * stride, like.dtype)
    for row in range(height + side - 1):
        at = (row * (planes + 1) + planes) * stride
        for column in range(stride):
            if not (margin <= row < margin + height and margin <= column < margin + width):
                found[at + column] = border
    return found


def _program(source, backward):
    """The gradients, or the output alone, for numba. ``source`` stands for everything that is called."""

    def run(
        q, k, value, position, element, table, chosen, first, sizes, shape,
        out, dq, dk, dvalue, dposition, delement, lo, hi,
    ):  # fmt: skip
        source  # noqa: B018
        outputs, queries, poses, depth, entries = sizes
        heads, position_heads, element_heads, width_e, height, width, side = shape
        offsets, margin, pixels, padded = len(chosen), side // 2, height * width, width + side - 1
        rows, stride = height + side - 1, -(-width // WIDTH) * WIDTH + side - 1
        k_row, v_row = (poses * depth + 1) * stride, (poses * width_e + 1) * stride
        k_shifts, v_shifts = chosen // side * k_row + chosen % side, chosen // side * v_row + chosen % side
        A, B, C, T, W, P = _scratch(q, offsets, sizes)
        keys = _planes(q, poses * depth, height, width, side, EXCLUDED)
        values = _planes(q, poses * width_e, height, width, side, 0.0)
        x, y = np.zeros(queries * depth * WIDTH, q.dtype), np.zeros(outputs * width_e * WIDTH, q.dtype)
        if backward:
            dx, dkeys, dvalues = np.empty_like(x), np.empty_like(keys), np.empty_like(values)
            dW, S = np.empty_like(W), np.empty(scores.sums(sizes), q.dtype)
            table_slopes = np.empty(outputs * offsets * depth * WIDTH, q.dtype)
            element_slopes = np.empty(entries * depth * WIDTH, q.dtype)
        for piece in range(lo, hi):
            head = piece % heads
            p = position[head % position_heads * outputs * depth * offsets :]
            e = element[head % element_heads * entries * depth :]
            size = rows * padded
            for r in range(rows):
                at = piece * depth * poses * size + r * padded
                _move(keys, r * k_row, stride, depth * stride, k, at, poses * size, size, depth, poses, padded)
                at = piece * width_e * poses * size + r * padded
                _move(
                    values, r * v_row, stride, width_e * stride, value, at, poses * size, size, width_e, poses, padded
                )
            if backward:
                for slopes in (dkeys, dvalues, table_slopes, element_slopes):
                    slopes[:] = 0
            for row in range(height):
                begin = first[max(0, margin - row)]
                count = first[min(side, margin + height - row)] - begin
                for column in range(0, width, WIDTH):
                    lanes, pixel = min(WIDTH, width - column), row * width + column
                    q_at, out_at = piece * depth * queries * pixels + pixel, piece * width_e * outputs * pixels + pixel
                    k_at, v_at = row * k_row + column, row * v_row + column
                    if lanes < WIDTH:
                        x[:] = 0
                    _move(x, 0, WIDTH, depth * WIDTH, q, q_at, queries * pixels, pixels, depth, queries, lanes)
                    P, whole = _weights(
                        A, B, C, T, W, P, x, keys, k_at, k_shifts, begin, count, p, offsets, e, table, sizes, stride
                    )
                    if not backward:
                        products.gather(y, W, values, v_at, v_shifts, begin, count, outputs, poses, width_e, stride)
                        _move(
                            out, out_at, outputs * pixels, pixels, y, 0, WIDTH, width_e * WIDTH, width_e, outputs, lanes
                        )
                        continue
                    if lanes < WIDTH:
                        y[:] = 0
                    _move(y, 0, WIDTH, width_e * WIDTH, out, out_at, outputs * pixels, pixels, width_e, outputs, lanes)
                    products.dots(dW, y, values, v_at, v_shifts, begin, count, outputs, poses, width_e, stride)
                    products.scatter(dvalues, W, y, v_at, v_shifts, begin, count, side, outputs, poses, width_e, stride)
                    if whole:
                        scores.direct_slopes(A, B, T, P, dW, count, sizes)
                    else:
                        scores.slopes(A, B, C, T, S, dW, count, sizes)
                    products.scatter(dkeys, A, x, k_at, k_shifts, begin, count, side, queries, poses, depth, stride)
                    products.gather(dx, A, keys, k_at, k_shifts, begin, count, queries, poses, depth, stride)
                    products.table_gather(dx, B, p, begin, count, offsets, sizes)
                    products.table_scatter(table_slopes, B, x, begin, count, offsets, sizes)
                    scores.element_slopes(element_slopes, dx, T, x, e, table, sizes)
                    _move(dq, q_at, queries * pixels, pixels, dx, 0, WIDTH, depth * WIDTH, depth, queries, lanes)
            if backward:
                for r in range(rows):
                    at = piece * depth * poses * size + r * padded
                    _move(dk, at, poses * size, size, dkeys, r * k_row, stride, depth * stride, depth, poses, padded)
                    at = piece * width_e * poses * size + r * padded
                    _move(
                        dvalue,
                        at,
                        poses * size,
                        size,
                        dvalues,
                        r * v_row,
                        stride,
                        width_e * stride,
                        width_e,
                        poses,
                        padded,
                    )
                for i in range(outputs * offsets * depth):
                    dposition[piece * outputs * offsets * depth + i] = total(load(table_slopes, i * WIDTH))
                for i in range(entries * depth):
                    delement[piece * entries * depth + i] = total(load(element_slopes, i * WIDTH))

    return entry(run)


forward, backward = _program(SOURCE, False), _program(SOURCE, True)
