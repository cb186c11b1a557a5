"""From settings to a token source: prepared once by rank 0, opened by every rank."""

from __future__ import annotations

from pathlib import Path

from ryzen_mpi.config import Settings
from ryzen_mpi.data.markov import MarkovSource
from ryzen_mpi.data.prepare import prepare_text
from ryzen_mpi.data.prepared import TRAIN_FILE, TextCorpus
from ryzen_mpi.data.random_tokens import RandomTokens
from ryzen_mpi.data.source import TokenSource
from ryzen_mpi.data.text import open_text
from ryzen_mpi.data.tokenise import Progress
from ryzen_mpi.errors import UserError


def prepare_source(settings: Settings, directory: Path, progress: Progress, keep: str | None = None) -> str:
    """Makes ready what `open_source` opens; returns the identity of the training data. Rank 0.

    Args:
        directory: the run's data directory.
        keep: the identity a checkpoint was trained on: where `directory` still holds that corpus, intact, it is used
            as it is, whatever has happened to the files it was made from.

    Raises UserError.
    """
    if settings.data.source != "text":
        return settings.data.source
    if keep is not None and _holds(directory, keep):
        progress(f"corpus: as the checkpoint was trained on, in {directory}")
        return keep
    data = settings.data
    corpus = prepare_text(
        directory,
        list(data.paths) or None,
        data.tokenizer,
        256 if data.tokenizer == "bytes" else settings.model.vocab_size,
        data.held_out,
        seq_length=settings.model.seq_length,
        pattern=data.pattern,
        progress=progress,
    )
    return corpus.sha256[TRAIN_FILE]


def open_source(settings: Settings, directory: Path) -> TokenSource:
    """The source of `settings`; cheap, local, on every rank. Raises UserError."""
    model, data, seed = settings.model, settings.data, settings.training.seed
    if data.source == "text":
        return open_text(directory, model.seq_length)
    if data.source == "markov":
        return MarkovSource(model.vocab_size, model.seq_length, data.num_samples, seed, data.branching)
    return RandomTokens(model.vocab_size, model.seq_length, data.num_samples, seed)


def _holds(directory: Path, identity: str) -> bool:
    try:
        corpus = TextCorpus.load(directory)
        return corpus.sha256[TRAIN_FILE] == identity and corpus.wrong_hash(directory) is None
    except (UserError, OSError, KeyError):
        return False
