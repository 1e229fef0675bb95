#!/usr/bin/env python3
"""An independent fp32 implementation of a small Llama and of its training, for comparison.

Nothing here is shared with Anneal: the model is written from the formulas in plain torch,
gradients come from torch.autograd, the optimizer is spelled out.  What both sides must agree
on is only data: initial weights, tokens and their order, which come from the counter-based
generator of src/base/random.h, implemented below a second time.

    golden.py            writes loss.txt and gradients.safetensors beside itself
    golden.py --check    compares what it computes with the committed files instead
"""

import math
import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent

# The case; tests/train/test_golden.c has the same numbers.  Sizes are small and odd on purpose.
DIM, LAYERS, HEADS, KV_HEADS, HIDDEN, VOCAB = 48, 3, 6, 2, 80, 131
SEQ, BATCH, STEPS, SEED = 24, 3, 100, 20
THETA, EPS = 10000.0, 1e-5
LR, MIN_LR, WARMUP = 4e-3, 0.1, 10
BETA1, BETA2, ADAM_EPS, DECAY, CLIP = 0.9, 0.95, 1e-8, 0.1, 1.0
TOKENS = 4001
HEAD_DIM = DIM // HEADS


# ---- The generator -------------------------------------------------------------------

GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)


def mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def bits(seed, stream, index):
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        key = mix(np.uint64(seed) + GOLDEN_RATIO * (np.uint64(stream) + np.uint64(1)))
        return mix(key + GOLDEN_RATIO * (np.asarray(index, np.uint64) + np.uint64(1)))


def uniform(seed, stream, index):
    return (bits(seed, stream, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seed, stream, count):
    i = np.arange(count, dtype=np.uint64)
    u, v = 1 - uniform(seed, stream, 2 * i), uniform(seed, stream, 2 * i + np.uint64(1))
    return np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)


# ---- Data ------------------------------------------------------------------------------


def make_tokens():
    """A sequence that can be learnt: seven times out of eight the next token is 7 t + 3 modulo
    the (prime) vocabulary, otherwise any."""
    jump = uniform(SEED, 1000, np.arange(TOKENS)) < 0.125
    other = (uniform(SEED, 1001, np.arange(TOKENS)) * VOCAB).astype(np.int64)
    tokens = [0]
    for i in range(1, TOKENS):
        tokens.append(int(other[i]) if jump[i] else (7 * tokens[-1] + 3) % VOCAB)
    return np.array(tokens)


def permute(epoch, position, windows):
    """Four Feistel rounds on 2h bits, repeated until the result is a window."""
    h = 1
    while 4**h < windows:
        h += 1
    mask, x = 2**h - 1, position
    while True:
        left, right = x >> h, x & mask
        for r in range(4):
            left, right = right, left ^ int(bits(SEED, 2**32, (4 * epoch + r) * 2**32 + right)) & mask
        x = left << h | right
        if x < windows:
            return x


def batch(tokens, step):
    """The trainer's order (src/train/data.h): each epoch visits every window of SEQ tokens once, permuted,
    from a first token of its own.  -> [BATCH, SEQ + 1]"""
    windows, left_over = divmod(len(tokens) - 1, SEQ)
    rows = []
    for g in range(step * BATCH, (step + 1) * BATCH):
        epoch, position = divmod(g, windows)
        shift = int(bits(SEED, 2**32 + 1, epoch)) % (left_over + 1)
        begin = permute(epoch, position, windows) * SEQ + shift
        rows.append(tokens[begin : begin + SEQ + 1])
    return np.stack(rows)


# ---- Model -----------------------------------------------------------------------------


def parameter_table():
    """Name, shape and standard deviation in the order of the generator's streams; norms None."""
    kv = KV_HEADS * HEAD_DIM
    residual = 0.02 / math.sqrt(2 * LAYERS)
    table = [("model.embed_tokens.weight", (VOCAB, DIM), 0.02)]
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        table += [
            (p + "input_layernorm.weight", (DIM,), None),
            (p + "self_attn.q_proj.weight", (DIM, DIM), 0.02),
            (p + "self_attn.k_proj.weight", (kv, DIM), 0.02),
            (p + "self_attn.v_proj.weight", (kv, DIM), 0.02),
            (p + "self_attn.o_proj.weight", (DIM, DIM), residual),
            (p + "post_attention_layernorm.weight", (DIM,), None),
            (p + "mlp.gate_proj.weight", (HIDDEN, DIM), 0.02),
            (p + "mlp.up_proj.weight", (HIDDEN, DIM), 0.02),
            (p + "mlp.down_proj.weight", (DIM, HIDDEN), residual),
        ]
    return table + [("model.norm.weight", (DIM,), None)]


