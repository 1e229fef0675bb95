#!/usr/bin/env python3
"""The same layer and the same training step in PyTorch, for comparison.

    torch_peer.py layer       forward and backward of one block of preset layer768: gradients of the input and
                              of all parameters
    torch_peer.py step        an update of stories110m with 256 tokens: gradients, clipping, AdamW
    torch_peer.py check ANNEAL
                              the model is the one that Anneal trains: both give the same logits for weights
                              that `anneal train` wrote

layer and step take --dtype f32|bf16 (bf16: torch.autocast) and --mode eager|compile (torch.compile of each
block, which all layers share, and of the loss).  They warm up, print {"ready": ...} and then obey lines on
standard input: "run N" times N steps and prints their seconds, "quit" ends with the peak memory.  So one
process can be measured in turns with something else.

The environment: python3 -m venv ENV && ENV/bin/pip install torch==2.13.0
(--index-url https://download.pytorch.org/whl/cpu gives a smaller one without CUDA)
"""

import argparse
import json
import math
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as e:
    print(f"skipped: {e}", file=sys.stderr)
    sys.exit(77)


class Config:
    """The fields of Anneal's presets."""

    def __init__(self, dim, layers, heads, hidden, vocab, kv_heads=None, theta=10000.0, eps=1e-5):
        self.dim, self.layers, self.heads, self.hidden, self.vocab = dim, layers, heads, hidden, vocab
        self.kv_heads, self.theta, self.eps = kv_heads or heads, theta, eps
        self.head_dim = dim // heads


LAYER = Config(dim=768, layers=1, heads=12, hidden=2048, vocab=32000)
STORIES110M = Config(dim=768, layers=12, heads=12, hidden=2048, vocab=32000)
LAYER_TOKENS, STEP_TOKENS = 512, 256


