#!/usr/bin/env python3
"""Tokenizers mean the same in Anneal and in Hugging Face's libraries, both ways.

    tokenizer.py LIBANNEAL [TEXT_FILE]

LIBANNEAL is the shared library (libanneal.so).  A tokenizer that Anneal trains must load in
transformers and give the same ids; tokenizers that the `tokenizers` library trains, with the ways of
cutting text of GPT-2, Llama 3, Qwen and SmolLM, must load in Anneal and give the same ids.  Compared on
prose, on every assigned character of Unicode but most ideographs in several surroundings, and on random mixtures.
Exit status 0: all equal; 1: not; 77: a library is not installed.
"""

import ctypes
import pathlib
import random
import sys
import tempfile
import unicodedata

try:
    import tokenizers
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace("{1,3}", "")
PROSE = """It was late in October, and the 14 boats hadn't come back; "They'll be here by noon," said the keeper's wife,
who'd seen worse.  Nobody answered.\n\n\tÜber den Dächern sang l'été à Zürich — naïve, déjà-vu… 3½ km.
Он сказал: «Да», и ушёл. 今日は天気がいいですね。 中文没有空格。 한국어도 있다. हिन्दी भी। مرحبا بالعالم 😀👩‍🚀!\r\n"""


class Options(ctypes.Structure):
    _fields_ = [("vocab", ctypes.c_int32), ("progress", ctypes.c_void_p), ("user", ctypes.c_void_p)]


class Anneal:
    """The few functions of the library that are needed."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(str(path))
        self.lib.an_message.restype = ctypes.c_char_p
        self.ctx = ctypes.c_void_p()
        self.check(self.lib.an_ctx_open(None, ctypes.byref(self.ctx)))

    def check(self, status):
        if status:
            sys.exit(f"status {status}: " + (self.lib.an_message(self.ctx).decode() if self.ctx else "no context"))

    def train(self, text, vocab):
        t, options = ctypes.c_void_p(), Options(vocab, None, None)
        self.check(self.lib.an_bpe_train(self.ctx, text, ctypes.c_size_t(len(text)), ctypes.byref(options),
                                         ctypes.byref(t), None))
        return t

    def load(self, path):
        t = ctypes.c_void_p()
        self.check(self.lib.an_tokenizer_load(self.ctx, str(path).encode(), ctypes.byref(t)))
        return t

    def save(self, t, path):
        self.check(self.lib.an_tokenizer_save(t, str(path).encode()))

    def encode(self, t, text):
        data, ids, n = text.encode(), ctypes.POINTER(ctypes.c_int32)(), ctypes.c_size_t()
        self.check(self.lib.an_encode(t, data, ctypes.c_size_t(len(data)), ctypes.byref(ids), ctypes.byref(n)))
        result = ids[:n.value]
        self.lib.an_ids_free(self.ctx, ids, n)
        return result


def samples(prose, nfc):
    """Texts to compare on; with nfc only such as that normalization leaves alone."""
    rng = random.Random(1)
    # Characters that this Python does not know are left out: the libraries' Unicode versions differ.
    known = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    # of ideographs, Hangul and private use, which are alike by the ten thousands, every 16th
    known = [c for c in known if ord(c) < 0x3400 or unicodedata.category(c) not in ("Lo", "Co") or ord(c) % 16 == 1]
    if nfc:  # Anneal refuses marks and scripts that have compositions; what it accepts must be equal
        known = [c for c in known if ord(c) < 0x300 or 0x3400 <= ord(c) <= 0x9fff or 0xac00 <= ord(c) <= 0xd7a3]
        yield "It's 12345 o'clock — café 今日 한국어."
    else:
        yield prose
        yield "We'LL it'\u017f it'S '\u017fo I'D'd 'tis ''s \u212a's '\u212a"
    for i in range(0, len(known), 1000):
        part = known[i:i + 1000]
        yield "".join(part)
        yield "".join(f"a{c}b 1{c}2 {c}  {c}{c}\n" for c in part)
    blanks = [c for c in known if c.isspace()]
    for _ in range(300):
        yield "".join(rng.choice([rng.choice("ab1'.!st"), rng.choice(blanks), rng.choice(known)])
                      for _ in range(rng.randrange(60)))


def compare(name, ours, theirs, texts):
    characters = 0
    for text in texts:
        a, b = ours(text), theirs(text)
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            sys.exit(f"{name}: ids differ from place {at} in {text[:200]!r}...\n"
                     f"  Anneal       {a[max(0, at - 5):at + 8]}\n  Hugging Face {b[max(0, at - 5):at + 8]}")
        characters += len(text)
    print(f"{name}: equal on {characters} characters")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    anneal = Anneal(sys.argv[1])
    prose = pathlib.Path(sys.argv[2]).read_text() if len(sys.argv) == 3 else PROSE * 20
    print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)

        # trained here, loaded there
        t = anneal.train(prose.encode(), 2000)
        anneal.save(t, folder / "tokenizer.json")
        auto = AutoTokenizer.from_pretrained(folder)
        assert auto.eos_token == "<|endoftext|>" and auto.eos_token_id == len(auto) - 1, "end of text"
        assert auto.convert_tokens_to_ids("<|endoftext|>") == anneal.lib.an_tokenizer_end(t)
        fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        for kind, other in (("AutoTokenizer", auto), ("PreTrainedTokenizerFast", fast)):
            compare(f"ours in {kind}", lambda s: anneal.encode(t, s),
                    lambda s: other.encode(s, add_special_tokens=False), samples(prose, False))
            for s in samples(prose, False):
                assert other.decode(anneal.encode(t, s)) == s, f"{kind}: decoding {s[:80]!r}"
        (folder / "tokenizer_config.json").unlink()

        # trained there, loaded here
        byte_level = pre_tokenizers.ByteLevel
        split = lambda regex: pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(regex), "isolated"), byte_level(add_prefix_space=False, use_regex=False)])
        kinds = {
            "GPT-2": (byte_level(add_prefix_space=False), None, False),
            "Llama 3": (split(LLAMA3), None, True),
            "Qwen": (split(QWEN), normalizers.NFC(), False),
            "SmolLM": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                byte_level(add_prefix_space=False)]), None, False),
        }
        for name, (cut, normalizer, ignore_merges) in kinds.items():
            other = Tokenizer(models.BPE(ignore_merges=ignore_merges))
            other.pre_tokenizer, other.decoder = cut, decoders.ByteLevel()
            if normalizer:
                other.normalizer = normalizer
            other.train_from_iterator([prose], trainers.BpeTrainer(
                vocab_size=2000, special_tokens=["<|endoftext|>"], show_progress=False,
                initial_alphabet=byte_level.alphabet()))
            other.save(str(folder / "tokenizer.json"))
            t = anneal.load(folder / "tokenizer.json")
            compare(f"{name} here", lambda s: anneal.encode(t, s),
                    lambda s: other.encode(s, add_special_tokens=False).ids, samples(prose, normalizer is not None))


if __name__ == "__main__":
    main()