def initial_weights():
    weights = {}
    for stream, (name, shape, std) in enumerate(parameter_table()):
        z = normal(SEED, stream, math.prod(shape))
        values = 1 + 0.2 * z if std is None else std * z  # norms that are not 1 show wrong gradients
        weights[name] = torch.tensor(values.astype(np.float32).reshape(shape), requires_grad=True)
    return weights


def rms_norm(x, w):
    return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS)


def rotate(x):
    """x [batch, heads, time, HEAD_DIM]; channels i and i + HEAD_DIM/2 turn as one complex number."""
    half = HEAD_DIM // 2
    frequency = THETA ** (-2 * torch.arange(half, dtype=torch.float64) / HEAD_DIM)
    angle = torch.outer(torch.arange(x.shape[2], dtype=torch.float64), frequency)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
    return torch.cat((turned.real, turned.imag), -1)


def heads(x, n):
    return x.view(x.shape[0], x.shape[1], n, HEAD_DIM).transpose(1, 2)


def logits(w, ids):
    """ids [batch, time] -> [batch, time, VOCAB]."""
    x = w["model.embed_tokens.weight"][ids]
    future = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
    for i in range(LAYERS):

        def weight(name):
            return w[f"model.layers.{i}.{name}.weight"]

        h = rms_norm(x, weight("input_layernorm"))
        q = rotate(heads(h @ weight("self_attn.q_proj").T, HEADS))
        k = rotate(heads(h @ weight("self_attn.k_proj").T, KV_HEADS))
        v = heads(h @ weight("self_attn.v_proj").T, KV_HEADS)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(HEAD_DIM)
        probs = scores.masked_fill(future, -math.inf).softmax(-1)
        o = (probs @ v).transpose(1, 2).reshape(x.shape)
        x = x + o @ weight("self_attn.o_proj").T
        h = rms_norm(x, weight("post_attention_layernorm"))
        gate = h @ weight("mlp.gate_proj").T
        x = x + (gate * torch.sigmoid(gate) * (h @ weight("mlp.up_proj").T)) @ weight("mlp.down_proj").T
    return rms_norm(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T


def mean_loss(w, ids):
    """Nats per predicted token; ids [batch, SEQ + 1]."""
    p = torch.log_softmax(logits(w, ids[:, :-1]), -1)
    return -p.gather(-1, ids[:, 1:, None]).mean()


# ---- Training --------------------------------------------------------------------------


def learning_rate(step):
    """Of update `step`, counted from 0."""
    if step < WARMUP:
        return LR * (step + 1) / WARMUP
    t = (step - WARMUP) / (STEPS - WARMUP)
    return LR * (MIN_LR + (1 - MIN_LR) * 0.5 * (1 + math.cos(math.pi * t)))


def train():
    """Losses of all steps and the gradients of the first, before clipping."""
    tokens, w = make_tokens(), initial_weights()
    m = {name: torch.zeros_like(p) for name, p in w.items()}
    v = {name: torch.zeros_like(p) for name, p in w.items()}
    losses, first = [], None
    for step in range(STEPS):
        loss = mean_loss(w, torch.tensor(batch(tokens, step)))
        grads = dict(zip(w, torch.autograd.grad(loss, list(w.values()))))
        losses.append(loss.item())
        first = first or grads
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads.values()))
        clip = min(1.0, CLIP / norm)
        lr, t = learning_rate(step), step + 1
        with torch.no_grad():
            for name, p in w.items():
                g = grads[name] * clip
                m[name].mul_(BETA1).add_(g, alpha=1 - BETA1)
                v[name].mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
                update = (m[name] / (1 - BETA1**t)) / ((v[name] / (1 - BETA2**t)).sqrt() + ADAM_EPS)
                decay = DECAY if p.dim() == 2 else 0.0
                p.sub_(lr * (update + decay * p))
    return losses, first


def main():
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(1)
    losses, grads = train()
    if sys.argv[1:] == ["--check"]:
        want = [float(x) for x in (HERE / "loss.txt").read_text().split()]
        stored = load_file(HERE / "gradients.safetensors")
        worst = max(abs(a - b) / b for a, b in zip(losses, want, strict=True))
        worst_grad = max(float((grads[n] - g).norm() / g.norm()) for n, g in stored.items())
        print(f"largest relative difference: loss {worst:.1e}, gradient {worst_grad:.1e}")
        sys.exit(worst > 1e-3 or worst_grad > 1e-3)
    (HERE / "loss.txt").write_text("".join(f"{x:.6f}\n" for x in losses))
    save_file({name: g.contiguous() for name, g in grads.items()}, HERE / "gradients.safetensors")
    print(f"{len(losses)} steps: {losses[0]:.4f} -> {losses[-1]:.4f} nats per token")


if __name__ == "__main__":
    main()
