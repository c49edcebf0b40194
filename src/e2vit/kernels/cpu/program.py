"""Group attention of whole images, one (image, head) after the other, eight pixels at a time: what numba compiles.

The maps of a head are copied into "planes" (see ``products``), the gradients of keys and values summed in planes.
"""

import numpy as np

from e2vit.kernels.cpu import products
from e2vit.kernels.cpu import scores as weights
from e2vit.kernels.cpu.simd import compiled, load, total

EXCLUDED = -1e30  # the score of a key beyond the border; finite, so that no infinity meets another


@compiled
def _planes(source, at, depth, poses, rows, columns, stride, margin, height, width):
    """The maps of one head as rows of (pose, feature) planes, and behind them one plane that is ``EXCLUDED`` where
    no pixel of the map is. margin < 0: that plane is zero."""
    planes = np.zeros(rows * (depth * poses + 1) * stride + 8, source.dtype)
    for d in range(depth):
        for m in range(poses):
            for row in range(rows):
                to = (row * (depth * poses + 1) + m * depth + d) * stride
                start = at + ((d * poses + m) * rows + row) * columns
                for column in range(columns):
                    planes[to + column] = source[start + column]
    if margin >= 0:
        for row in range(rows):
            to = (row * (depth * poses + 1) + poses * depth) * stride
            for column in range(stride):
                inside = margin <= row < margin + height and margin <= column < margin + width
                planes[to + column] = 0 if inside else EXCLUDED
    return planes


@compiled
def _unplane(planes, result, at, depth, poses, rows, columns, stride):
    for d in range(depth):
        for m in range(poses):
            for row in range(rows):
                start = (row * (depth * poses + 1) + m * depth + d) * stride
                to = at + ((d * poses + m) * rows + row) * columns
                for column in range(columns):
                    result[to + column] = planes[start + column]


@compiled
def _read(vectors, source, at, depth, poses, pixels, wide):
    """vectors[pose, feature] of up to eight pixels, zeros for the rest."""
    for d in range(depth):
        for pose in range(poses):
            to, start = (pose * depth + d) * 8, at + (d * poses + pose) * pixels
            for lane in range(8):
                vectors[to + lane] = source[start + lane] if lane < wide else 0


@compiled
def _write(vectors, result, at, depth, poses, pixels, wide):
    for d in range(depth):
        for pose in range(poses):
            start, to = (pose * depth + d) * 8, at + (d * poses + pose) * pixels
            for lane in range(wide):
                result[to + lane] = vectors[start + lane]


@compiled
def _weights(
    A,
    B,
    C,
    T,
    W,
    P,
    x,
    kp,
    row,
    column,
    k_shifts,
    first,
    count,
    position,
    columns,
    element,
    table,
    sizes,
    stride,
    tiny,
):
    """W of one tile, with what its gradient needs. Returns whether whole scores were necessary."""
    outputs, queries, poses, depth, _ = sizes
    start = row * (poses * depth + 1) * stride + column
    border = start + poses * depth * stride
    for attempt in range(2):
        weights.logits(
            A,
            B,
            C,
            x,
            kp,
            start,
            border,
            k_shifts,
            first,
            count,
            position,
            columns,
            element,
            table,
            sizes,
            stride,
        )
        if attempt == 0:
            for g in range(queries):
                weights.exponentials(A, g * poses * count * 8, poses * count)
            for pair in range(outputs * queries):
                weights.exponentials(B, pair * count * 8, count)
                weights.exponentials(C, pair * poses * 8, poses)
            if weights.normalize(A, B, C, T, count, sizes) > tiny:
                weights.combine(W, A, B, C, count, sizes)
                return P, False
    if len(P) == 0:
        P = np.empty(outputs * queries * poses * columns * 8, A.dtype)
    weights.direct(W, A, B, C, P, count, sizes)
    return P, True


@compiled
def _scratch(q, offsets, sizes):
    outputs, queries, poses, _, _ = sizes
    A, B = np.empty(queries * poses * offsets * 8, q.dtype), np.empty(outputs * queries * offsets * 8, q.dtype)
    C, T = np.empty(outputs * queries * poses * 8, q.dtype), np.empty(outputs * queries * poses * 8, q.dtype)
    W = np.empty(outputs * poses * offsets * 8, q.dtype)
    return A, B, C, T, W, np.empty(0, q.dtype)


@compiled
def _shifts(chosen, side, planes, stride):
    return chosen // side * planes * stride + chosen % side


