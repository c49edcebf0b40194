"""The products of the numba kernel: vectors of eight pixels times windows of maps, and times tables of numbers.

Arrays are flat. ``planes`` holds maps, of pose m and feature d at start + (m·depth + d)·stride, and behind the last a
plane of where to start; an offset of the window is one shift. A table of numbers comes as planes, too, each number
eight times. ``grid`` says how: (shifts, poses, depth, stride, side of the window). All other arrays hold one vector of
eight for each index. As many left sides as ``rows`` is long are done at once, with two offsets or features.
"""

from e2vit.kernels.cpu.simd import WIDTH, compiled, dot, fma, load, loads, store, stores, zeros


@compiled
def dots(out, left, planes, start, first, count, lefts, grid, rows):
    """out[l,m,o] = last plane(x+o) + Σ_d left[l,d]·plane[m,d](x+o)."""
    shifts, poses, depth, stride, _ = grid
    row, vector = poses * count * WIDTH, depth * WIDTH  # from one l to the next in out and in left
    initial = start + poses * depth * stride
    for l in range(0, lefts, len(rows)):
        for m in range(poses):
            base, to = start + m * depth * stride, (l * poses + m) * count * WIDTH
            for o in range(0, count, 2):
                next = min(o + 1, count - 1)  # the last may be done twice
                s, t = shifts[first + o], shifts[first + next]
                a = zeros(out, rows) + load(planes, initial + s)
                b = zeros(out, rows) + load(planes, initial + t)
                for d in range(depth):
                    x, p = loads(left, l * vector + d * WIDTH, vector, rows), base + d * stride
                    a, b = fma(x, load(planes, p + s), a), fma(x, load(planes, p + t), b)
                stores(out, to + o * WIDTH, row, a)
                stores(out, to + next * WIDTH, row, b)


@compiled
def gather(out, weights, planes, start, first, count, lefts, grid, rows):
    """out[l,e] += Σ_{m,o} weights[l,m,o]·plane[m,e](x+o)."""
    shifts, poses, depth, stride, _ = grid
    row, vector = poses * count * WIDTH, depth * WIDTH
    for l in range(0, lefts, len(rows)):
        for e in range(0, depth, 2):
            next = min(1, depth - 1 - e)
            to = l * vector + e * WIDTH
            a, b = loads(out, to, vector, rows), loads(out, to + next * WIDTH, vector, rows)
            for m in range(poses):
                at, base = (l * poses + m) * count * WIDTH, start + (m * depth + e) * stride
                for o in range(count):
                    s, w = base + shifts[first + o], loads(weights, at + o * WIDTH, row, rows)
                    a, b = fma(w, load(planes, s), a), fma(w, load(planes, s + next * stride), b)
            stores(out, to, vector, a)
            stores(out, to + next * WIDTH, vector, b)


@compiled
def scatter(planes, weights, left, start, first, count, lefts, grid, rows):
    """plane[m,e](x+o) += Σ_l weights[l,m,o]·left[l,e]: the transpose of gather. Offsets go down the window before
    they go right, so that a sum is back in memory before its neighbor overlaps it."""
    shifts, poses, depth, stride, side = grid
    row, vector = poses * count * WIDTH, depth * WIDTH
    for l in range(0, lefts, len(rows)):
        for m in range(poses):
            for e in range(0, depth, 2):
                next = min(1, depth - 1 - e)
                at, base, v = (l * poses + m) * count * WIDTH, start + (m * depth + e) * stride, l * vector + e * WIDTH
                x, y = loads(left, v, vector, rows), loads(left, v + next * WIDTH, vector, rows)
                for column in range(side):
                    for o in range(column, count, side):
                        s, w = base + shifts[first + o], loads(weights, at + o * WIDTH, row, rows)
                        a, b = dot(w, x, load(planes, s)), dot(w, y, load(planes, s + next * stride))
                        store(planes, s, a)
                        store(planes, s + next * stride, b)
