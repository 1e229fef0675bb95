#!/usr/bin/env python3
"""Hypotheses about the arithmetic of Neural Engines against published measurements.

Prints the tables of docs/fingerprints.md (Markdown, NumPy only, half a minute):

  tables     largest errors of functions on M6 (751K: lut_ulp_m6.txt, f3_lut_m6.txt) and of 33-knot tables
  survivors  the sums of the ANE guide's chapter 3, measured on M1, and block-aligned additions
  norms      relative errors of layer_norm, rms_norm (197,768) and group_norm (1,256,64,64; 32 groups),
             measured on M1 = M2 and M5 (ANEForge: device_compare_wattcomplete_results_*.json)
  search     reductions built from stages, enumerated for rms_norm: how near chance comes

usage: fingerprint-hypotheses.py [tables] [survivors] [norms] [search]
"""

import sys

import numpy as np

F = np.float64
PUBLISHED = {  # op: (M1 = M2, M5)
    "rms_norm": (5.579519158440576e-4, 5.661251602187821e-4),
    "layer_norm": (6.666825403169065e-4, 6.721924948683699e-4),
    "group_norm": (7.409982149321947e-4, 7.410157930155374e-4),
}


# --- rounding -------------------------------------------------------------------------------------------------------

def bits(x, digits, how):
    """x rounded to `digits` significant bits; how: away, even or zero (towards it)."""
    m, e = np.frexp(np.asarray(x, F))
    s = np.ldexp(m, digits)
    if how == "away":
        s = np.copysign(np.floor(np.abs(s) + 0.5), s)
    else:
        s = np.rint(s) if how == "even" else np.trunc(s)
    return np.ldexp(s, e - digits)


def away(x):
    """fp16, half away from zero; subnormals are rounded to 11 bits first, then to multiples of 2^-24."""
    y = bits(x, 11, "away")
    return np.where(np.abs(y) < 2.0**-14, np.copysign(np.floor(np.abs(y) * 2.0**24 + 0.5) * 2.0**-24, y), y)


def even(x):
    return np.asarray(x, F).astype(np.float16).astype(F)


def zero(x):
    return bits(x, 11, "zero")


def wide(x):
    return np.asarray(x, F)


# --- tables of 33 knots ---------------------------------------------------------------------------------------------

def knots(f, lo, hi):
    with np.errstate(divide="ignore"):
        return even(f(np.linspace(lo, hi, 33)))


ROOTS, RROOTS = knots(np.sqrt, 0, 2), knots(lambda x: 1 / np.sqrt(x), 0, 2)
RECIPROCALS, POWERS, LOGARITHMS = knots(lambda x: 1 / x, 0.5, 1), knots(np.exp2, 0, 1), knots(np.log2, 0.5, 1)


def between(table, position):
    i = np.minimum(np.floor(position).astype(int), 31)
    return table[i] + (table[i + 1] - table[i]) * (position - i)


def split_even(v):
    """v = u 2^e with e even and u in [0.5, 2)."""
    m, e = np.frexp(v)
    odd = e % 2 != 0
    return np.where(odd, 2 * m, m), np.where(odd, e - 1, e)


def sqrt_table(v, r=away):
    u, e = split_even(v)
    return r(between(ROOTS, u * 16) * 2.0 ** (e / 2))


def rsqrt_table(v, r=away):
    u, e = split_even(v)
    return r(between(RROOTS, u * 16) * 2.0 ** (-e / 2))


def inverse_table(v, r=away):
    m, e = np.frexp(v)
    return r(between(RECIPROCALS, (m - 0.5) * 64) * 2.0 ** -e.astype(F))


def exp_table(v, r=away):
    p = r(v * float(np.float16(1 / np.log(2))))
    return r(between(POWERS, (p - np.floor(p)) * 32) * 2.0 ** np.floor(p))


def log_table(v, r=away):
    m, e = np.frexp(v)
    return r(r(r(between(LOGARITHMS, (m - 0.5) * 64)) + e) * float(np.float16(np.log(2))))


