"""Tokenizers: any text goes in and comes out the same."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ryzen_mpi.data.tokenizer import BpeTokenizer, ByteTokenizer, check_vocab_size, load_tokenizer, spread
from ryzen_mpi.errors import UserError

TRAINING = [
    "def spam(eggs):\n    return eggs + 1\n" * 20,
    "the quick brown fox, the lazy dog; ünïcödé\n" * 20,
]
BPE = BpeTokenizer.train(TRAINING, 400)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
@given(st.text())
@example("")
@example(" leading and trailing  \r\n\t")
@example("before <|end|> after")
@example("\0\u200b\ufeff🎉 𐍈")
def test_any_text_round_trips(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64 and ids.ndim == 1
    assert tokenizer.decode(ids) == text
    assert not ids.size or (0 <= ids.min() and ids.max() < tokenizer.vocab_size)


@given(st.text())
@example("<|end|>")
def test_no_text_contains_the_bpe_separator(text):
    assert BPE.separator not in BPE.encode(text)


def test_the_separator_is_shown_and_bytes_that_are_no_text_are_replaced():
    assert BPE.decode([BPE.separator]) == "<|end|>"
    assert ByteTokenizer().decode([255, 65, 0]) == "\ufffdA\0"


def test_bpe_makes_fewer_tokens_than_bytes_and_keeps_to_its_vocabulary():
    assert 257 < BPE.vocab_size <= 400
    assert len(BPE.encode(TRAINING[0])) < len(TRAINING[0]) / 2


def test_a_saved_tokenizer_is_the_same_tokenizer(tmp_path):
    BPE.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer("bpe", tmp_path)
    text = TRAINING[0] + "<|end|> unseen Ω"
    assert loaded.encode(text).tolist() == BPE.encode(text).tolist()
    assert (loaded.vocab_size, loaded.separator) == (BPE.vocab_size, BPE.separator)


def test_training_is_deterministic_across_processes_and_threads(tmp_path):
    program = (
        "import argparse, sys; from pathlib import Path; from ryzen_mpi.data.tokenizer import BpeTokenizer\n"
        "lines = Path(argparse.__file__).read_text().splitlines(True)\n"
        "BpeTokenizer.train(lines, 1000).save(Path(sys.argv[1]))"
    )
    for name, parallel in (("a", "false"), ("b", "true")):
        environment = os.environ | {"TOKENIZERS_PARALLELISM": parallel, "PYTHONHASHSEED": str(ord(name))}
        subprocess.run([sys.executable, "-c", program, tmp_path / name], check=True, env=environment)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_training_and_encoding_start_no_threads_that_a_fork_would_lose():
    program = (
        "import os; from ryzen_mpi.data.tokenizer import BpeTokenizer\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = threads()\n"
        "t = BpeTokenizer.train([f'spam and eggs {i}' for i in range(5000)], 270)\n"
        "n = len(t.encode('spam'))\n"
        "print(threads() - before)\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(0 if len(t.encode('spam')) == n else 1)\n"
        "raise SystemExit(os.waitpid(pid, 0)[1])"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr.strip()) == ("0", "")


def test_a_damaged_tokenizer_file_is_a_user_error(tmp_path):
    for content in ("", "{", "{}", '{"model": 1}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=r"tokenizer\.json"):
            load_tokenizer("bpe", tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        load_tokenizer("bpe", tmp_path / "missing")


@pytest.mark.parametrize(
    ("kind", "size", "allowed"),
    [("bytes", 512, "256"), ("bpe", 257, "258 to 65536"), ("bpe", 65537, "258 to 65536"),
     ("bpe", None, "258 to 65536"), ("words", 300, "'bytes' or 'bpe'")],
)  # fmt: skip
def test_an_impossible_choice_says_what_is_possible(kind, size, allowed):
    with pytest.raises(UserError) as caught:
        check_vocab_size(kind, size)
    assert allowed in caught.value.hint


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 3000))
def test_spreading_keeps_to_the_budget_and_takes_all_where_all_fits(sizes, budget):
    pieces = [f"{i % 10}" * size for i, size in enumerate(sizes)]
    taken = list(spread(pieces, sum(sizes), budget))
    assert sum(map(len, taken)) <= budget
    if budget >= sum(sizes):
        assert taken == pieces


def test_spreading_takes_from_the_whole_corpus():
    taken = list(spread((f"{i:10d}" for i in range(1000)), 10_000, 1000))
    assert len(taken) == 100
    assert np.histogram([int(piece) for piece in taken], bins=10, range=(0, 1000))[0].tolist() == [10] * 10
