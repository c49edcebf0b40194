"""The products of the numba kernel: vectors of eight pixels times windows of maps, and times tables of numbers.

Each works on blocks of four rows by two columns (or one row by eight), so that eight sums stay in registers.
Arrays are flat. A "plane" array holds rows of maps: index(row, plane, column) = (row·planes + plane)·stride + column,
so that a window is near in memory and an offset is one shift. All others hold one vector of eight for each index.
"""

from e2vit.kernels.cpu.simd import WIDTH, compiled, fill, fma, load, store, zero


@compiled
def dots(out, left, planes, start, shifts, first, count, lefts, poses, depth, stride):
    """out[l,m,o] = last plane(x+o) + Σ_d left[l,d]·plane[m,d](x+o)."""
    row, vector = poses * count * WIDTH, depth * WIDTH  # from one l to the next in out and in left
    initial = start + poses * depth * stride
    for l in range(0, lefts - 3, 4):
        for m in range(poses):
            base, to, v = start + m * depth * stride, (l * poses + m) * count * WIDTH, l * vector
            for o in range(0, count - 1, 2):
                s, t = shifts[first + o], shifts[first + o + 1]
                a0, b0 = load(planes, initial + s), load(planes, initial + t)
                a1, a2, a3, b1, b2, b3 = a0, a0, a0, b0, b0, b0
                for d in range(depth):
                    p, r = load(planes, base + d * stride + s), load(planes, base + d * stride + t)
                    x0, x1 = load(left, v + d * WIDTH), load(left, v + vector + d * WIDTH)
                    x2, x3 = load(left, v + 2 * vector + d * WIDTH), load(left, v + 3 * vector + d * WIDTH)
                    a0, a1, a2, a3 = fma(x0, p, a0), fma(x1, p, a1), fma(x2, p, a2), fma(x3, p, a3)
                    b0, b1, b2, b3 = fma(x0, r, b0), fma(x1, r, b1), fma(x2, r, b2), fma(x3, r, b3)
                i = to + o * WIDTH
                store(out, i, a0)
                store(out, i + row, a1)
                store(out, i + 2 * row, a2)
                store(out, i + 3 * row, a3)
                i += WIDTH
                store(out, i, b0)
                store(out, i + row, b1)
                store(out, i + 2 * row, b2)
                store(out, i + 3 * row, b3)
            if count % 2:
                for one in range(l, l + 4):
                    _dot(
                        out,
                        left,
                        planes,
                        base,
                        initial,
                        shifts[first + count - 1],
                        one * vector,
                        ((one * poses + m + 1) * count - 1) * WIDTH,
                        depth,
                        stride,
                    )
    for l in range(lefts // 4 * 4, lefts):
        for m in range(poses):
            base, to, v = start + m * depth * stride, (l * poses + m) * count * WIDTH, l * vector
            for o in range(0, count - 7, 8):
                s = first + o
                s0, s1, s2, s3 = shifts[s], shifts[s + 1], shifts[s + 2], shifts[s + 3]
                s4, s5, s6, s7 = shifts[s + 4], shifts[s + 5], shifts[s + 6], shifts[s + 7]
                a0, a1 = load(planes, initial + s0), load(planes, initial + s1)
                a2, a3 = load(planes, initial + s2), load(planes, initial + s3)
                a4, a5 = load(planes, initial + s4), load(planes, initial + s5)
                a6, a7 = load(planes, initial + s6), load(planes, initial + s7)
                for d in range(depth):
                    x, p = load(left, v + d * WIDTH), base + d * stride
                    a0, a1 = fma(x, load(planes, p + s0), a0), fma(x, load(planes, p + s1), a1)
                    a2, a3 = fma(x, load(planes, p + s2), a2), fma(x, load(planes, p + s3), a3)
                    a4, a5 = fma(x, load(planes, p + s4), a4), fma(x, load(planes, p + s5), a5)
                    a6, a7 = fma(x, load(planes, p + s6), a6), fma(x, load(planes, p + s7), a7)
                i = to + o * WIDTH
                store(out, i, a0)
                store(out, i + WIDTH, a1)
                store(out, i + 2 * WIDTH, a2)
                store(out, i + 3 * WIDTH, a3)
                store(out, i + 4 * WIDTH, a4)
                store(out, i + 5 * WIDTH, a5)
                store(out, i + 6 * WIDTH, a6)
                store(out, i + 7 * WIDTH, a7)
            for o in range(count // 8 * 8, count):
                _dot(out, left, planes, base, initial, shifts[first + o], v, to + o * WIDTH, depth, stride)


@compiled
def _dot(out, left, planes, base, initial, shift, vector, to, depth, stride):
    a = load(planes, initial + shift)
    for d in range(depth):
        a = fma(load(left, vector + d * WIDTH), load(planes, base + d * stride + shift), a)
    store(out, to, a)


@compiled
def gather(out, weights, planes, start, shifts, first, count, lefts, poses, depth, stride):
    """out[l,e] = Σ_{m,o} weights[l,m,o]·plane[m,e](x+o)."""
    row, vector = poses * count * WIDTH, depth * WIDTH
    for l in range(0, lefts, 4 if lefts % 4 == 0 else 1):
        for e in range(0, depth, 2):
            two = e + 1 < depth
            a0, a1, a2, a3, b0, b1, b2, b3 = (
                zero(out),
                zero(out),
                zero(out),
                zero(out),
                zero(out),
                zero(out),
                zero(out),
                zero(out),
            )
            for m in range(poses):
                at, base = (l * poses + m) * count * WIDTH, start + (m * depth + e) * stride
                next_plane = stride if two else 0
                if lefts % 4 == 0:
                    for o in range(count):
                        s, i = base + shifts[first + o], at + o * WIDTH
                        p, r = load(planes, s), load(planes, s + next_plane)
                        w0, w1 = load(weights, i), load(weights, i + row)
                        w2, w3 = load(weights, i + 2 * row), load(weights, i + 3 * row)
                        a0, a1, a2, a3 = fma(w0, p, a0), fma(w1, p, a1), fma(w2, p, a2), fma(w3, p, a3)
                        b0, b1, b2, b3 = fma(w0, r, b0), fma(w1, r, b1), fma(w2, r, b2), fma(w3, r, b3)
                else:
                    for o in range(count):
                        s, w = base + shifts[first + o], load(weights, at + o * WIDTH)
                        a0, b0 = fma(w, load(planes, s), a0), fma(w, load(planes, s + next_plane), b0)
            to = l * vector + e * WIDTH
            store(out, to, a0)
            if two:
                store(out, to + WIDTH, b0)
            if lefts % 4 == 0:
                store(out, to + vector, a1)
                store(out, to + 2 * vector, a2)
                store(out, to + 3 * vector, a3)
                if two:
                    to += WIDTH
                    store(out, to + vector, b1)
                    store(out, to + 2 * vector, b2)
                    store(out, to + 3 * vector, b3)


@compiled
def scatter(planes, weights, left, start, shifts, first, count, side, lefts, poses, depth, stride):
    """plane[m,e](x+o) += Σ_l weights[l,m,o]·left[l,e]: the transpose of gather. Offsets go down the window before
    they go right, so that a sum is back in memory before its neighbor overlaps it."""
    row, vector = poses * count * WIDTH, depth * WIDTH
    for l in range(0, lefts, 4 if lefts % 4 == 0 else 1):
        for m in range(poses):
            for e in range(0, depth, 2):
                at, base, v = (l * poses + m) * count * WIDTH, start + (m * depth + e) * stride, l * vector + e * WIDTH
                if lefts % 4 == 0 and e + 1 < depth:
                    x0, x1 = load(left, v), load(left, v + vector)
                    x2, x3 = load(left, v + 2 * vector), load(left, v + 3 * vector)
                    y0, y1 = load(left, v + WIDTH), load(left, v + vector + WIDTH)
                    y2, y3 = load(left, v + 2 * vector + WIDTH), load(left, v + 3 * vector + WIDTH)
                    for column in range(side):
                        for o in range(column, count, side):
                            s, i = base + shifts[first + o], at + o * WIDTH
                            a, b = load(planes, s), load(planes, s + stride)
                            w0, w1 = load(weights, i), load(weights, i + row)
                            w2, w3 = load(weights, i + 2 * row), load(weights, i + 3 * row)
                            a, b = fma(w1, x1, fma(w0, x0, a)), fma(w1, y1, fma(w0, y0, b))
                            a, b = fma(w3, x3, fma(w2, x2, a)), fma(w3, y3, fma(w2, y2, b))
                            store(planes, s, a)
                            store(planes, s + stride, b)
                else:
                    for i in range(l, l + (4 if lefts % 4 == 0 else 1)):
                        for plane in range(e, min(e + 2, depth)):
                            x, base = load(left, (i * depth + plane) * WIDTH), start + (m * depth + plane) * stride
                            for column in range(side):
                                for o in range(column, count, side):
                                    s = base + shifts[first + o]
                                    w = load(weights, ((i * poses + m) * count + o) * WIDTH)
                                    store(planes, s, fma(w, x, load(planes, s)))


@compiled
def table_dots(out, left, numbers, columns, first, count, vector, row, at, depth):
    """out[at + o] = Σ_d left[d]·numbers[row + d, first + o], one number for all pixels."""
    for block in range(count // 8):
        o = row + first + block * 8
        a0, a1, a2, a3 = zero(out), zero(out), zero(out), zero(out)
        a4, a5, a6, a7 = zero(out), zero(out), zero(out), zero(out)
        for d in range(depth):
            x, p = load(left, vector + d * WIDTH), o + d * columns
            a0, a1 = fma(x, fill(numbers, p), a0), fma(x, fill(numbers, p + 1), a1)
            a2, a3 = fma(x, fill(numbers, p + 2), a2), fma(x, fill(numbers, p + 3), a3)
            a4, a5 = fma(x, fill(numbers, p + 4), a4), fma(x, fill(numbers, p + 5), a5)
            a6, a7 = fma(x, fill(numbers, p + 6), a6), fma(x, fill(numbers, p + 7), a7)
        to = at + block * 8 * WIDTH
        store(out, to, a0)
        store(out, to + WIDTH, a1)
        store(out, to + 2 * WIDTH, a2)
        store(out, to + 3 * WIDTH, a3)
        store(out, to + 4 * WIDTH, a4)
        store(out, to + 5 * WIDTH, a5)
        store(out, to + 6 * WIDTH, a6)
        store(out, to + 7 * WIDTH, a7)
    for o in range(count // 8 * 8, count):
        a = zero(out)
        for d in range(depth):
            a = fma(load(left, vector + d * WIDTH), fill(numbers, row + d * columns + first + o), a)
        store(out, at + o * WIDTH, a)


@compiled
def table_gather(dx, dB, numbers, first, count, columns, sizes):
    """dx[g,d] += Σ_{v,o} dB[v,g,o]·position[v,d,o]."""
    outputs, queries, _, depth, _ = sizes
    four, jump, vector = queries % 4 == 0, count * WIDTH, depth * WIDTH
    for g in range(0, queries, 4 if four else 1):
        for d in range(depth):
            x = g * vector + d * WIDTH
            a0, a1, a2, a3 = load(dx, x), zero(dx), zero(dx), zero(dx)
            for v in range(outputs):
                at, p = (v * queries + g) * jump, (v * depth + d) * columns + first
                if four:
                    for o in range(count):
                        i, n = at + o * WIDTH, fill(numbers, p + o)
                        a0, a1 = fma(n, load(dB, i), a0), fma(n, load(dB, i + jump), a1)
                        a2, a3 = fma(n, load(dB, i + 2 * jump), a2), fma(n, load(dB, i + 3 * jump), a3)
                else:
                    for o in range(count):
                        a0 = fma(fill(numbers, p + o), load(dB, at + o * WIDTH), a0)
            store(dx, x, a0)
            if four:
                for i, a in ((1, a1), (2, a2), (3, a3)):
                    store(dx, x + i * vector, a + load(dx, x + i * vector))


@compiled
def table_scatter(slopes, dB, x, first, count, columns, sizes):
    """slopes[v,o,d] += Σ_g dB[v,g,o]·q[g,d], lane by lane."""
    outputs, queries, _, depth, _ = sizes
    four, jump, vector = queries % 4 == 0, count * WIDTH, depth * WIDTH
    for v in range(outputs):
        for g in range(0, queries, 4 if four else 1):
            at = (v * queries + g) * jump
            for d in range(depth):
                i, to = g * vector + d * WIDTH, ((v * columns + first) * depth + d) * WIDTH
                if four:
                    x0, x1 = load(x, i), load(x, i + vector)
                    x2, x3 = load(x, i + 2 * vector), load(x, i + 3 * vector)
                    for o in range(count):
                        s, b = to + o * vector, at + o * WIDTH
                        a = fma(load(dB, b + jump), x1, fma(load(dB, b), x0, load(slopes, s)))
                        a = fma(load(dB, b + 3 * jump), x3, fma(load(dB, b + 2 * jump), x2, a))
                        store(slopes, s, a)
                else:
                    x0 = load(x, i)
                    for o in range(count):
                        s = to + o * vector
                        store(slopes, s, fma(load(dB, at + o * WIDTH), x0, load(slopes, s)))
