#!/usr/bin/env python3
"""A model folder gives the same logits in Hugging Face transformers and in Anneal.

    llama_logits.py ANNEAL [MODEL_FOLDER] [--ids 5,9,2] [--numerics ieee]

Runs the ids (default: up to 48 that walk through the vocabulary) through both and compares.  Without
a folder it makes random models with transformers and compares those: what others publish, read by
Anneal.  Exit status 0: equal within the tolerance; 1: not; 77: transformers or torch is not installed.

Tolerance.  transformers computes in fp32, Anneal in fp16 with fp32 accumulation.  Every value that
Anneal stores carries a relative error of up to u = 2^-11; about 12 roundings per layer add to the
residual stream as independent errors, and the classifier sums dim of them.  The expected
root-mean-square error is therefore below u * sqrt(12 * layers + 12) times the root mean square of
the logits; three times that is allowed for the whole array, and eight times for a single logit.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, logging
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)


def anneal_logits(anneal, folder, ids, numerics):
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch, "logits.npy")
        command = [anneal, "eval", folder, "--ids", ",".join(map(str, ids)), "--logits", out, "--numerics", numerics]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{command} failed:\n{done.stderr}")
        return np.load(out).astype(np.float64)


def transformers_logits(folder, ids):
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].double().numpy()


def check_tokenizer(folder):
    """The tokenizer loads too, and its round trip is exact."""
    if not (folder / "tokenizer.json").exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "It was the best of times, it was the worst of times. \u00dcber 3 \u00e9t\u00e9s \U0001f600\n  the end"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text, "tokenizer round trip"


def compare(anneal, folder, ids, numerics):
    """Prints the differences; True: within the tolerance."""
    config = json.loads((folder / "config.json").read_text())
    count = min(48, config["max_position_embeddings"])
    ids = ids or [(37 * i + 11) % config["vocab_size"] for i in range(count)]
    ours = anneal_logits(anneal, folder, ids, numerics)
    theirs = transformers_logits(folder, ids)
    check_tokenizer(folder)
    if ours.shape != theirs.shape:
        sys.exit(f"shapes differ: {ours.shape}, transformers {theirs.shape}")
    scale = np.sqrt((theirs**2).mean())
    rms = np.sqrt(((ours - theirs) ** 2).mean()) / scale
    worst = np.abs(ours - theirs).max() / scale
    expected = 2.0**-11 * np.sqrt(12 * config["num_hidden_layers"] + 12)
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    print(f"{len(ids)} positions x {ours.shape[1]} logits: relative error {rms:.1e} rms, {worst:.1e} largest "
          f"(expected rms below {expected:.1e}); same first choice at {100 * same:.0f}%")
    return rms <= 3 * expected and worst <= 24 * expected


# Random models: grouped and plain heads, tied and not, a head dimension of its own, fp32 and bf16 files.
MODELS = [
    dict(hidden_size=96, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, intermediate_size=160,
         vocab_size=307, tie_word_embeddings=True, dtype=torch.float32),
    dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, intermediate_size=200,
         vocab_size=501, tie_word_embeddings=False, rope_theta=500000.0, rms_norm_eps=1e-6, dtype=torch.bfloat16),
    dict(hidden_size=72, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3, head_dim=16,
         intermediate_size=96, vocab_size=100, tie_word_embeddings=False, dtype=torch.float16),
]


def random_model(options, folder):
    """Weights large enough that attention and the gates matter; norms that are not 1."""
    torch.manual_seed(1)
    options = dict(options)
    dtype = options.pop("dtype")
    model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=64, initializer_range=0.1, **options))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_(1 + 0.2 * torch.randn_like(p))
    model.to(dtype).save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("anneal")
    parser.add_argument("folder", type=pathlib.Path, nargs="?")
    parser.add_argument("--ids", help="comma-separated")
    parser.add_argument("--numerics", default="ieee")
    args = parser.parse_args()
    logging.disable_progress_bar()
    ids = [int(x) for x in args.ids.split(",")] if args.ids else None
    if args.folder:
        sys.exit(not compare(args.anneal, args.folder, ids, args.numerics))
    good = True
    for options in MODELS:
        with tempfile.TemporaryDirectory() as scratch:
            random_model(options, scratch)
            good &= compare(args.anneal, pathlib.Path(scratch), ids, args.numerics)
    sys.exit(not good)


if __name__ == "__main__":
    main()