def tables():
    print("| function | on | largest error (ulp) at | largest absolute error | measured |\n|---|---|---|---|---|")
    epsilon = float(np.float16(1e-4))
    cases = [
        ("sqrt", sqrt_table, np.sqrt, np.geomspace(2**-10, 1000, 2**19), "1.2 at 0.002054; 1.810e-02"),
        ("rsqrt", rsqrt_table, lambda x: 1 / np.sqrt(x), np.geomspace(2**-6, 1000, 2**19), "2.1 at 0.0332; 8.139e-03"),
        ("inverse of fp16(x + 1e-4)", lambda v, r: inverse_table(r(v + epsilon), r), lambda x: 1 / x,
         np.geomspace(2**-6, 1000, 2**19), "13.5 at 0.01587; 4.375e-01"),
        ("exp", exp_table, np.exp, np.linspace(-12, 10, 2**19), "9.1 at 9.703; 1.008e+02"),
        ("log", log_table, np.log, np.geomspace(2**-10, 1000, 2**19), "91.0 at 1.004; 6.638e-03"),
    ]
    for name, table, exact, x, measured in cases:
        v = np.unique(x.astype(np.float16).astype(F))
        y = exact(v)
        ulp = 2.0 ** (np.maximum(np.frexp(np.abs(y))[1] - 1, -14) - 10)
        for how, r in (("half away", away), ("half to even", even)):
            error = np.abs(table(v, r) - y)
            k = np.argmax(error / ulp)
            print(f"| {name} | {how} | {(error / ulp)[k]:.1f} at {v[k]:.4g} | {error.max():.3e} | {measured} |")


# --- M1's survivors -------------------------------------------------------------------------------------------------

def aligned(digits, how):
    """Addition on the grid of the operand with the larger exponent: its `digits` leading bits."""
    def add(a, b):
        exponent = np.maximum(np.where(a == 0, -99, np.frexp(a)[1]), np.where(b == 0, -99, np.frexp(b)[1]))
        grid = np.ldexp(1.0, exponent - digits)
        if how == "drop":
            return (np.trunc(a / grid) + np.trunc(b / grid)) * grid
        s = (a + b) / grid
        if how == "away":
            return np.copysign(np.floor(np.abs(s) + 0.5), s) * grid
        return np.rint(s) * grid
    return add


def tiles(v, tile, add):
    """Sums of tiles of consecutive lanes, one addition after the other, then their exact sum (last axis)."""
    v = np.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, -v.shape[-1] % tile)])
    w = v.reshape(v.shape[:-1] + (-1, tile))
    s = w[..., 0]
    for i in range(1, tile):
        s = add(s, w[..., i])
    return s.sum(-1)


def survivors():
    magnitudes, expected = (1024, 3000, 4090, 4096, 8000, 16000, 30000), (16, 16, 16, 4, 4, 4, 4)
    print("| tile | significant bits | what does not fit the grid | cells of 14 | 4096 + 1024 ones | 16000 ones"
          " | 8192 + 16 ones |\n|---|---|---|---|---|---|---|")
    rows = []
    for tile in (2, 3, 4, 8, 16):
        for digits in (10, 11, 12, 13):
            for how in ("drop", "even", "away"):
                add = aligned(digits, how)

                def total(values):
                    return float(away(tiles(np.array(values, F), tile, add)))
                cells = sum(total(order(b) * 16) == n for b, n in zip(magnitudes, expected)
                            for order in (lambda b: [b, -b, 1], lambda b: [b, 1, -b]))
                sums = total([4096] + [1] * 1024), total([1] * 16000), total([8192] + [1] * 16)
                good = cells + (sums[0] == 5116) + (sums[1] == 16000) + (sums[2] == 8208)
                rows.append((-good, tile, digits, how, cells) + sums)
    for _, *row in sorted(rows)[:6]:
        print("| " + " | ".join(f"{c:g}" if isinstance(c, float) else str(c) for c in row) + " |")
    print("| measured | | | 14 | 5116 | 16000 | 8208 |")


# --- norms ----------------------------------------------------------------------------------------------------------

EPSILON = float(np.float16(1e-5))


def relative(out, reference):
    a, b = np.asarray(out, F).ravel(), np.asarray(reference, F).ravel()
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


