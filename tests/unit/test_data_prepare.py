"""Preparing a corpus: what lies there afterwards, and what is said about it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ryzen_mpi.data.prepare import prepare_text
from ryzen_mpi.data.prepared import TextCorpus
from ryzen_mpi.data.text import open_text
from ryzen_mpi.data.tokenise import is_held_out, plan_split
from ryzen_mpi.errors import UserError

SEQ = 16


@pytest.fixture
def folder(tmp_path):
    """200 documents of different lengths, each with words of its own."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(200):
        (folder / f"{i:03d}.txt").write_text(f"document {i}: " + f"wörd{i} " * (5 + i % 7) + "\n")
    return folder


def prepare(tmp_path, folder, *arguments, **settings):
    """Prepare into tmp_path/prepared; returns the description and the lines of progress."""
    lines = []
    corpus = prepare_text(
        tmp_path / "prepared",
        [folder],
        *arguments,
        **{"seq_length": SEQ, "progress": lines.append} | settings,
    )
    return corpus, "\n".join(lines)


def stream(directory, corpus, side):
    return np.fromfile(directory / f"{side}.bin", dtype=corpus.dtype)


def expected_bytes(folder, held_out):
    files = [path for path in sorted(folder.iterdir()) if is_held_out(path.name, 0.05) == held_out]
    return b"".join(path.read_bytes() + b"\0" for path in files)


def test_the_token_files_are_the_documents_with_separators(tmp_path, folder):
    corpus, told = prepare(tmp_path, folder)
    directory = tmp_path / "prepared"
    assert (directory / "train.bin").read_bytes() == expected_bytes(folder, held_out=False)
    assert (directory / "held_out.bin").read_bytes() == expected_bytes(folder, held_out=True)
    assert corpus.split == "documents"
    assert corpus.documents == 200 and 0 < corpus.held_out_documents < 30
    assert corpus.corpus_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert "for the first time" in told and "200 files" in told
    assert sorted(os.listdir(directory)) == ["corpus.json", "held_out.bin", "train.bin"]


def test_unigram_figures_are_those_of_the_training_tokens(tmp_path, folder):
    corpus, _ = prepare(tmp_path, folder)
    counts = np.unique_counts(stream(tmp_path / "prepared", corpus, "train")).counts
    share = counts / counts.sum()
    assert corpus.unigram_entropy == pytest.approx(-(share * np.log(share)).sum(), abs=1e-12)
    assert corpus.unigrams["distinct"] == len(counts)
    assert corpus.unigrams["most_frequent"][0][1] == counts.max()
    assert open_text(tmp_path / "prepared", SEQ).floor.unigram_entropy == corpus.unigram_entropy


@pytest.mark.parametrize("choice", [("bytes",), ("bpe", 300)])
def test_samples_are_the_windows_of_the_token_stream(tmp_path, folder, choice):
    corpus, _ = prepare(tmp_path, folder, *choice)
    source = open_text(tmp_path / "prepared", SEQ)
    for side, read, count in (
        ("train", source.sample, source.num_samples),
        ("held_out", source.held_out, source.num_held_out),
    ):
        tokens = stream(tmp_path / "prepared", corpus, side).astype(int)
        assert count == (len(tokens) - 1) // SEQ > 0
        windows = [tokens[i * SEQ : i * SEQ + SEQ + 1] for i in range(count)]
        samples = read(np.arange(count))
        assert samples.dtype == np.int64 and samples.shape == (count, SEQ + 1)
        assert (samples == np.array(windows)).all()
        assert (read([count - 1, 0]) == samples[[-1, 0]]).all()
        for outside in (count, -1):
            with pytest.raises(IndexError):
                read([outside])


def test_bpe_tokens_decode_to_the_documents(tmp_path, folder):
    corpus, _ = prepare(tmp_path, folder, "bpe", 300)
    source = open_text(tmp_path / "prepared", SEQ)
    assert corpus.dtype == "<u2" and corpus.vocab_size == source.vocab_size <= 300
    text = source.decode(stream(tmp_path / "prepared", corpus, "train"))
    whole = expected_bytes(folder, held_out=False).decode()
    assert text == whole.replace("\0", "<|end|>")
    assert source.decode(source.encode("wörd")) == "wörd"


