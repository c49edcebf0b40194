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
def _weights(A, B, C, T, E, W, P, x, sources, at, begin, count, table, grids, sizes, rows):
    """W of one block, with what its gradient needs. Returns P and whether whole scores were necessary."""
    outputs, queries, poses, _, entries = sizes
    for attempt in range(2):
        products.dots(A, x, sources[0], at, begin, count, queries, grids[0], rows)
        products.dots(B, x, sources[1], 0, begin, count, queries, grids[1], rows)
        products.dots(E, x, sources[2], 0, 0, entries, queries, grids[2], rows)
        scores.read(C, E, table, sizes)
        if attempt == 0:
            for g in range(queries):
                scores.exponentials(A, g * poses * count * WIDTH, poses * count)
            for pair in range(outputs * queries):
                scores.exponentials(B, pair * count * WIDTH, count)
                scores.exponentials(C, pair * poses * WIDTH, poses)
            if scores.normalize(A, B, C, T, count, sizes, rows) > (1e-20 if A.itemsize == 4 else 1e-250):
                scores.combine(W, A, B, C, count, sizes, rows)
                return P, False
    size = outputs * queries * poses * count * WIDTH
    if len(P) < size:
        P = np.empty(size, A.dtype)
    scores.direct(W, A, B, C, P, count, sizes)
    return P, True


