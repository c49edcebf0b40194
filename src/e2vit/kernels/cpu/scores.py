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
from e2vit.kernels.cpu.simd import WIDTH, compiled, exp, fill, fma, load, lowest, peak, store, zero

CHUNK = 16


@compiled
def exponentials(x, at, count):
    """x[at + i] ← exp(x[at + i] − their maximum)."""
    top = load(x, at)
    t0, t1, t2, t3 = top, top, top, top
    for i in range(at, at + count // 4 * 4 * WIDTH, 4 * WIDTH):
        t0, t1, t2, t3 = (
            peak(t0, load(x, i)),
            peak(t1, load(x, i + WIDTH)),
            peak(t2, load(x, i + 2 * WIDTH)),
            peak(t3, load(x, i + 3 * WIDTH)),
        )
    top = peak(peak(t0, t1), peak(t2, t3))
    for i in range(at + count // 4 * 4 * WIDTH, at + count * WIDTH, WIDTH):
        top = peak(top, load(x, i))
    for i in range(at, at + count * WIDTH, WIDTH):
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
                B,
                q,
                position,
                columns,
                first,
                count,
                g * depth * WIDTH,
                v * depth * columns,
                pair * count * WIDTH,
                depth,
            )
            for m in range(poses):
                entry = table[v, g, m]
                a = zero(C)
                for d in range(depth):
                    a = fma(load(q, (g * depth + d) * WIDTH), fill(element, entry * depth + d), a)
                store(C, (pair * poses + m) * WIDTH, a)


@compiled
def normalize(A, B, C, T, count, sizes):
    """T[v,g,m] = Σ_o A B, and C becomes R = C / Z. Returns the smallest Z."""
    outputs, queries, poses, _, _ = sizes
    smallest = lowest(zero(C)) + 1e30
    for g in range(queries):
        for v in range(outputs):
            pair, jump = v * queries + g, count * WIDTH
            b = pair * jump
            for m in range(0, poses - 3, 4):
                a0, a1, a2, a3 = zero(A), zero(A), zero(A), zero(A)
                at = (g * poses + m) * jump
                for o in range(0, jump, WIDTH):
                    y, a = load(B, b + o), at + o
                    a0, a1 = fma(y, load(A, a), a0), fma(y, load(A, a + jump), a1)
                    a2, a3 = fma(y, load(A, a + 2 * jump), a2), fma(y, load(A, a + 3 * jump), a3)
                to = (pair * poses + m) * WIDTH
                store(T, to, a0)
                store(T, to + WIDTH, a1)
                store(T, to + 2 * WIDTH, a2)
                store(T, to + 3 * WIDTH, a3)
            for m in range(poses // 4 * 4, poses):
                a0 = zero(A)
                for o in range(0, jump, WIDTH):
                    a0 = fma(load(B, b + o), load(A, (g * poses + m) * jump + o), a0)
                store(T, (pair * poses + m) * WIDTH, a0)
            normalizer = zero(A)
            for m in range(pair * poses * WIDTH, (pair + 1) * poses * WIDTH, WIDTH):
                normalizer = fma(load(C, m), load(T, m), normalizer)
            for m in range(pair * poses * WIDTH, (pair + 1) * poses * WIDTH, WIDTH):
                store(C, m, load(C, m) / normalizer)
            smallest = min(smallest, lowest(normalizer))
    return smallest


@compiled
def combine(W, A, B, R, count, sizes):
    """W[v,m,o] = Σ_g A B R."""
    outputs, queries, poses, _, _ = sizes
    four, jump, leap = queries % 4 == 0, count * WIDTH, poses * count * WIDTH
    for begin in range(0, jump, CHUNK * WIDTH):
        end = min(begin + CHUNK * WIDTH, jump)
        for v in range(outputs):
            for m in range(poses):
                w = (v * poses + m) * jump
                for o in range(w + begin, w + end, WIDTH):
                    store(W, o, zero(W))
                for g in range(0, queries, 4 if four else 1):
                    pair = v * queries + g
                    a, b, r = (g * poses + m) * jump, pair * jump, (pair * poses + m) * WIDTH
                    r0 = load(R, r)
                    if four:
                        r1, r2 = load(R, r + poses * WIDTH), load(R, r + poses * 2 * WIDTH)
                        r3 = load(R, r + poses * 3 * WIDTH)
                        for o in range(begin, end, WIDTH):
                            i, j = a + o, b + o
                            s = fma(load(A, i) * load(B, j), r0, load(W, w + o))
                            t = load(A, i + leap) * load(B, j + jump) * r1
                            s = fma(load(A, i + 2 * leap) * load(B, j + 2 * jump), r2, s)
                            t = fma(load(A, i + 3 * leap) * load(B, j + 3 * jump), r3, t)
                            store(W, w + o, s + t)
                    else:
                        for o in range(begin, end, WIDTH):
                            store(W, w + o, fma(load(A, a + o) * load(B, b + o), r0, load(W, w + o)))


@compiled
def sums(sizes):
    """Length of the array S of ``slopes``."""
    outputs, queries, poses, _, _ = sizes
    return (outputs * queries * (poses + 1) + (poses + 1) * CHUNK) * WIDTH


@compiled
def slopes(A, B, R, T, S, dW, count, sizes):
    """The gradients of the three parts of the scores, written over A, B and T. dW[v,m,o] is the gradient of W.

    With D[v,g] = Σ_{m,o} A B R dW, a score has the gradient A B R (dW − D). S holds sums on the way.
    """
    outputs, queries, poses, _, _ = sizes
    pairs, jump = outputs * queries, count * WIDTH
    means, own = pairs * poses * WIDTH, (pairs * poses + pairs) * WIDTH
    fors = own + CHUNK * WIDTH
    S[:means] = 0
    for begin in range(0, jump, CHUNK * WIDTH):
        end = min(begin + CHUNK * WIDTH, jump)
        for g in range(queries):
            for v in range(outputs):
                pair = v * queries + g
                for m in range(0, poses - 3, 4):
                    a, b, w, s = (g * poses + m) * jump, pair * jump, (v * poses + m) * jump, (pair * poses + m) * WIDTH
                    s0, s1, s2, s3 = load(S, s), load(S, s + WIDTH), load(S, s + 2 * WIDTH), load(S, s + 3 * WIDTH)
                    for o in range(begin, end, WIDTH):
                        y = load(B, b + o)
                        s0 = fma(load(A, a + o) * y, load(dW, w + o), s0)
                        s1 = fma(load(A, a + jump + o) * y, load(dW, w + jump + o), s1)
                        s2 = fma(load(A, a + 2 * jump + o) * y, load(dW, w + 2 * jump + o), s2)
                        s3 = fma(load(A, a + 3 * jump + o) * y, load(dW, w + 3 * jump + o), s3)
                    store(S, s, s0)
                    store(S, s + WIDTH, s1)
                    store(S, s + 2 * WIDTH, s2)
                    store(S, s + 3 * WIDTH, s3)
                for m in range(poses // 4 * 4, poses):
                    a, b, w, s = (g * poses + m) * jump, pair * jump, (v * poses + m) * jump, (pair * poses + m) * WIDTH
                    s0 = load(S, s)
                    for o in range(begin, end, WIDTH):
                        s0 = fma(load(A, a + o) * load(B, b + o), load(dW, w + o), s0)
                    store(S, s, s0)
    for pair in range(pairs):
        mean = zero(S)
        for i in range(pair * poses * WIDTH, (pair + 1) * poses * WIDTH, WIDTH):
            mean = fma(load(S, i), load(R, i), mean)
        for i in range(pair * poses * WIDTH, (pair + 1) * poses * WIDTH, WIDTH):
            store(T, i, load(R, i) * (load(S, i) - mean * load(T, i)))
        store(S, means + pair * WIDTH, mean)
    for begin in range(0, jump, CHUNK * WIDTH):
        end = min(begin + CHUNK * WIDTH, jump)
        for g in range(queries):
            for i in range(fors, fors + poses * CHUNK * WIDTH, WIDTH):
                store(S, i, zero(S))
            for v in range(outputs):
                pair = v * queries + g
                mean, b = load(S, means + pair * WIDTH), pair * jump
                for i in range(own, own + CHUNK * WIDTH, WIDTH):
                    store(S, i, zero(S))
                for m in range(0, poses - 3, 4):
                    a, w, r = (g * poses + m) * jump, (v * poses + m) * jump, (pair * poses + m) * WIDTH
                    r0, r1, r2, r3 = load(R, r), load(R, r + WIDTH), load(R, r + 2 * WIDTH), load(R, r + 3 * WIDTH)
                    for o in range(begin, end, WIDTH):
                        f, i, j, y = fors + m * CHUNK * WIDTH + o - begin, a + o, w + o, load(B, b + o)
                        e0, e1 = (load(dW, j) - mean) * r0, (load(dW, j + jump) - mean) * r1
                        e2, e3 = (load(dW, j + 2 * jump) - mean) * r2, (load(dW, j + 3 * jump) - mean) * r3
                        store(S, f, fma(e0, y, load(S, f)))
                        store(S, f + CHUNK * WIDTH, fma(e1, y, load(S, f + CHUNK * WIDTH)))
                        store(S, f + CHUNK * 2 * WIDTH, fma(e2, y, load(S, f + CHUNK * 2 * WIDTH)))
                        store(S, f + CHUNK * 3 * WIDTH, fma(e3, y, load(S, f + CHUNK * 3 * WIDTH)))
                        h = fma(e0, load(A, i), load(S, own + o - begin))
                        h = fma(e1, load(A, i + jump), h) + fma(e3, load(A, i + 3 * jump), e2 * load(A, i + 2 * jump))
                        store(S, own + o - begin, h)
                for m in range(poses // 4 * 4, poses):
                    a, w, r0 = (g * poses + m) * jump, (v * poses + m) * jump, load(R, (pair * poses + m) * WIDTH)
                    for o in range(begin, end, WIDTH):
                        f, e0 = fors + m * CHUNK * WIDTH + o - begin, (load(dW, w + o) - mean) * r0
                        store(S, f, fma(e0, load(B, b + o), load(S, f)))
                        store(S, own + o - begin, fma(e0, load(A, a + o), load(S, own + o - begin)))
                for o in range(begin, end, WIDTH):
                    store(B, b + o, load(B, b + o) * load(S, own + o - begin))
            for m in range(poses):
                a, f = (g * poses + m) * jump, fors + m * CHUNK * WIDTH - begin
                for o in range(begin, end, WIDTH):
                    store(A, a + o, load(A, a + o) * load(S, f + o))


@compiled
def direct(W, A, B, C, P, count, sizes):
    """W from whole scores: A, B and C hold the logits. P[v,g,m,o] keeps the weight of every pair of poses."""
    outputs, queries, poses, _, _ = sizes
    W[: outputs * poses * count * WIDTH] = 0
    for v in range(outputs):
        for g in range(queries):
            pair = v * queries + g
            at, top = pair * poses * count * WIDTH, load(C, pair * poses * WIDTH) + load(B, pair * count * WIDTH)
            top = top + load(A, g * poses * count * WIDTH)
            for m in range(poses):
                for o in range(count):
                    score = load(A, ((g * poses + m) * count + o) * WIDTH) + load(B, (pair * count + o) * WIDTH)
                    score = score + load(C, (pair * poses + m) * WIDTH)
                    store(P, at + (m * count + o) * WIDTH, score)
                    top = peak(top, score)
            normalizer = zero(A)
            for i in range(at, at + poses * count * WIDTH, WIDTH):
                p = exp(load(P, i) - top)
                normalizer = normalizer + p
                store(P, i, p)
            for i in range(0, poses * count * WIDTH, WIDTH):
                p, w = load(P, at + i) / normalizer, v * poses * count * WIDTH + i
                store(P, at + i, p)
                store(W, w, load(W, w) + p)


@compiled
def direct_slopes(A, B, T, P, dW, count, sizes):
    """The same as ``slopes`` from the weights that ``direct`` kept."""
    outputs, queries, poses, _, _ = sizes
    A[: queries * poses * count * WIDTH] = 0
    B[: outputs * queries * count * WIDTH] = 0
    for v in range(outputs):
        for g in range(queries):
            pair = v * queries + g
            at, average = pair * poses * count * WIDTH, zero(A)
            for i in range(0, poses * count * WIDTH, WIDTH):
                average = fma(load(P, at + i), load(dW, v * poses * count * WIDTH + i), average)
            for m in range(poses):
                sums = zero(A)
                for o in range(count):
                    i, b, a = (m * count + o) * WIDTH, (pair * count + o) * WIDTH, ((g * poses + m) * count + o) * WIDTH
                    slope = load(P, at + i) * (load(dW, v * poses * count * WIDTH + i) - average)
                    sums = sums + slope
                    store(A, a, load(A, a) + slope)
                    store(B, b, load(B, b) + slope)
                store(T, (pair * poses + m) * WIDTH, sums)


@compiled
def element_slopes(slopes, dx, dC, x, element, table, sizes):
    """slopes[entry,d] += Σ dC[v,g,m]·q[g,d] and dx[g,d] += Σ dC[v,g,m]·element[entry,d], entry = table[v,g,m]."""
    outputs, queries, poses, depth, _ = sizes
    for v in range(outputs):
        for g in range(queries):
            pair = v * queries + g
            for m in range(poses):
                entry, c = table[v, g, m], load(dC, (pair * poses + m) * WIDTH)
                for d in range(depth):
                    to, i = (entry * depth + d) * WIDTH, (g * depth + d) * WIDTH
                    store(slopes, to, fma(c, load(x, i), load(slopes, to)))
                    store(dx, i, fma(c, fill(element, entry * depth + d), load(dx, i)))
