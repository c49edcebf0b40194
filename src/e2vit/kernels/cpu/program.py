"""Group attention of whole images, one (image, head) after the other, a block of pixels at a time: what numba compiles.

Maps come as "planes" (see ``products``) and as blocks of WIDTH pixels, both made by ``kernel``.
"""

import hashlib
from pathlib import Path

import numpy as np

from e2vit.kernels.cpu import products, scores
from e2vit.kernels.cpu.simd import WIDTH, compiled, entry, load, total

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


def _programs(source):
    """The two entry points; ``source`` stands for everything that they call."""

    def forward(q, keys, values, position, element, table, chosen, first, sizes, shape, out, lo, hi):
        source  # noqa: B018
        outputs, queries, poses, depth, entries = sizes
        heads, position_heads, element_heads, width_e, height, width, side = shape
        offsets, margin, blocks = len(chosen), side // 2, -(-width // WIDTH)
        rows, stride = height + side - 1, blocks * WIDTH + side - 1
        k_row, v_row = (poses * depth + 1) * stride, (poses * width_e + 1) * stride
        k_shifts, v_shifts = chosen // side * k_row + chosen % side, chosen // side * v_row + chosen % side
        A, B, C, T, W, P = _scratch(q, offsets, sizes)
        q_size, out_size = queries * depth * WIDTH, outputs * width_e * WIDTH
        for piece in range(lo, hi):
            head = piece % heads
            p = position[head % position_heads * outputs * depth * offsets :]
            e = element[head % element_heads * entries * depth :]
            for row in range(height):
                begin = first[max(0, margin - row)]
                count = first[min(side, margin + height - row)] - begin
                for block in range(blocks):
                    at = (piece * height + row) * blocks + block
                    x, y = q[at * q_size : (at + 1) * q_size], out[at * out_size : (at + 1) * out_size]
                    k_at = (piece * rows + row) * k_row + block * WIDTH
                    v_at = (piece * rows + row) * v_row + block * WIDTH
                    P, _ = _weights(
                        A, B, C, T, W, P, x, keys, k_at, k_shifts, begin, count, p, offsets, e, table, sizes, stride
                    )
                    products.gather(y, W, values, v_at, v_shifts, begin, count, outputs, poses, width_e, stride)

    def backward(
        q, keys, values, position, element, table, chosen, first, sizes, shape,
        dout, dq, dkeys, dvalues, dposition, delement, lo, hi,
    ):  # fmt: skip
        source  # noqa: B018
        outputs, queries, poses, depth, entries = sizes
        heads, position_heads, element_heads, width_e, height, width, side = shape
        offsets, margin, blocks = len(chosen), side // 2, -(-width // WIDTH)
        rows, stride = height + side - 1, blocks * WIDTH + side - 1
        k_row, v_row = (poses * depth + 1) * stride, (poses * width_e + 1) * stride
        k_shifts, v_shifts = chosen // side * k_row + chosen % side, chosen // side * v_row + chosen % side
        A, B, C, T, W, P = _scratch(q, offsets, sizes)
        dW, S = np.empty_like(W), np.empty(scores.sums(sizes), q.dtype)
        q_size, out_size = queries * depth * WIDTH, outputs * width_e * WIDTH
        table_slopes = np.empty(outputs * offsets * depth * WIDTH, q.dtype)
        element_slopes = np.empty(entries * depth * WIDTH, q.dtype)
        for piece in range(lo, hi):
            head = piece % heads
            table_slopes[:] = 0
            element_slopes[:] = 0
            p = position[head % position_heads * outputs * depth * offsets :]
            e = element[head % element_heads * entries * depth :]
            for row in range(height):
                begin = first[max(0, margin - row)]
                count = first[min(side, margin + height - row)] - begin
                for block in range(blocks):
                    at = (piece * height + row) * blocks + block
                    x, dx = q[at * q_size : (at + 1) * q_size], dq[at * q_size : (at + 1) * q_size]
                    dy = dout[at * out_size : (at + 1) * out_size]
                    k_at = (piece * rows + row) * k_row + block * WIDTH
                    v_at = (piece * rows + row) * v_row + block * WIDTH
                    P, whole = _weights(
                        A, B, C, T, W, P, x, keys, k_at, k_shifts, begin, count, p, offsets, e, table, sizes, stride
                    )
                    products.dots(dW, dy, values, v_at, v_shifts, begin, count, outputs, poses, width_e, stride)
                    products.scatter(
                        dvalues, W, dy, v_at, v_shifts, begin, count, side, outputs, poses, width_e, stride
                    )
                    if whole:
                        scores.direct_slopes(A, B, T, P, dW, count, sizes)
                    else:
                        scores.slopes(A, B, C, T, S, dW, count, sizes)
                    products.scatter(dkeys, A, x, k_at, k_shifts, begin, count, side, queries, poses, depth, stride)
                    products.gather(dx, A, keys, k_at, k_shifts, begin, count, queries, poses, depth, stride)
                    products.table_gather(dx, B, p, begin, count, offsets, sizes)
                    products.table_scatter(table_slopes, B, x, begin, count, offsets, sizes)
                    scores.element_slopes(element_slopes, dx, T, x, e, table, sizes)
            for i in range(outputs * offsets * depth):
                dposition[piece * outputs * offsets * depth + i] = total(load(table_slopes, i * WIDTH))
            for i in range(entries * depth):
                delement[piece * entries * depth + i] = total(load(element_slopes, i * WIDTH))

    return entry(forward), entry(backward)


forward, backward = _programs(SOURCE)