@compiled
def _move(planes, start, stride, maps, at, size, poses, depth, length, back):
    """planes[start + (m·depth + d)·stride + c] ← maps[at + (d·poses + m)·size + c], c < length, or back."""
    for m in range(poses):
        for d in range(depth):
            a, b = start + (m * depth + d) * stride, at + (d * poses + m) * size
            for c in range(0, length - WIDTH + 1, WIDTH):
                if back:
                    store(maps, b + c, load(planes, a + c))
                else:
                    store(planes, a + c, load(maps, b + c))
            for c in range(length // WIDTH * WIDTH, length):
                if back:
                    maps[b + c] = planes[a + c]
                else:
                    planes[a + c] = maps[b + c]


@compiled
def _grid(chosen, poses, depth, width, side):
    """What ``products`` calls so, and the distance of two rows: the planes of a row of pixels side by side, and behind
    them one plane more."""
    stride = -(-width // WIDTH) * WIDTH + side - 1
    row = (poses * depth + 1) * stride
    return (chosen // side * row + chosen % side, poses, depth, stride, side), row


@compiled
def _planes(like, grid, row, height, width, border):
    """Room for the maps of one piece; the last plane is ``border`` where the map has no pixel, else zero."""
    _, _, _, stride, side = grid
    margin = side // 2
    found = np.zeros((height + side - 1, row), like.dtype)
    found[:, row - stride :] = border
    found[margin : margin + height, row - stride + margin : row - stride + margin + width] = 0
    return found.reshape(-1)


@compiled
def _move_rows(planes, grid, row, maps, piece, height, width, back):
    """Of one piece all rows with their margin."""
    _, poses, depth, stride, side = grid
    tall, length = height + side - 1, width + side - 1
    for y in range(tall):
        at = (piece * depth * poses * tall + y) * length
        _move(planes, y * row, stride, maps, at, tall * length, poses, depth, length, back)


def _program(source, backward):
    """The gradients, or the output alone, for numba. ``source`` stands for everything that is called."""

    def run(
        q, k, value, position, element, table, chosen, first, sizes, shape, rows,
        out, dq, dk, dvalue, dposition, delement, lo, hi,
    ):  # fmt: skip
        source  # noqa: B018
        outputs, queries, poses, depth, entries = sizes
        heads, position_heads, element_heads, width_e, height, width, side = shape
        offsets, margin, pixels = len(chosen), side // 2, height * width
        k_grid, k_row = _grid(chosen, poses, depth, width, side)
        v_grid, v_row = _grid(chosen, poses, width_e, width, side)
        p_grid = np.arange(offsets) * WIDTH, outputs, depth, offsets * WIDTH, 1
        e_grid = np.arange(entries) * WIDTH, 1, depth, entries * WIDTH, 1
        p_size, e_size = outputs * depth * offsets, depth * entries
        grids = k_grid, p_grid, e_grid
        keys = _planes(q, k_grid, k_row, height, width, EXCLUDED)
        values = _planes(q, v_grid, v_row, height, width, 0.0)
        room = queries * WIDTH
        A, B = np.empty(room * poses * offsets, q.dtype), np.empty(room * outputs * offsets, q.dtype)
        C, E = np.empty(room * outputs * poses, q.dtype), np.empty(room * entries, q.dtype)
        T, W, P = np.empty_like(C), np.empty(outputs * poses * offsets * WIDTH, q.dtype), np.empty(0, q.dtype)
        x, y = np.zeros(queries * depth * WIDTH, q.dtype), np.zeros(outputs * width_e * WIDTH, q.dtype)
        if backward:
            dx, dkeys, dvalues = np.empty_like(x), np.empty_like(keys), np.empty_like(values)
            dW, S = np.empty_like(W), np.empty(scores.sums(sizes), q.dtype)
            p_slopes, e_slopes = np.empty(p_size * WIDTH, q.dtype), np.empty(e_size * WIDTH, q.dtype)
        for piece in range(lo, hi):
            p = position[piece % heads % position_heads * (p_size + offsets) * WIDTH :]
            e = element[piece % heads % element_heads * (e_size + entries) * WIDTH :]
            _move_rows(keys, k_grid, k_row, k, piece, height, width, False)
            _move_rows(values, v_grid, v_row, value, piece, height, width, False)
            if backward:
                for slopes in (dkeys, dvalues, p_slopes, e_slopes):
                    slopes[:] = 0
            for row in range(height):
                begin = first[max(0, margin - row)]
                count = first[min(side, margin + height - row)] - begin
                for column in range(0, width, WIDTH):
                    lanes, pixel = min(WIDTH, width - column), row * width + column
                    q_at, out_at = piece * depth * queries * pixels + pixel, piece * width_e * outputs * pixels + pixel
                    k_at, v_at = k_row * row + column, v_row * row + column
                    x[:] = 0
                    y[:] = 0
                    _move(x, 0, WIDTH, q, q_at, pixels, queries, depth, lanes, False)
                    P, whole = _weights(
                        A, B, C, T, E, W, P, x, (keys, p, e), k_at, begin, count, table, grids, sizes, rows
                    )
                    if not backward:
                        products.gather(y, W, values, v_at, begin, count, outputs, v_grid, rows)
                        _move(y, 0, WIDTH, out, out_at, pixels, outputs, width_e, lanes, True)
                        continue
                    _move(y, 0, WIDTH, out, out_at, pixels, outputs, width_e, lanes, False)
                    products.dots(dW, y, values, v_at, begin, count, outputs, v_grid, rows)
                    products.scatter(dvalues, W, y, v_at, begin, count, outputs, v_grid, rows)
                    if whole:
                        scores.direct_slopes(A, B, T, P, dW, count, sizes)
                    else:
                        scores.slopes(A, B, C, T, S, dW, count, sizes, rows)
                    scores.write(E, T, table, sizes)
                    dx[:] = 0
                    products.gather(dx, A, keys, k_at, begin, count, queries, k_grid, rows)
                    products.gather(dx, B, p, 0, begin, count, queries, p_grid, rows)
                    products.gather(dx, E, e, 0, 0, entries, queries, e_grid, rows)
                    products.scatter(dkeys, A, x, k_at, begin, count, queries, k_grid, rows)
                    products.scatter(p_slopes, B, x, 0, begin, count, queries, p_grid, rows)
                    products.scatter(e_slopes, E, x, 0, 0, entries, queries, e_grid, rows)
                    _move(dx, 0, WIDTH, dq, q_at, pixels, queries, depth, lanes, True)
            if backward:
                _move_rows(dkeys, k_grid, k_row, dk, piece, height, width, True)
                _move_rows(dvalues, v_grid, v_row, dvalue, piece, height, width, True)
                for i in range(p_size):
                    dposition[piece * p_size + i] = total(load(p_slopes, i * WIDTH))
                for i in range(e_size):
                    delement[piece * e_size + i] = total(load(e_slopes, i * WIDTH))

    return entry(run)


forward, backward = _program(SOURCE, False), _program(SOURCE, True)