class Data:
    """Inputs as fp16, references in float32 as the benchmark computes them."""

    def __init__(self):
        rng = np.random.default_rng(7)
        x = rng.standard_normal((197, 768)).astype(np.float32)
        g = rng.standard_normal(768).astype(np.float32) * 0.1 + 1.0
        b = rng.standard_normal(768).astype(np.float32) * 0.1
        mu = x.mean(-1, keepdims=True)
        self.layer = (x - mu) / np.sqrt(((x - mu) ** 2).mean(-1, keepdims=True) + 1e-5) * g + b
        self.rms = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * g
        self.x, self.g, self.b, self.g32 = even(x), even(g), even(b), g
        rng = np.random.default_rng(7)
        x = rng.standard_normal((1, 256, 64, 64)).astype(np.float32)
        g = (rng.standard_normal(256).astype(np.float32) * 0.1 + 1.0)[:, None]
        b = (rng.standard_normal(256).astype(np.float32) * 0.1)[:, None]
        y = x.reshape(1, 32, 8, 64, 64)
        mu, var = y.mean((2, 3, 4), keepdims=True), y.var((2, 3, 4), keepdims=True)
        y = ((y - mu) / np.sqrt(var + 1e-5)).reshape(256, 4096)
        self.group = (y * g + b).reshape(32, 8, 4096)
        self.gx, self.gg, self.gb = (even(a).reshape(32, 8, -1) for a in (x, g, b))


def chain(w, r=away):
    """Sum over the last axis, a rounding after each addition."""
    s = w[..., 0]
    for i in range(1, w.shape[-1]):
        s = r(s + w[..., i])
    return s


