"""Text to token ids and back: bytes as they are, or byte-level BPE trained on the corpus."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ryzen_mpi.errors import UserError

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_FILE = "tokenizer.json"
SEPARATOR = "<|end|>"
MAX_VOCAB_SIZE = 2**16
# 256 bytes, the separator and at least one merge.
MIN_BPE_VOCAB_SIZE = 258
TRAIN_BYTES = 32 * 2**20


class Tokenizer(Protocol):
    """Text to ids in range(vocab_size) and back.

    Attributes:
        kind: the name it is chosen by in the settings.
        vocab_size: number of ids, the separator included.
        separator: the id written between documents.
    """

    kind: str
    vocab_size: int
    separator: int

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, without separators of its own making: int64 [n]."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        ...


class ByteTokenizer:
    """A token is a byte of the UTF-8 text. Nothing to train, and any text is representable."""

    kind = "bytes"
    vocab_size = 256
    # Text files hold no NUL, so byte 0 is free to stand between documents.
    separator = 0

    def encode(self, text: str) -> np.ndarray:
        """The bytes: int64 [n]."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the bytes; ValueError where an id is no byte."""
        return bytes(np.asarray(ids, dtype=np.int64).reshape(-1).tolist()).decode("utf-8", errors="replace")


class BpeTokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes: Radford et al. 2019).

    Any text is representable, as each of the 256 bytes is a token. The text `<|end|>` inside a
    document is encoded letter by letter: only `separator` separates.

    Args:
        inner: a Hugging Face tokenizer that `train` has made.
    """

    kind = "bpe"

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        # Not saved in the file: without it, a document that quotes "<|end|>" would end there.
        inner.encode_special_tokens = True
        self._inner = inner
        self.vocab_size = inner.get_vocab_size()
        self.separator = inner.token_to_id(SEPARATOR)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
        """Learn merges from texts; deterministic.

        Returns:
            A tokenizer with vocab_size tokens, or fewer where the texts have no more pairs to merge.

        Raises:
            UserError: vocab_size is not between 258 and 65536.
        """
        check_vocab_size("bpe", vocab_size)
        library = _library()
        inner = library.Tokenizer(library.models.BPE())
        inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[SEPARATOR],
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(iter(texts), trainer)
        return cls(inner)

    @classmethod
    def load(cls, path: Path) -> BpeTokenizer:
        """Read what `save` wrote; UserError where that is not possible."""
        try:
            loaded = cls(_library().Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises plain Exception for whatever is wrong
            raise UserError(
                f"cannot read the tokenizer {path}: {error}",
                "delete the prepared corpus's folder; it is prepared again at the next start",
            ) from error
        if loaded.separator is None:
            raise UserError(f"the tokenizer {path} has no token {SEPARATOR}", "it was not made by this program")
        return loaded

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON."""
        self._inner.save(str(path), pretty=False)

    def encode(self, text: str) -> np.ndarray:
        """Ids of the text: int64 [n]."""
        # The "fast" call leaves out each token's place in the text, which is most of the work.
        return np.array(self._inner.encode_batch_fast([text])[0].ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the ids; the separator shows as `<|end|>`."""
        flat = np.asarray(ids, dtype=np.int64).reshape(-1).tolist()
        return self._inner.decode(flat, skip_special_tokens=False)


def check_vocab_size(kind: str, vocab_size: int | None) -> int:
    """The vocabulary size that a kind of tokenizer gets; None is what `bytes` needs no answer for.

    Raises:
        UserError: the kind is unknown, or the size is not possible with it.
    """
    if kind == ByteTokenizer.kind:
        if vocab_size not in (None, ByteTokenizer.vocab_size):
            raise UserError(
                f"vocabulary size {vocab_size} with the tokenizer 'bytes'",
                "bytes have 256 tokens: leave the size out, or choose the tokenizer 'bpe'",
            )
        return ByteTokenizer.vocab_size
    if kind != BpeTokenizer.kind:
        raise UserError(f"unknown tokenizer {kind!r}", "'bytes' or 'bpe'")
    if vocab_size is None or not MIN_BPE_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise UserError(
            f"vocabulary size {vocab_size} with the tokenizer 'bpe'",
            f"{MIN_BPE_VOCAB_SIZE} to {MAX_VOCAB_SIZE}",
        )
    return vocab_size


def load_tokenizer(kind: str, directory: Path) -> Tokenizer:
    """The tokenizer of a prepared corpus in `directory`; UserError where it cannot be read."""
    return ByteTokenizer() if kind == ByteTokenizer.kind else BpeTokenizer.load(directory / TOKENIZER_FILE)


def spread(pieces: Iterable[str], total_bytes: int, budget_bytes: int) -> Iterator[str]:
    """Whole pieces of at most budget_bytes together, spread evenly over all total_bytes of them.

    A piece is taken when what has been taken lags behind budget / total of what went by.
    """
    passed = taken = 0
    for piece in pieces:
        size = len(piece.encode("utf-8"))
        passed += size
        if (taken + size) * total_bytes <= passed * budget_bytes and taken + size <= budget_bytes:
            taken += size
            yield piece


def _library():
    # Its threads are off unless the user turned them on: a forked child (PMIx, subprocess) would
    # hang or warn after they ran, and a rank is bound to a few cores that the others wait on.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers
    import tokenizers.decoders
    import tokenizers.models
    import tokenizers.pre_tokenizers
    import tokenizers.trainers

    return tokenizers
