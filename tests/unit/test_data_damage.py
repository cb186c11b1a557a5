"""A prepared corpus that was damaged, or whose preparation was stopped, is never taken for a sound one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ryzen_mpi.data.prepare import prepare_text
from ryzen_mpi.data.text import open_text
from ryzen_mpi.data.tokenizer import load_tokenizer
from ryzen_mpi.errors import UserError

SEQ = 16


@pytest.fixture
def folder(tmp_path):
    """200 documents of different lengths."""
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


def damage_truncate(directory):
    os.truncate(directory / "train.bin", 100)


def damage_one_byte(directory):
    with open(directory / "held_out.bin", "r+b") as file:
        file.write(b"\xff")


def damage_remove(directory):
    (directory / "held_out.bin").unlink()


def damage_json(directory):
    (directory / "corpus.json").write_text('{"format_version": 1,')


def damage_field(directory):
    content = json.loads((directory / "corpus.json").read_text())
    (directory / "corpus.json").write_text(json.dumps(content | {"train_tokens": "many"}))


def damage_version(directory):
    content = json.loads((directory / "corpus.json").read_text())
    (directory / "corpus.json").write_text(json.dumps(content | {"format_version": 99}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_truncate, "train.bin has 100 bytes instead of"),
        (damage_one_byte, "the content of held_out.bin has changed"),
        (damage_remove, "held_out.bin cannot be read"),
        (damage_json, "cannot read"),
        (damage_field, "train_tokens"),
        (damage_version, "format"),
    ],
)
def test_a_damaged_corpus_is_refused_when_opened_and_prepared_anew_with_the_reason(tmp_path, folder, damage, named):
    sound, _ = prepare(tmp_path, folder)
    damage(tmp_path / "prepared")
    if damage is not damage_one_byte:  # sizes are checked on every rank, hashes where it is prepared
        with pytest.raises(UserError, match=named) as caught:
            open_text(tmp_path / "prepared", SEQ)
        assert "delete this folder" in caught.value.hint
    repaired, told = prepare(tmp_path, folder)
    assert named in told
    assert repaired == sound
    assert open_text(tmp_path / "prepared", SEQ).num_samples > 0


def test_a_tokenizer_of_another_corpus_is_noticed(tmp_path, folder):
    prepare(tmp_path, folder, "bpe", 300)
    prepare_text(tmp_path / "other", [folder], "bpe", 280, seq_length=SEQ)
    (tmp_path / "other" / "tokenizer.json").replace(tmp_path / "prepared" / "tokenizer.json")
    with pytest.raises(UserError, match="tokenizer"):
        open_text(tmp_path / "prepared", SEQ)
    _, told = prepare(tmp_path, folder, "bpe", 300)
    assert "tokenizer.json has changed" in told
    assert load_tokenizer("bpe", tmp_path / "prepared").vocab_size <= 300


def test_killed_while_writing_is_not_taken_for_finished(tmp_path):
    big = tmp_path / "big"
    big.mkdir()
    for i in range(12):
        (big / f"{i}.txt").write_text(f"{i} some words on a line\n" * 8_000)
    program = (
        "import sys; from ryzen_mpi.data.prepare import prepare_text\n"
        "prepare_text(sys.argv[1], [sys.argv[2]], 'bpe', 300, seq_length=16)"
    )
    directory = tmp_path / "prepared"
    process = subprocess.Popen([sys.executable, "-c", program, directory, big])
    half = directory / "corpus.partial" / "train.bin"
    deadline = time.monotonic() + 60
    while not (half.exists() and half.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(UserError, match="never prepared to the end"):
        open_text(directory, SEQ)
    corpus, told = prepare(tmp_path, big, "bpe", 300)
    assert "interrupted" in told
    assert corpus == prepare_text(tmp_path / "undisturbed", [big], "bpe", 300, seq_length=SEQ)
    assert "corpus.partial" not in os.listdir(directory)


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_stopped_while_replacing_an_older_corpus_mixes_nothing(tmp_path, folder, monkeypatch, stop_at):
    prepare(tmp_path, folder)
    (folder / "new.txt").write_text("more text")
    real, calls = os.replace, []

    def replace(source, target):
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(target)
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace)
        prepare(tmp_path, folder)
    with pytest.raises(UserError, match="never prepared to the end"):
        open_text(tmp_path / "prepared", SEQ)
    corpus, _ = prepare(tmp_path, folder)
    assert corpus.documents == 201
    assert open_text(tmp_path / "prepared", SEQ).corpus == corpus


def test_a_mapped_corpus_survives_being_prepared_anew(tmp_path, folder):
    prepare(tmp_path, folder)
    source = open_text(tmp_path / "prepared", SEQ)
    before = source.sample(range(source.num_samples))
    for path in folder.iterdir():
        path.write_text("x" * 500)
    prepare(tmp_path, folder)
    assert (source.sample(range(source.num_samples)) == before).all()