def staged(stages, r=away):
    """A reduction of the last axis from words like "16ag 4ss": groups of 16 adjacent elements, one rounding each;
    chains of 4 elements at equal distances.  What is left is added exactly."""
    def total(v):
        for word in stages.split():
            k, n = int(word[:-2]), v.shape[-1]
            if n % k:
                continue
            w = v.reshape(v.shape[:-1] + ((n // k, k) if word[-2] == "a" else (k, n // k)))
            w = w if word[-2] == "a" else np.swapaxes(w, -1, -2)
            v = r(w.sum(-1)) if word[-1] == "g" else chain(w, r)
        return v.sum(-1)
    return total


def tree(v, r=away):
    """Neighbours in pairs, a rounding after each addition; three at the end in a chain."""
    while v.shape[-1] > 1:
        v = chain(v, r)[..., None] if v.shape[-1] % 2 else r(v[..., 0::2] + v[..., 1::2])
    return v[..., 0]


def exactly(v):
    return v.sum(-1)


def contraction(weight):
    """Products with a constant in the engine's fixed point: multiples of 2^-16, small ones lost."""
    def total(v):
        lost = np.frexp(np.abs(v) + 1e-30)[1] - 1 + np.frexp(weight)[1] - 1 < -16
        p = v * weight * 65536
        return (np.where(lost, 0, np.copysign(np.floor(np.abs(p) + 0.5), p)) / 65536).sum(-1)
    return total


def table_root(v):
    return rsqrt_table(v)


def exact_root(v):
    return away(1 / np.sqrt(v))


def two_roundings(v):
    return away(1 / away(np.sqrt(v)))


def table_then_reciprocal(v):
    return away(1 / sqrt_table(v))


def table_then_table(v):
    return inverse_table(sqrt_table(v))


def root_then_table(v):
    return inverse_table(away(np.sqrt(v)))


def inverse_then_root(v):
    return sqrt_table(inverse_table(v))


# Each hypothesis: words, then what differs from: sums exact with one rounding, means as sum * fp16(1/n) rounded again,
# every elementwise step rounded half away, rsqrt by its table.
HYPOTHESES = [
    ("sums exact; rsqrt by its table", {}),
    ("the same, half to even everywhere", {"r": even}),
    ("the same, means divided by n exactly", {"divide": True}),
    ("the same, rsqrt not rounded", {"root": lambda v: rsqrt_table(v, wide)}),
    ("the same, gain and offset in one rounding", {"fused": True}),
    ("the same, products with r and gamma cut towards zero", {"scale": zero}),
    ("sums exact; rsqrt correctly rounded", {"root": exact_root}),
    ("the same, cut towards zero", {"root": lambda v: zero(1 / np.sqrt(v))}),
    ("sums exact; sqrt correctly rounded, then its reciprocal", {"root": two_roundings}),
    ("the same, means divided by n exactly", {"root": two_roundings, "divide": True}),
    ("sums exact; sqrt correctly rounded, then inverse by table", {"root": root_then_table}),
    ("sums exact; sqrt by table, then its reciprocal", {"root": table_then_reciprocal}),
    ("sums exact; sqrt by table, then inverse by table", {"root": table_then_table}),
    ("sums exact; inverse by table, then sqrt by table", {"root": inverse_then_root}),
    ("partial sums of 192 rounded; inverse by table, then sqrt by table", {"root": inverse_then_root, "sum": staged("192ag")}),
    ("partial sums of 384 rounded; inverse by table, then sqrt by table", {"root": inverse_then_root, "sum": staged("384ag")}),
    ("partial sums of 192 rounded; sqrt correctly rounded, then its reciprocal", {"root": two_roundings, "sum": staged("192ag")}),
    ("partial sums of 384 rounded; sqrt correctly rounded, then its reciprocal", {"root": two_roundings, "sum": staged("384ag")}),
    ("pairs rounded, the rest exact; group_norm: the axis of 8 a chain; sqrt by table, then its reciprocal",
     {"root": table_then_reciprocal, "sum": staged("2ag"), "sum8": chain}),
    ("M1's tiles of four (12 bits, dropped); rsqrt by its table", {"sum": lambda v: tiles(v, 4, aligned(12, "drop"))}),
    ("M1's tiles of four (12 bits, dropped); sqrt by table, then its reciprocal",
     {"root": table_then_reciprocal, "sum": lambda v: tiles(v, 4, aligned(12, "drop"))}),
    ("tiles of four as fp16 chains; rsqrt by its table", {"sum": staged("4as")}),
    ("chains of 16 adjacent, the rest exact; rsqrt by its table", {"sum": staged("16as")}),
    ("chains of 16, of 16 again, the rest exact; rsqrt by its table", {"sum": staged("16as 16as")}),
    ("pairwise trees of 16, the rest exact; rsqrt by its table", {"sum": staged("2as 2as 2as 2as")}),
    ("pairwise trees to the end; rsqrt by its table", {"sum": tree, "sum8": tree}),
    ("the same, means divided by n exactly", {"sum": tree, "sum8": tree, "divide": True}),
    ("chains to the end; rsqrt by its table", {"sum": chain, "sum8": chain}),
    ("layer_norm's means as contractions with fp16(1/n); rsqrt by its table", {"contract": True}),
]


def norms_of(data, sum=exactly, sum8=exactly, root=table_root, r=away, scale=None, divide=False, fused=False,
             contract=False):
    """Relative errors of rms_norm, layer_norm and group_norm as ANEForge emits them (docs/fingerprints.md)."""
    scale = scale or r
    inverse_n = float(np.float16(1 / 768))
    if root is table_root and r is even:
        root = lambda v: rsqrt_table(v, even)  # noqa: E731

    def mean(v):
        if contract:
            return r(contraction(inverse_n)(v))[..., None]
        s = sum(v)[..., None]
        return r(s / 768) if divide else r(r(s) * inverse_n)

    def affine(x, g, b):
        return r(x * g + b) if fused else r(scale(x * g) + b)

    x, g, b = data.x, data.g, data.b
    s = sum(r(x * x))[..., None]
    v = r(r(s / 768) if divide else r(r(s) * inverse_n))
    k = root(r(v + EPSILON))
    rms = relative(r(x * k * g) if fused else scale(scale(x * k) * g), data.rms)
    c = r(x - mean(x))
    k = root(r(mean(r(c * c)) + EPSILON))
    layer = relative(affine(scale(c * k), g, b), data.layer)

    def group_mean(v):
        return r(r(sum8(r(sum(v)))) * 2.0**-15)[:, None, None]
    c = r(data.gx - group_mean(data.gx))
    k = root(r(group_mean(r(c * c)) + EPSILON))
    return rms, layer, relative(affine(scale(c * k), data.gg, data.gb), data.group)


def norms():
    data = Data()
    rows = [(words, norms_of(data, **how)) for words, how in HYPOTHESES]
    last, named = "", []
    for words, value in rows:
        if words.startswith("the same"):
            words = f"{last}; {words[len('the same, '):]}"
        else:
            last = words
        named.append((words, value))

    def distance(value):
        return max(min(abs(v / p - 1) for p in PUBLISHED[op]) for v, op in zip(value, PUBLISHED))
    named.sort(key=lambda row: distance(row[1]))
    print("| hypothesis | rms_norm | M1, M5 | layer_norm | M1, M5 | group_norm | M1, M5 |\n|---|---|---|---|---|---|---|")
    for words, value in named:
        cells = [f"{v * 1e4:.5f} | {v / PUBLISHED[op][0] - 1:+.1e}, {v / PUBLISHED[op][1] - 1:+.1e}"
                 for v, op in zip(value, PUBLISHED)]
        print(f"| {words} | " + " | ".join(cells) + " |")
    print("| measured M1, M2 | " + " | | ".join(f"{p[0] * 1e4:.11f}" for p in PUBLISHED.values()) + " | |")
    print("| measured M5 | " + " | | ".join(f"{p[1] * 1e4:.11f}" for p in PUBLISHED.values()) + " | |")
    x, g = data.x, even(data.g32 * np.float32(np.sqrt(768)))
    norm = sqrt_table(away(away(x * x).sum(-1, keepdims=True)))
    print("\nrms_norm as later versions emit it (x / reduce_l2_norm, gamma sqrt(768)):")
    for words, y in (("correct division", away(x / norm)), ("inverse by table", away(x * inverse_table(norm)))):
        value = relative(away(y * g), data.rms)
        print(f"{words}: {value:.6e}, " + ", ".join(f"{value / p - 1:+.1e}" for p in PUBLISHED["rms_norm"]))


# --- how near chance comes ------------------------------------------------------------------------------------------

def search():
    """rms_norm with every reduction of up to three stages, for six roots: the nearest, and how many were tried."""
    data = Data()
    grid = np.concatenate([np.arange(1740, 2048) / 2048, np.arange(1024, 1200) / 1024])
    exact = 1 / np.sqrt((data.x**2).mean(1))
    errors = np.full((197, len(grid)), np.inf)  # squared error of each row for each r that it may have
    for j, k in enumerate(grid):
        near = np.abs(exact / k - 1) < 0.012
        errors[near, j] = ((away(away(data.x[near] * k) * data.g) - data.rms[near]) ** 2).sum(1)
    norm = (data.rms.astype(F) ** 2).sum()
    rows = np.arange(197)
    roots = (table_root, exact_root, two_roundings, table_then_reciprocal, table_then_table, inverse_then_root)
    tried, best = 0, {p: [] for p in PUBLISHED["rms_norm"]}

    def score(total, words):
        nonlocal tried
        for name, s in (("sum rounded", away(total)), ("sum wide", total)):
            v = away(away(s * float(np.float16(1 / 768))) + EPSILON)
            for root in roots:
                k = root(v)
                j = np.where(k < 1, np.rint(k * 2048) - 1740, 308 + np.rint(k * 1024) - 1024).astype(int)
                value = float(np.sqrt(errors[rows, np.clip(j, 0, len(grid) - 1)].sum() / norm))
                tried += 1
                for p, found in best.items():
                    found.append((abs(value / p - 1), value / p - 1, f"{words or 'exact'}, {name}, {root.__name__}"))
                    if len(found) > 4000:
                        found[:] = sorted(found)[:4]

    def descend(v, words, depth):
        score(v.sum(-1), words)
        for k in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384):
            if depth == 3 or v.shape[-1] % k or k >= v.shape[-1] or (depth == 2 and k > 16):
                continue
            for word in (f"{k}as", f"{k}ss", f"{k}ag", f"{k}sg"):
                if (word[-1] == "s" and k > 24) or (word[-1] == "g" and k == 2):
                    continue
                w = v.reshape((197, -1, k) if word[-2] == "a" else (197, k, v.shape[-1] // k))
                w = w if word[-2] == "a" else np.swapaxes(w, -1, -2)
                descend(bits(w.sum(-1), 11, "away") if word[-1] == "g" else chain(w, lambda y: bits(y, 11, "away")),
                        f"{words} {word}".strip(), depth + 1)
    descend(away(data.x * data.x), "", 0)
    print(f"{tried} combinations; the nearest:\n\n| chip | residual | reduction, sum, root |\n|---|---|---|")
    for chip, found in zip(("M1", "M5"), best.values()):
        for _, residual, words in sorted(found)[:3]:
            print(f"| {chip} | {residual:+.1e} | {words} |")


if __name__ == "__main__":
    PARTS = {"tables": tables, "survivors": survivors, "norms": norms, "search": search}
    for part in sys.argv[1:] or PARTS:
        if part not in PARTS:
            sys.exit(f"fingerprint-hypotheses: no part {part}; there are {', '.join(PARTS)}")
        print(f"\n## {part}\n")
        PARTS[part]()
