"""The weights of group attention for eight neighboring pixels of one head, and their gradients, as loops over vectors.

The exponential of a score factors, and the work with it:

    A[g,m,o] = exp(q_g·k_m(x+o)),  B[v,g,o] = exp(q_g·position[v,o]),  C[v,g,m] = exp(q_g·element[table[v,g,m]])
    Z[v,g] = Σ_{m,o} A B C         R = C / Z         W[v,m,o] = Σ_g A B R         out[v] = Σ_{m,o} W[v,m,o] value_m(x+o)

so |H|² exponentials for each offset are enough, and the values are applied once for each output pose. Every factor is
divided by its own maximum; when those maxima lie so far apart that Z comes near the smallest number of the dtype, the
weights are computed again from whole scores (``direct``).

Arrays are flat, one vector of eight for each index. Loops run over ``CHUNK`` offsets at a time, so that what they
share stays in the first cache. ``sizes`` are the numbers of output poses v, query poses g, key poses m, features and
entries of the table.
"""

from e2vit.kernels.cpu.products import dots, table_dots
from e2vit.kernels.cpu.simd import compiled, exp, fill, fma, load, lowest, peak, store, zero

CHUNK = 16


@compiled
def exponentials(x, at, count):
    """x[at + i] ← exp(x[at + i] − their maximum)."""
    top = load(x, at)
    t0, t1, t2, t3 = top, top, top, top
    for i in range(at, at + count // 4 * 32, 32):
        t0, t1, t2, t3 = (
            peak(t0, load(x, i)),
            peak(t1, load(x, i + 8)),
            peak(t2, load(x, i + 16)),
            peak(t3, load(x, i + 24)),
        )
    top = peak(peak(t0, t1), peak(t2, t3))
    for i in range(at + count // 4 * 32, at + count * 8, 8):
        top = peak(top, load(x, i))
    for i in range(at, at + count * 8, 8):
        store(x, i, exp(load(x, i) - top))


@compiled
def logits(A, B, C, q, keys, at, shifts, first, count, position, columns, element, table, sizes, stride):
    """The three parts of the scores. C first holds q_g·element, then is read through the table into C[v,g,m]."""
    outputs, queries, poses, depth, entries = sizes
    dots(A, q, keys, at, shifts, first, count, queries, poses, depth, stride)
    for v in range(outputs):
        for g in range(queries):
            pair = v * queries + g
            table_dots(
                B, q, position, columns, first, count, g * depth * 8, v * depth * columns, pair * count * 8, depth
            )
            for m in range(poses):
                entry = table[v, g, m]
                a = zero(C)
                for d in range(depth):
                    a = fma(load(q, (g * depth + d) * 8), fill(element, entry * depth + d), a)
                store(C, (pair * poses + m) * 8, a)


@compiled
def normalize(A, B, C, T, count, sizes):
    """T[v,g,m] = Σ_o A B, and C becomes R = C / Z. Returns the smallest Z."""
    outputs, queries, poses, _, _ = sizes
    smallest = lowest(zero(C)) + 1e30
    for g in range(queries):
        for v in range(outputs):
            pair, jump = v * queries + g, count * 8
            b = pair * jump
            for m in range(0, poses - 3, 4):
                a0, a1, a2, a3 = zero(A), zero(A), zero(A), zero(A)
                at = (g * poses + m) * jump
                for o in range(0, jump, 8):
                    y, a = load(B, b + o), at + o
                    a0, a1 = fma(y, load(A, a), a0), fma(y, load(A, a + jump), a1)
                    a2, a3 = fma(y, load(A, a + 2 * jump), a2), fma(y, load(A, a + 3 * jump), a3)
                to = (pair * poses + m) * 8
                store(T, to, a0)
                store(T, to + 8, a1)
                store(T, to + 16, a2)
                store(T, to + 24, a3)
            for m in range(poses // 4 * 4, poses):
                a0 = zero(A)
                for o in range(0, jump, 8):
                    a0 = fma(load(B, b + o), load(A, (g * poses + m) * jump + o), a0)
                store(T, (pair * poses + m) * 8, a0)
            normalizer = zero(A)
            for m in range(pair * poses * 8, (pair + 1) * poses * 8, 8):
                normalizer = fma(load(C, m), load(T, m), normalizer)
            for m in range(pair * poses * 8, (pair + 1) * poses * 8, 8):
                store(C, m, load(C, m) / normalizer)
            smallest = min(smallest, lowest(normalizer))
    return smallest


@compiled
def combine(W, A, B, R, count, sizes):
    """W[v,m,o] = Σ_g A B R."""
    outputs, queries, poses, _, _ = sizes
    four, jump, leap = queries % 4 == 0, count * 8, poses * count * 8
    for begin in range(0, jump, CHUNK * 8):
        end = min(begin + CHUNK * 8, jump)
        for v in range(outputs):
            for m in range(poses):
                w = (v * poses + m) * jump
                for o in range(w + begin, w + end, 8):
                    store(W, o, zero(W))
                for g in range(0, queries, 4 if four else 1):
                    pair = v * queries + g
                    a, b, r = (g * poses + m) * jump, pair * jump, (pair * poses + m) * 8
                    r0 = load(R, r)
                    if four:
                        r1, r2 = load(R, r + poses * 8), load(R, r + poses * 16)
                        r3 = load(R, r + poses * 24)
                        for o in range(begin, end, 8):
                            i, j = a + o, b + o
                            s = fma(load(A, i) * load(B, j), r0, load(W, w + o))
                            t = load(A, i + leap) * load(B, j + jump) * r1
                            s = fma(load(A, i + 2 * leap) * load(B, j + 2 * jump), r2, s)
                            t = fma(load(A, i + 3 * leap) * load(B, j + 3 * jump), r3, t)
                            store(W, w + o, s + t)
                    else:
                        for o in range(begin, end, 8):
                            store(W, w + o, fma(load(A, a + o) * load(B, b + o), r0, load(W, w + o)))


@compiled
def sums(sizes):
    """Length of the array S of ``slopes``."""
    outputs, queries, poses, _, _ = sizes
    return (outputs * queries * (poses + 1) + (poses + 1) * CHUNK) * 8


@compiled
def slopes(A, B, R, T, S, dW, count, sizes):
    """The gradients of the three parts of the scores, written over A, B and T. dW[v,m,o] is the gradient of W.

    With D[v,g] = Σ_{m,o} A B R dW, a score has the gradient A B R (dW − D). S holds sums on the way.
    """
    outputs, queries, poses, _, _ = sizes
    pairs, jump = outputs * queries, count * 8
    means, own = pairs * poses * 8, (pairs * poses + pairs) * 8
    fors = own + CHUNK * 8
    S[:means] = 0
    for begin in range(0, jump, CHUNK * 8):
        end = min(begin + CHUNK * 8, jump)
        for g in range(queries):
            for v in range(outputs):
                pair = v * queries + g
                for m in range(0, poses - 3, 4):
                    a, b, w, s = (g * poses + m) * jump, pair * jump, (v * poses + m) * jump, (pair * poses + m) * 8
                    s0, s1, s2, s3 = load(S, s), load(S, s + 8), load(S, s + 16), load(S, s + 24)
                    for o in range(begin, end, 8):
                        y = load(B, b + o)
                        s0 = fma(load(A, a + o) * y, load(dW, w + o), s0)
                        s1 = fma(load(A, a + jump + o) * y, load(dW, w + jump + o), s1)
                        s2 = fma(load(A, a + 2 * jump + o) * y, load(dW, w + 2 * jump + o), s2)
                        s3 = fma(load(A, a + 3 * jump + o) * y, load(dW, w + 3 * jump + o), s3)
                    store(S, s, s0)
                    store(S, s + 8, s1)
                    store(S, s + 16, s2)
                    store(S, s + 24, s3)
                for m in range(poses // 4 * 4, poses):
                    a, b, w, s = (g * poses + m) * jump, pair * jump, (v * poses + m) * jump, (pair * poses + m) * 8
                    s0 = load(S, s)
                    for o in range(begin, end, 8):
                        s0 = fma(load(A, a + o) * load(B, b + o), load(dW, w + o), s0)
                    store(S, s, s0)
    for pair in range(pairs):
        mean = zero(S)
        for i in range(pair * poses * 8, (pair + 1) * poses * 8, 8):
            mean = fma(load(S, i), load(R, i), mean)
        for i in range(pair * poses * 8, (pair + 1) * poses * 8, 8):
            store(T, i, load(R, i) * (load(S, i) - mean * load(T, i)))
        store(S, means + pair * 8, mean)
    for begin in range(0, jump, CHUNK * 8):
        end = min(begin + CHUNK * 8, jump)
        for g in range(queries):
            for i in range(fors, fors + poses * CHUNK * 8, 8):
                store(S, i, zero(S))
            for v in range(outputs):
                pair = v * queries + g
                mean, b = load(S, means + pair * 8), pair * jump
                for i in range(own, own + CHUNK * 8, 8):
                    store(S, i, zero(S))
                for m in range(0, poses - 3, 4):
                    a, w, r = (g * poses + m) * jump, (v * poses + m) * jump, (pair * poses + m) * 8
                    r0, r1, r2, r3 = load(R, r), load(R, r + 8), load(R, r + 16), load(R, r + 24)
                    for o in range(begin, end, 8):
                        f, i, j, y = fors + m * CHUNK * 8 + o - begin, a + o, w + o, load(B, b + o)
                        e0, e1 = (load(dW, j) - mean) * r0, (load(dW, j + jump) - mean) * r1
                        e2, e3 = (load(dW, j + 2 * jump) - mean) * r2, (load(dW, j + 3 * jump) - mean) * r3
                        store(S, f, fma(e0, y, load(S, f)))
                        store(S, f + CHUNK * 8, fma(e1, y, load(S, f + CHUNK * 8)))
                        store(S, f + CHUNK * 16, fma(e2, y, load(S, f + CHUNK * 16)))
                        store(S, f + CHUNK * 24, fma(e3, y, load(S, f + CHUNK * 24)))
                        h = fma(e0, load(A, i), load(S, own + o - begin))
                        h = fma(e1, load(A, i + jump), h) + fma(e3, load(A, i + 3 * jump), e2 * load(A, i + 2 * jump))
                        store(S, own + o - begin, h)
                for m in range(poses // 4 * 4, poses):
                    a, w, r0 = (g * poses + m) * jump, (v * poses + m) * jump, load(R, (pair * poses + m) * 8)
                    for o in range(begin, end, 8):
                        f, e0 = fors + m * CHUNK * 8 + o - begin, (load(dW, w + o) - mean) * r0
                        store(S, f, fma(e0, load(B, b + o), load(S, f)))
                        store(S, own + o - begin, fma(e0, load(A, a + o), load(S, own + o - begin)))
                for o in range(begin, end, 8):
                    store(B, b + o, load(B, b + o) * load(S, own + o - begin))
            for m in range(poses):
                a, f = (g * poses + m) * jump, fors + m * CHUNK * 8 - begin
                for o in range(begin, end, 8):
                    store(A, a + o, load(A, a + o) * load(S, f + o))


@compiled
def direct(W, A, B, C, P, count, sizes):
    """W from whole scores: A, B and C hold the logits. P[v,g,m,o] keeps the weight of every pair of poses."""
    outputs, queries, poses, _, _ = sizes
    W[: outputs * poses * count * 8] = 0
    for v in range(outputs):
        for g in range(queries):
            pair = v * queries + g
            at, top = pair * poses * count * 8, load(C, pair * poses * 8) + load(B, pair * count * 8)
            top = top + load(A, g * poses * count * 8)
            for m in range(poses):
                for o in range(count):
                    score = load(A, ((g * poses + m) * count + o) * 8) + load(B, (pair * count + o) * 8)
                    score = score + load(C, (pair * poses + m) * 8)
                    store(P, at + (m * count + o) * 8, score)
                    top = peak(top, score)
            normalizer = zero(A)
            for i in range(at, at + poses * count * 8, 8):
                p = exp(load(P, i) - top)
                normalizer = normalizer + p
                store(P, i, p)
            for i in range(0, poses * count * 8, 8):
                p, w = load(P, at + i) / normalizer, v * poses * count * 8 + i
                store(P, at + i, p)
                store(W, w, load(W, w) + p)


@compiled
def direct_slopes(A, B, T, P, dW, count, sizes):
    """The same as ``slopes`` from the weights that ``direct`` kept."""
    outputs, queries, poses, _, _ = sizes
    A[: queries * poses * count * 8] = 0
    B[: outputs * queries * count * 8] = 0
    for v in range(outputs):
        for g in range(queries):
            pair = v * queries + g
            at, average = pair * poses * count * 8, zero(A)
            for i in range(0, poses * count * 8, 8):
                average = fma(load(P, at + i), load(dW, v * poses * count * 8 + i), average)
            for m in range(poses):
                sums = zero(A)
                for o in range(count):
                    i, b, a = (m * count + o) * 8, (pair * count + o) * 8, ((g * poses + m) * count + o) * 8
                    slope = load(P, at + i) * (load(dW, v * poses * count * 8 + i) - average)
                    sums = sums + slope
                    store(A, a, load(A, a) + slope)
                    store(B, b, load(B, b) + slope)
                store(T, (pair * poses + m) * 8, sums)


@compiled
def element_slopes(slopes, dx, dC, x, element, table, sizes):
    """slopes[entry,d] += Σ dC[v,g,m]·q[g,d] and dx[g,d] += Σ dC[v,g,m]·element[entry,d], entry = table[v,g,m]."""
    outputs, queries, poses, depth, _ = sizes
    for v in range(outputs):
        for g in range(queries):
            pair = v * queries + g
            for m in range(poses):
                entry, c = table[v, g, m], load(dC, (pair * poses + m) * 8)
                for d in range(depth):
                    to, i = (entry * depth + d) * 8, (g * depth + d) * 8
                    store(slopes, to, fma(c, load(x, i), load(slopes, to)))
                    store(dx, i, fma(c, fill(element, entry * depth + d), load(dx, i)))
