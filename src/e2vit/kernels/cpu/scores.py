"""The weights of group attention for eight neighboring pixels of one head, and their gradients, as loops over vectors.

The exponential of a score factors, and the work with it:

    A[g,m,o] = exp(q_g·k_m(x+o)),  B[g,v,o] = exp(q_g·position[v,o]),  C[g,v,m] = exp(q_g·element[table[v,g,m]])
    Z[g,v] = Σ_{m,o} A B C         R = C / Z         W[v,m,o] = Σ_g A B R         out[v] = Σ_{m,o} W[v,m,o] value_m(x+o)

so |H|² exponentials for each offset are enough, and the values are applied once for each output pose. Every factor is
divided by its own maximum; when those maxima lie so far apart that Z comes near the smallest number of the dtype, the
weights are computed again from whole scores (``direct``).

Arrays are flat, one vector of eight for each index. Loops run over ``CHUNK`` offsets at a time, so that what they
share stays in the first cache. ``sizes`` are the numbers of output poses v, query poses g, key poses m, features and
entries of the table.
"""

from e2vit.kernels.cpu.simd import (
    WIDTH,
    compiled,
    dot,
    exp,
    fma,
    highest,
    load,
    loads,
    lowest,
    peak,
    store,
    stores,
    zeros,
)

CHUNK = 16
ONE, FOUR = (0,), (0, 0, 0, 0)