def test_tokens_are_mapped_not_loaded(tmp_path, folder):
    prepare(tmp_path, folder)
    source = open_text(tmp_path / "prepared", SEQ)
    for tokens in (source.train_tokens, source.held_out_tokens):
        assert type(tokens) is np.memmap
        assert not tokens.flags.writeable
    assert type(source.sample([0])) is np.ndarray


def test_held_out_documents_are_not_trained_on(tmp_path, folder):
    corpus, _ = prepare(tmp_path, folder)
    source = open_text(tmp_path / "prepared", SEQ)
    train = source.decode(stream(tmp_path / "prepared", corpus, "train"))
    held_out = source.decode(stream(tmp_path / "prepared", corpus, "held_out"))
    title = "document {}: "
    trained = {i for i in range(200) if title.format(i) in train}
    evaluated = {i for i in range(200) if title.format(i) in held_out}
    assert not trained & evaluated and trained | evaluated == set(range(200))


def test_of_a_single_document_the_end_is_held_out(tmp_path):
    text = "".join(f"line {i}\n" for i in range(1000))
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(text)
        corpus = prepare_text(tmp_path / "prepared", [tmp_path / name], held_out_fraction=0.1, seq_length=SEQ)
        train, held_out = (stream(tmp_path / "prepared", corpus, side).tobytes() for side in ("train", "held_out"))
        assert corpus.split == "stream" and corpus.held_out_documents == 0
        assert train + held_out == text.encode() + b"\0"
        assert len(held_out) == round(0.1 * (len(text) + 1))


def test_the_end_is_held_out_even_where_the_only_document_is_a_held_out_one(tmp_path):
    name = next(f"{i}.txt" for i in range(1000) if is_held_out(f"{i}.txt", 0.05))
    (tmp_path / name).write_text("text " * 100)
    corpus, _ = prepare(tmp_path, tmp_path / name)
    assert corpus.split == "stream"
    assert (corpus.train_tokens, corpus.held_out_tokens) == (501 - 25, 25)
    assert (tmp_path / "prepared" / "train.bin").stat().st_size == 501 - 25


def test_the_split_gives_each_side_a_full_sample_or_says_that_there_are_not_two():
    assert plan_split(1000, 50, 49, 0.05).kind == "documents"
    assert plan_split(1000, 50, 50, 0.05).kind == "stream"
    assert plan_split(600, 400, 10, 0.05).kind == "stream"  # far more than was asked for
    small = plan_split(40, 0, 16, 0.05)
    assert (small.train_tokens, small.held_out_tokens) == (23, 17)
    greedy = plan_split(40, 0, 16, 0.9)
    assert (greedy.train_tokens, greedy.held_out_tokens) == (17, 23)
    with pytest.raises(UserError, match="33 tokens"):
        plan_split(33, 0, 16, 0.5)


def test_the_same_corpus_is_prepared_once(tmp_path, folder):
    first, _ = prepare(tmp_path, folder)
    before = (tmp_path / "prepared" / "train.bin").stat()
    again, told = prepare(tmp_path, folder)
    after = (tmp_path / "prepared" / "train.bin").stat()
    assert again == first and told.startswith("corpus: reusing")
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_corpus_or_other_settings_are_prepared_anew(tmp_path, folder):
    prepare(tmp_path, folder)
    (folder / "new.txt").write_text("more text")
    corpus, told = prepare(tmp_path, folder)
    assert corpus.documents == 201 and "have changed" in told
    for settings in ({"held_out_fraction": 0.2}, {"tokenizer_kind": "bpe", "vocab_size": 300}):
        _, told = prepare(tmp_path, folder, **settings)
        assert "have changed" in told
    assert open_text(tmp_path / "prepared", SEQ).corpus.tokenizer == "bpe"


