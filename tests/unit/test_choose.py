"""From settings to a token source: the source that was asked for, and a checkpoint's corpus kept."""

from __future__ import annotations

import pytest

from ryzen_mpi.data.choose import open_source, prepare_source
from ryzen_mpi.data.markov import MarkovSource
from ryzen_mpi.data.random_tokens import RandomTokens
from ryzen_mpi.settings import load_settings


@pytest.mark.parametrize(("name", "kind"), [("random", RandomTokens), ("markov", MarkovSource)])
def test_a_synthetic_source_is_that_of_settings_and_seed(tmp_path, name, kind):
    settings = load_settings("scaling_benchmark", [f"data.source={name}", "training.seed=3"], {})
    assert prepare_source(settings, tmp_path, print) == name and not list(tmp_path.iterdir())
    source = open_source(settings, tmp_path)
    assert isinstance(source, kind)
    assert (source.vocab_size, source.num_samples) == (2048, 320)
    other = open_source(load_settings("scaling_benchmark", [f"data.source={name}", "training.seed=4"], {}), tmp_path)
    assert source.sample([0]).shape == (1, 129) and (source.sample([0]) != other.sample([0])).any()


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "books"
    path.mkdir()
    for number in range(8):
        (path / f"{number}.txt").write_text(f"Chapter {number}. " + "All happy families are alike. " * 40)
    return path


def test_text_is_prepared_once_and_opened(tmp_path, book):
    settings = load_settings(
        "default", [f"data.paths={book}", "data.tokenizer=bytes", "model.seq_length=64", "data.held_out=0.2"], {}
    )
    identity = prepare_source(settings, tmp_path / "data", lambda _: None)
    source = open_source(settings, tmp_path / "data")
    assert source.vocab_size == 256 and source.decode(source.encode("happy")) == "happy"
    assert prepare_source(settings, tmp_path / "data", lambda _: None) == identity


def test_a_checkpoints_corpus_is_kept_whatever_happened_to_its_files(tmp_path, book):
    settings = load_settings(
        "default", [f"data.paths={book}", "data.tokenizer=bytes", "model.seq_length=64", "data.held_out=0.2"], {}
    )
    identity = prepare_source(settings, tmp_path / "data", lambda _: None)
    for file in book.iterdir():
        file.write_text("Something else entirely. " * 40)
    said = []
    assert prepare_source(settings, tmp_path / "data", said.append, keep=identity) == identity
    assert "as the checkpoint was trained on" in said[0]
    assert prepare_source(settings, tmp_path / "data", said.append) != identity
