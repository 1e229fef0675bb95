#!/usr/bin/env python3
"""Model folders hold the same weights and configuration for Anneal and for transformers, both ways.

    folder.py LIBANNEAL

LIBANNEAL is the shared library (libanneal.so).  Written by Anneal in fp32, fp16 and bf16, tied and
not, and loaded by LlamaForCausalLM; saved by transformers, whole and in shards, and read by Anneal.
Bits must agree.  Exit status 0: they do; 1: they do not; 77: torch or transformers is not installed.
"""

import ctypes
import pathlib
import sys
import tempfile

try:
    import torch
    import transformers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

transformers.utils.logging.disable_progress_bar()
INTS = ("dim", "layers", "heads", "kv_heads", "head_dim", "hidden", "vocab", "seq")
KEYS = {"dim": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads", "head_dim": "head_dim", "hidden": "intermediate_size",
        "vocab": "vocab_size", "seq": "max_position_embeddings", "norm_eps": "rms_norm_eps",
        "tied": "tie_word_embeddings"}


class Config(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in INTS] + [
        ("rope_theta", ctypes.c_double), ("norm_eps", ctypes.c_double), ("tied", ctypes.c_bool)]


class Param(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("kind", ctypes.c_int), ("rank", ctypes.c_int), ("dim", ctypes.c_int32 * 2),
                ("offset", ctypes.c_int64), ("count", ctypes.c_int64), ("decay", ctypes.c_bool),
                ("init_std", ctypes.c_double)]


class Anneal:
    def __init__(self, path):
        self.lib = ctypes.CDLL(str(path))
        self.lib.an_message.restype = ctypes.c_char_p
        self.lib.an_model_param.restype = ctypes.POINTER(Param)
        self.lib.an_model_param_block.restype = ctypes.c_int64
        self.ctx = ctypes.c_void_p()
        self.check(self.lib.an_ctx_open(None, ctypes.byref(self.ctx)))

    def check(self, status):
        if status:
            sys.exit(f"status {status}: {self.lib.an_message(self.ctx).decode()}")

    def model(self, config):
        m = ctypes.c_void_p()
        self.check(self.lib.an_llama_new(self.ctx, ctypes.byref(config), ctypes.byref(m)))
        block = torch.zeros(self.lib.an_model_param_block(m))
        return m, block

    def pointer(self, block):
        return ctypes.cast(block.data_ptr(), ctypes.POINTER(ctypes.c_float))

    def tensors(self, m, block):
        """The parameters by name, as views of the block."""
        result = {}
        for i in range(self.lib.an_model_params(m)):
            p = self.lib.an_model_param(m, i).contents
            result[p.name.decode()] = block[p.offset:p.offset + p.count].view(*p.dim[:p.rank])
        return result


def same(ours, theirs, what):
    names = set(theirs) - ({"lm_head.weight"} - set(ours))  # a tied head is not among ours
    assert names == set(ours), f"{what}: names differ: {names ^ set(ours)}"
    for name, tensor in ours.items():
        other = theirs[name]
        assert torch.equal(tensor.to(other.dtype), other), f"{what}: {name} differs"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    anneal = Anneal(sys.argv[1])
    dtypes = {torch.float16: 1, torch.float32: 2, torch.bfloat16: 3}  # an_dtype
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    for tied in (False, True):
        config = Config(dim=48, layers=3, heads=6, kv_heads=2, head_dim=10, hidden=88, vocab=301, seq=64,
                        rope_theta=25000, norm_eps=3e-6, tied=tied)
        m, block = anneal.model(config)
        anneal.lib.an_model_init(m, ctypes.c_uint64(5), anneal.pointer(block))
        for dtype, number in dtypes.items():
            with tempfile.TemporaryDirectory() as folder:
                path = folder.encode()
                anneal.check(anneal.lib.an_hf_config_write(anneal.ctx, path + b"/config.json", ctypes.byref(config), 300))
                anneal.check(anneal.lib.an_hf_generation_config_write(anneal.ctx, path + b"/generation_config.json", 300))
                anneal.check(anneal.lib.an_hf_weights_write(path, m, anneal.pointer(block), number))
                theirs, report = LlamaForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
                for kind, entries in report.items():
                    assert not entries, f"{kind}: {entries}"
                assert theirs.dtype == dtype, f"loaded as {theirs.dtype}, written as {dtype}"
                same({k: v.to(dtype) for k, v in anneal.tensors(m, block).items()}, theirs.state_dict(), "written here")
                for ours, key in KEYS.items():
                    assert getattr(theirs.config, key) == getattr(config, ours), key
                rope = getattr(theirs.config, "rope_parameters", None) or {"rope_theta": theirs.config.rope_theta}
                assert rope["rope_theta"] == config.rope_theta, rope
                assert GenerationConfig.from_pretrained(folder).eos_token_id == 300
            for shards in ("10GB", "40KB"):
                with tempfile.TemporaryDirectory() as folder:
                    theirs.save_pretrained(folder, max_shard_size=shards)
                    files = len(list(pathlib.Path(folder).glob("*.safetensors")))
                    assert (files > 1) == (shards == "40KB")
                    read = Config()
                    anneal.check(anneal.lib.an_hf_config_read(anneal.ctx, folder.encode() + b"/config.json",
                                                              ctypes.byref(read)))
                    for name, _ in Config._fields_:
                        assert getattr(read, name) == getattr(config, name), name
                    again, other = anneal.model(read)
                    anneal.check(anneal.lib.an_hf_weights_read(folder.encode(), again, anneal.pointer(other)))
                    same(anneal.tensors(again, other), {k: v.float() for k, v in theirs.state_dict().items()},
                         "written there")
                    anneal.lib.an_model_free(again)
            print(f"{str(dtype).removeprefix('torch.')}, {'tied' if tied else 'not tied'}: equal both ways")
        anneal.lib.an_model_free(m)


if __name__ == "__main__":
    main()