@compiled
def exponentials(x, at, count):
    """x[at + i] ← exp(x[at + i] − their maximum)."""
    top, end = zeros(x, FOUR) + load(x, at), at + count * WIDTH
    for i in range(at, end - 3 * WIDTH, 4 * WIDTH):
        top = peak(top, loads(x, i, WIDTH, FOUR))
    for i in range(at + count // 4 * 4 * WIDTH, end, WIDTH):
        top = peak(top, load(x, i))
    top = highest(top)
    for i in range(at, end, WIDTH):
        store(x, i, exp(load(x, i) - top))


@compiled
def read(C, E, table, sizes):
    """C[g,v,m] = E[g,table[v,g,m]]."""
    outputs, queries, poses, _, entries = sizes
    for g in range(queries):
        for v in range(outputs):
            for m in range(poses):
                store(C, ((g * outputs + v) * poses + m) * WIDTH, load(E, (g * entries + table[v, g, m]) * WIDTH))


@compiled
def write(E, C, table, sizes):
    """E[g,entry] = Σ C[g,v,m] where table[v,g,m] = entry."""
    outputs, queries, poses, _, entries = sizes
    E[:] = 0
    for g in range(queries):
        for v in range(outputs):
            for m in range(poses):
                to = (g * entries + table[v, g, m]) * WIDTH
                store(E, to, load(E, to) + load(C, ((g * outputs + v) * poses + m) * WIDTH))


@compiled
def normalize(A, B, C, T, count, sizes, rows):
    """T[g,v,m] = Σ_o A B, and C becomes R = C / Z. Returns the smallest Z."""
    outputs, queries, poses, _, _ = sizes
    smallest, jump = 1e30, count * WIDTH
    for pair in range(queries * outputs):
        b, begin, end = pair * jump, pair * poses * WIDTH, (pair + 1) * poses * WIDTH
        for m in range(0, poses, len(rows)):
            sums, at = zeros(A, rows), (pair // outputs * poses + m) * jump
            for o in range(0, jump, WIDTH):
                sums = fma(loads(A, at + o, jump, rows), load(B, b + o), sums)
            stores(T, begin + m * WIDTH, WIDTH, sums)
        normalizer = zeros(A, ONE)
        for m in range(begin, end, WIDTH):
            normalizer = fma(load(C, m), load(T, m), normalizer)
        for m in range(begin, end, WIDTH):
            store(C, m, load(C, m) / normalizer)
        smallest = min(smallest, lowest(normalizer))
    return smallest


@compiled
def combine(W, A, B, R, count, sizes, rows):
    """W[v,m,o] = Σ_g A B R."""
    outputs, queries, poses, _, _ = sizes
    jump = count * WIDTH
    W[: outputs * poses * jump] = 0
    for begin in range(0, jump, CHUNK * WIDTH):
        end = min(begin + CHUNK * WIDTH, jump)
        for v in range(outputs):
            for m in range(poses):
                w = (v * poses + m) * jump
                for g in range(0, queries, len(rows)):
                    pair = g * outputs + v
                    a, b = (g * poses + m) * jump, pair * jump
                    r = loads(R, (pair * poses + m) * WIDTH, outputs * poses * WIDTH, rows)
                    for o in range(begin, end, WIDTH):
                        products = loads(A, a + o, poses * jump, rows) * loads(B, b + o, outputs * jump, rows)
                        store(W, w + o, dot(products, r, load(W, w + o)))


@compiled
def sums(sizes):
    """Length of the array S of ``slopes``."""
    outputs, queries, poses, _, _ = sizes
    return (outputs * queries * (poses + 1) + (poses + 1) * CHUNK) * WIDTH


@compiled
def slopes(A, B, R, T, S, dW, count, sizes, rows):
    """The gradients of the three parts of the scores, written over A, B and T. dW[v,m,o] is the gradient of W.

    With D[g,v] = Σ_{m,o} A B R dW, a score has the gradient A B R (dW − D). S holds sums on the way.
    """
    outputs, queries, poses, _, _ = sizes
    pairs, jump, chunk = outputs * queries, count * WIDTH, CHUNK * WIDTH
    means, own = pairs * poses * WIDTH, (pairs * poses + pairs) * WIDTH
    S[:means] = 0
    for begin in range(0, jump, chunk):
        end = min(begin + chunk, jump)
        for pair in range(pairs):
            g, v = pair // outputs, pair % outputs
            for m in range(0, poses, len(rows)):
                a, w, s = (g * poses + m) * jump, (v * poses + m) * jump, (pair * poses + m) * WIDTH
                found = loads(S, s, WIDTH, rows)
                for o in range(begin, end, WIDTH):
                    weights = loads(A, a + o, jump, rows) * load(B, pair * jump + o)
                    found = fma(weights, loads(dW, w + o, jump, rows), found)
                stores(S, s, WIDTH, found)
    for pair in range(pairs):
        mean = zeros(S, ONE)
        for i in range(pair * poses * WIDTH, (pair + 1) * poses * WIDTH, WIDTH):
            mean = fma(load(S, i), load(R, i), mean)
        for i in range(pair * poses * WIDTH, (pair + 1) * poses * WIDTH, WIDTH):
            store(T, i, load(R, i) * (load(S, i) - mean * load(T, i)))
        store(S, means + pair * WIDTH, mean)
    for begin in range(0, jump, chunk):
        end = min(begin + chunk, jump)
        fors = own + chunk - begin
        for g in range(queries):
            S[own + chunk : own + (poses + 1) * chunk] = 0
            for v in range(outputs):
                pair = g * outputs + v
                mean, b = load(S, means + pair * WIDTH), pair * jump
                S[own : own + chunk] = 0
                for m in range(0, poses, len(rows)):
                    a, w, f = (g * poses + m) * jump, (v * poses + m) * jump, fors + m * chunk
                    r = loads(R, (pair * poses + m) * WIDTH, WIDTH, rows)
                    for o in range(begin, end, WIDTH):
                        e, i = (loads(dW, w + o, jump, rows) - mean) * r, own + o - begin
                        stores(S, f + o, chunk, fma(e, load(B, b + o), loads(S, f + o, chunk, rows)))
                        store(S, i, dot(e, loads(A, a + o, jump, rows), load(S, i)))
                for o in range(begin, end, WIDTH):
                    store(B, b + o, load(B, b + o) * load(S, own + o - begin))
            for m in range(poses):
                for o in range(begin, end, WIDTH):
                    a = (g * poses + m) * jump + o
                    store(A, a, load(A, a) * load(S, fors + m * chunk + o))


@compiled
def direct(W, A, B, C, P, count, sizes):
    """W from whole scores: A, B and C hold the logits. P[g,v,m,o] keeps the weight of every pair of poses."""
    outputs, queries, poses, _, _ = sizes
    jump = poses * count * WIDTH
    W[: outputs * jump] = 0
    for pair in range(queries * outputs):
        g, v, at = pair // outputs, pair % outputs, pair * jump
        for i in range(poses * count):
            score = load(A, g * jump + i * WIDTH) + load(B, (pair * count + i % count) * WIDTH)
            store(P, at + i * WIDTH, score + load(C, (pair * poses + i // count) * WIDTH))
        exponentials(P, at, poses * count)
        normalizer = zeros(A, ONE)
        for i in range(at, at + jump, WIDTH):
            normalizer = normalizer + load(P, i)
        for i in range(0, jump, WIDTH):
            store(P, at + i, load(P, at + i) / normalizer)
            store(W, v * jump + i, load(W, v * jump + i) + load(P, at + i))


@compiled
def direct_slopes(A, B, T, P, dW, count, sizes):
    """The same as ``slopes`` from the weights that ``direct`` kept."""
    outputs, queries, poses, _, _ = sizes
    jump = poses * count * WIDTH
    A[: queries * jump] = 0
    B[: outputs * queries * count * WIDTH] = 0
    T[:] = 0
    for pair in range(queries * outputs):
        g, v, at, mean = pair // outputs, pair % outputs, pair * jump, zeros(A, ONE)
        for i in range(0, jump, WIDTH):
            mean = fma(load(P, at + i), load(dW, v * jump + i), mean)
        for i in range(poses * count):
            slope = load(P, at + i * WIDTH) * (load(dW, v * jump + i * WIDTH) - mean)
            a, b, t = g * jump + i * WIDTH, (pair * count + i % count) * WIDTH, (pair * poses + i // count) * WIDTH
            store(A, a, load(A, a) + slope)
            store(B, b, load(B, b) + slope)
            store(T, t, load(T, t) + slope)