def test_a_longer_sequence_gets_the_split_it_would_have_got_from_the_start(tmp_path, folder):
    prepare(tmp_path, folder)
    held_out = TextCorpus.load(tmp_path / "prepared").held_out_tokens
    corpus, told = prepare(tmp_path, folder, seq_length=held_out)
    assert corpus.split == "stream" and "another split" in told
    corpus, _ = prepare(tmp_path, folder)
    assert corpus.split == "documents"


@pytest.mark.parametrize("choice", [("bytes",), ("bpe", 300)])
def test_preparing_twice_gives_the_same_bytes(tmp_path, folder, choice):
    one = prepare_text(tmp_path / "one", [folder], *choice, seq_length=SEQ)
    two = prepare_text(tmp_path / "two", [folder], *choice, seq_length=SEQ)
    assert one == two and one.sha256


def test_other_files_in_the_directory_are_left_alone(tmp_path, folder):
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "config.yaml").write_text("mine")
    prepare(tmp_path, folder)
    assert (tmp_path / "prepared" / "config.yaml").read_text() == "mine"


def test_left_out_files_are_counted_and_described(tmp_path, folder):
    (folder / "image.png").write_bytes(b"\x89PNG\0\0")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"\xe9")
    (folder / os.fsdecode(b"th\xe9.txt")).write_text("text in a file whose name is no UTF-8")
    corpus, told = prepare(tmp_path, folder)
    assert corpus.left_out_files == 2 and "2 left out" in told
    assert TextCorpus.load(tmp_path / "prepared") == corpus
    line = open_text(tmp_path / "prepared", SEQ).describe()
    assert "\n" not in line and "201 files, 2 left out" in line and "nats" in line


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    large = tmp_path / "large.txt"
    with open(large, "w") as file:
        file.writelines(f"{i} all work and no play\n" * 40_000 for i in range(160))
    assert large.stat().st_size > 120e6
    program = (
        "import resource, sys; from ryzen_mpi.data.prepare import prepare_text\n"
        "from ryzen_mpi.data.text import open_text\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "prepare_text(sys.argv[1], [sys.argv[2]], seq_length=64)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "prepared", large],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 60 * 1024  # KiB; 8-byte ids of one block, and its copies


def test_user_errors_name_what_is_wrong(tmp_path, folder):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cases = [
        (lambda: prepare(tmp_path, folder, held_out_fraction=0), "held-out fraction 0"),
        (lambda: prepare(tmp_path, folder, held_out_fraction=1), "held-out fraction 1"),
        (lambda: prepare(tmp_path, folder, seq_length=0), "sequence length 0"),
        (lambda: prepare(tmp_path, folder, seq_length=10**6), "too short: [0-9]+ tokens"),
        (lambda: prepare(tmp_path, folder, "words"), "unknown tokenizer 'words'"),
        (lambda: prepare(tmp_path, folder, "bytes", 512), "vocabulary size 512"),
        (lambda: prepare(tmp_path, tmp_path / "missing"), "missing is not there"),
        (lambda: prepare(tmp_path, tmp_path), "would lie inside the corpus"),
        (lambda: prepare_text(blocked, [folder], seq_length=SEQ), "cannot write .*file"),
        (lambda: open_text(tmp_path / "nowhere", SEQ), "nowhere is not there"),
    ]
    for act, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            act()
        assert caught.value.hint
    assert "share" in caught.value.hint


def test_opening_with_a_sequence_longer_than_the_corpus_is_a_user_error(tmp_path, folder):
    corpus, _ = prepare(tmp_path, folder)
    with pytest.raises(UserError, match="less than a sample"):
        open_text(tmp_path / "prepared", corpus.held_out_tokens)
    assert open_text(tmp_path / "prepared", corpus.held_out_tokens - 1).num_held_out == 1


def test_nothing_pickled_lies_in_a_prepared_corpus(tmp_path, folder):
    prepare(tmp_path, folder, "bpe", 300)
    directory: Path = tmp_path / "prepared"
    assert {path.suffix for path in directory.iterdir()} == {".json", ".bin"}
    for path in directory.glob("*.json"):
        json.loads(path.read_text())
