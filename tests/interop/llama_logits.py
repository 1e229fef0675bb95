#!/usr/bin/env python3
"""A model folder gives the same logits in Hugging Face transformers and in Anneal.

    llama_logits.py ANNEAL MODEL_FOLDER [--ids 5,9,2] [--numerics ieee]

Runs the ids (default: 48 that walk through the vocabulary) through both and compares.  Exit status
0: equal within the tolerance; 1: not; 77: transformers or torch is not installed.

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
    from transformers import AutoTokenizer, LlamaForCausalLM
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("anneal")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--ids", help="comma-separated")
    parser.add_argument("--numerics", default="ieee")
    args = parser.parse_args()

    config = json.loads((args.folder / "config.json").read_text())
    count = min(48, config["max_position_embeddings"])
    ids = [(37 * i + 11) % config["vocab_size"] for i in range(count)]
    if args.ids:
        ids = [int(x) for x in args.ids.split(",")]

    ours = anneal_logits(args.anneal, args.folder, ids, args.numerics)
    theirs = transformers_logits(args.folder, ids)
    check_tokenizer(args.folder)
    if ours.shape != theirs.shape:
        sys.exit(f"shapes differ: {ours.shape}, transformers {theirs.shape}")
    scale = np.sqrt((theirs**2).mean())
    rms = np.sqrt(((ours - theirs) ** 2).mean()) / scale
    worst = np.abs(ours - theirs).max() / scale
    expected = 2.0**-11 * np.sqrt(12 * config["num_hidden_layers"] + 12)
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    print(f"{len(ids)} positions x {ours.shape[1]} logits: relative error {rms:.1e} rms, {worst:.1e} largest "
          f"(expected rms below {expected:.1e}); same first choice at {100 * same:.0f}%")
    sys.exit(not (rms <= 3 * expected and worst <= 8 * 3 * expected))


if __name__ == "__main__":
    main()