def forward(q, k, value, position, chosen, first, element, table, sizes, shape, out, lo, hi):
    outputs, queries, poses, depth, entries = sizes
    heads, position_heads, element_heads, width_e, height, width, side = shape
    offsets, margin, pixels = len(chosen), side // 2, height * width
    rows, columns, stride = height + side - 1, width + side - 1, (width + 7) // 8 * 8 + side - 1
    k_shifts = _shifts(chosen, side, poses * depth + 1, stride)
    v_shifts = _shifts(chosen, side, poses * width_e + 1, stride)
    A, B, C, T, W, P = _scratch(q, offsets, sizes)
    x, y = np.empty(queries * depth * 8, q.dtype), np.empty(outputs * width_e * 8, q.dtype)
    tiny = 1e-20 if q.itemsize == 4 else 1e-250
    for piece in range(lo, hi):
        head = piece % heads
        kp = _planes(
            k, piece * depth * poses * rows * columns, depth, poses, rows, columns, stride, margin, height, width
        )
        vp = _planes(
            value, piece * width_e * poses * rows * columns, width_e, poses, rows, columns, stride, -1, height, width
        )
        p = position[head % position_heads * outputs * depth * offsets :]
        e = element[head % element_heads * entries * depth :]
        for row in range(height):
            begin = first[max(0, margin - row)]
            count = first[min(side, margin + height - row)] - begin
            for column in range(0, width, 8):
                wide, pixel = min(8, width - column), row * width + column
                _read(x, q, piece * depth * queries * pixels + pixel, depth, queries, pixels, wide)
                P, _ = _weights(
                    A,
                    B,
                    C,
                    T,
                    W,
                    P,
                    x,
                    kp,
                    row,
                    column,
                    k_shifts,
                    begin,
                    count,
                    p,
                    offsets,
                    e,
                    table,
                    sizes,
                    stride,
                    tiny,
                )
                start = row * (poses * width_e + 1) * stride + column
                products.gather(y, W, vp, start, v_shifts, begin, count, outputs, poses, width_e, stride)
                _write(y, out, piece * width_e * outputs * pixels + pixel, width_e, outputs, pixels, wide)


def backward(
    q,
    k,
    value,
    position,
    chosen,
    first,
    element,
    table,
    sizes,
    shape,
    dout,
    dq,
    dk,
    dvalue,
    dposition,
    delement,
    lo,
    hi,
):
    outputs, queries, poses, depth, entries = sizes
    heads, position_heads, element_heads, width_e, height, width, side = shape
    offsets, margin, pixels = len(chosen), side // 2, height * width
    rows, columns, stride = height + side - 1, width + side - 1, (width + 7) // 8 * 8 + side - 1
    k_shifts = _shifts(chosen, side, poses * depth + 1, stride)
    v_shifts = _shifts(chosen, side, poses * width_e + 1, stride)
    A, B, C, T, W, P = _scratch(q, offsets, sizes)
    dW, S = np.empty_like(W), np.empty((outputs * queries * (poses + 1) + (poses + 1) * weights.CHUNK) * 8, q.dtype)
    x, dx = np.empty(queries * depth * 8, q.dtype), np.empty(queries * depth * 8, q.dtype)
    dy = np.empty(outputs * width_e * 8, q.dtype)
    table_slopes = np.empty(outputs * offsets * depth * 8, q.dtype)
    element_slopes = np.empty(entries * depth * 8, q.dtype)
    tiny = 1e-20 if q.itemsize == 4 else 1e-250
    for piece in range(lo, hi):
        head = piece % heads
        kp = _planes(
            k, piece * depth * poses * rows * columns, depth, poses, rows, columns, stride, margin, height, width
        )
        vp = _planes(
            value, piece * width_e * poses * rows * columns, width_e, poses, rows, columns, stride, -1, height, width
        )
        dkp, dvp = np.zeros_like(kp), np.zeros_like(vp)
        table_slopes[:] = 0
        element_slopes[:] = 0
        p = position[head % position_heads * outputs * depth * offsets :]
        e = element[head % element_heads * entries * depth :]
        for row in range(height):
            begin = first[max(0, margin - row)]
            count = first[min(side, margin + height - row)] - begin
            for column in range(0, width, 8):
                wide, pixel = min(8, width - column), row * width + column
                _read(x, q, piece * depth * queries * pixels + pixel, depth, queries, pixels, wide)
                _read(dy, dout, piece * width_e * outputs * pixels + pixel, width_e, outputs, pixels, wide)
                P, whole = _weights(
                    A,
                    B,
                    C,
                    T,
                    W,
                    P,
                    x,
                    kp,
                    row,
                    column,
                    k_shifts,
                    begin,
                    count,
                    p,
                    offsets,
                    e,
                    table,
                    sizes,
                    stride,
                    tiny,
                )
                at_v = row * (poses * width_e + 1) * stride + column
                at_k = row * (poses * depth + 1) * stride + column
                products.dots(
                    dW,
                    dy,
                    vp,
                    at_v,
                    at_v + poses * width_e * stride,
                    v_shifts,
                    begin,
                    count,
                    outputs,
                    poses,
                    width_e,
                    stride,
                )
                products.scatter(dvp, W, dy, at_v, v_shifts, begin, count, side, outputs, poses, width_e, stride)
                if whole:
                    weights.direct_slopes(A, B, T, P, dW, count, sizes)
                else:
                    weights.slopes(A, B, C, T, S, dW, count, sizes)
                products.scatter(dkp, A, x, at_k, k_shifts, begin, count, side, queries, poses, depth, stride)
                products.gather(dx, A, kp, at_k, k_shifts, begin, count, queries, poses, depth, stride)
                products.table_gather(dx, B, p, begin, count, offsets, sizes)
                products.table_scatter(table_slopes, B, x, begin, count, offsets, sizes)
                weights.element_slopes(element_slopes, dx, T, x, e, table, sizes)
                _write(dx, dq, piece * depth * queries * pixels + pixel, depth, queries, pixels, wide)
        _unplane(dkp, dk, piece * depth * poses * rows * columns, depth, poses, rows, columns, stride)
        _unplane(dvp, dvalue, piece * width_e * poses * rows * columns, width_e, poses, rows, columns, stride)
        for i in range(outputs * offsets * depth):
            dposition[piece * outputs * offsets * depth + i] = total(load(table_slopes, i * 8))
        for i in range(entries * depth):
            delement[piece * entries * depth + i] = total(load(element_slopes, i * 8))