class Norm(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(c.dim)), c.eps

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def rotate(x, cos, sin):
    """Split halves, as Hugging Face does it; x is [..., token, head_dim]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Block(nn.Module):
    def __init__(self, c, tokens):
        super().__init__()
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.c = c
        self.attn_norm, self.ffn_norm = Norm(c), Norm(c)
        self.q, self.o = linear(c.dim, c.heads * c.head_dim), linear(c.heads * c.head_dim, c.dim)
        self.k, self.v = (linear(c.dim, c.kv_heads * c.head_dim) for _ in range(2))
        self.gate, self.up, self.down = linear(c.dim, c.hidden), linear(c.dim, c.hidden), linear(c.hidden, c.dim)
        i = torch.arange(c.head_dim // 2, dtype=torch.float64)
        angle = torch.outer(torch.arange(tokens, dtype=torch.float64), c.theta ** (-2 * i / c.head_dim))
        self.register_buffer("cos", angle.cos().float())
        self.register_buffer("sin", angle.sin().float())

    def forward(self, x):
        c, (batch, tokens, _) = self.c, x.shape
        heads = lambda y, n: y.view(batch, tokens, n, c.head_dim).transpose(1, 2)
        h = self.attn_norm(x)
        q, k, v = heads(self.q(h), c.heads), heads(self.k(h), c.kv_heads), heads(self.v(h), c.kv_heads)
        cos, sin = self.cos[:tokens].to(q.dtype), self.sin[:tokens].to(q.dtype)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=c.kv_heads != c.heads)
        x = x + self.o(a.transpose(1, 2).reshape(batch, tokens, -1))
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    """The classifier is the embedding table."""

    def __init__(self, c, tokens):
        super().__init__()
        self.embed = nn.Embedding(c.vocab, c.dim)
        self.blocks = nn.ModuleList(Block(c, tokens) for _ in range(c.layers))
        self.norm = Norm(c)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embed.weight)

    def loss(self, ids, target):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head_loss(x, target)

    def head_loss(self, x, target):
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), target.view(-1))


# ---- What is timed ---------------------------------------------------------------------


def autocast(dtype):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16")


def layer_step(dtype, mode):
    block = Block(LAYER, LAYER_TOKENS)
    x = torch.randn(1, LAYER_TOKENS, LAYER.dim, requires_grad=True)
    dy = torch.randn(1, LAYER_TOKENS, LAYER.dim)
    if mode == "compile":
        block.compile()

    def step():
        x.grad = None
        for p in block.parameters():
            p.grad = None
        with autocast(dtype):
            y = block(x)
        y.backward(dy.to(y.dtype))

    return step


def model_step(dtype, mode):
    model = Model(STORIES110M, STEP_TOKENS)
    text = torch.randint(STORIES110M.vocab, (1, STEP_TOKENS + 1))
    decayed = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        lr=1e-4, betas=(0.9, 0.95), fused=True)
    if mode == "compile":
        for block in model.blocks:
            block.compile()
        model.head_loss = torch.compile(model.head_loss)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast(dtype):
            loss = model.loss(text[:, :-1], text[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def serve(make, options):
    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    say = lambda **what: print(json.dumps(what), flush=True)
    step = make(options.dtype, options.mode)
    for _ in range(3):
        step()
    say(ready=True, torch=torch.__version__, dtype=options.dtype, mode=options.mode, threads=options.threads)
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            break
        seconds = []
        for _ in range(int(words[1])):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        say(seconds=seconds)
    unit = 1 if sys.platform == "darwin" else 1024
    say(peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


# ---- The same model ---------------------------------------------------------------------


def read_safetensors(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, t in header.items():
        if name != "__metadata__":
            assert t["dtype"] == "F32", f"{path}: {name} is {t['dtype']}"
            begin, end = (8 + size + i for i in t["data_offsets"])
            tensors[name] = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).view(t["shape"])
    return tensors


NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "q": "self_attn.q_proj",
    "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
    "up": "mlp.up_proj", "down": "mlp.down_proj",
}


def load(folder):
    j = json.loads((folder / "config.json").read_text())
    assert j["tie_word_embeddings"]
    c = Config(j["hidden_size"], j["num_hidden_layers"], j["num_attention_heads"], j["intermediate_size"],
               j["vocab_size"], j["num_key_value_heads"], j["rope_theta"], j["rms_norm_eps"])
    model, tensors = Model(c, j["max_position_embeddings"]), read_safetensors(folder / "model.safetensors")
    with torch.no_grad():
        model.embed.weight.copy_(tensors["model.embed_tokens.weight"])
        model.norm.weight.copy_(tensors["model.norm.weight"])
        for i, block in enumerate(model.blocks):
            for ours, theirs in NAMES.items():
                getattr(block, ours).weight.copy_(tensors[f"model.layers.{i}.{theirs}.weight"])
    return model


def check(anneal):
    """Logits in fp16 arithmetic carry errors of some 2^-11 of their size: 1% of it in the mean is a bug."""
    source = pathlib.Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as scratch:
        folder, ids = pathlib.Path(scratch, "model"), list(range(3, 400, 13))
        run = lambda *words: subprocess.run([anneal, *map(str, words)], check=True, capture_output=True)
        run("train", source / "README.md", "--preset", "nano", "--vocab", 512, "--steps", 60, "--out", folder)
        step = folder / (folder / "last").read_text().strip()
        out = pathlib.Path(scratch, "logits.npy")
        run("eval", step, "--ids", ",".join(map(str, ids)), "--logits", out, "--numerics", "ieee")
        import numpy

        ours = torch.from_numpy(numpy.load(out)).double()
        with torch.no_grad():
            theirs = load(step)(torch.tensor([ids]))[0].double()
    error = ((ours - theirs).square().mean() / theirs.square().mean()).sqrt().item()
    print(f"logits differ by {error:.2e} of their root mean square")
    return 0 if error < 0.01 and math.isfinite(error) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["layer", "step", "check"])
    parser.add_argument("anneal", nargs="?")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if options.what == "check":
        sys.exit(check(options.anneal or parser.error("check needs the path of anneal")))
    serve(layer_step if options.what == "layer" else model_step, options)


if __name__ == "__main__":
    main()
