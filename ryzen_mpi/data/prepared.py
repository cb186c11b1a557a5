"""What a prepared corpus is on disk: the description beside the tokens, and whether they agree.

- corpus.json: TextCorpus; written last: where it is missing, preparation was not finished
- train.bin: training tokens, uint8 or little-endian uint16, no header
- held_out.bin: held-out tokens, likewise
- tokenizer.json: the BPE tokenizer, where there is one
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np

from ryzen_mpi.data.tokenizer import TOKENIZER_FILE
from ryzen_mpi.errors import UserError

FORMAT_VERSION = 1
DESCRIPTION_FILE = "corpus.json"
TRAIN_FILE = "train.bin"
HELD_OUT_FILE = "held_out.bin"
DTYPES = ("|u1", "<u2")
BLOCK_BYTES = 4 * 2**20
REBUILD_HINT = "delete this folder; the corpus is prepared again at the next start"


@dataclass(frozen=True)
class TextCorpus:
    """The description of a prepared corpus: the content of corpus.json.

    Args:
        format_version: of this description.
        fingerprint: SHA-256 of the inputs: paths, sizes and times of the files, and the settings.
        tokenizer: `bytes` or `bpe`; vocab_size: ids that can occur; dtype: of the .bin files.
        split: `documents` (whole documents are held out) or `stream` (the last tokens are).
        train_document_tokens, held_out_document_tokens: in the documents whose names put them on
            each side; with seq_length they decide the split.
        train_tokens, held_out_tokens: tokens in the .bin files.
        unigram_entropy: of the training tokens, in nats per token.
        unigrams: `distinct` ids that occur in training, and the ten `most_frequent` as [id, count].
        documents, held_out_documents: number of files in the corpus, and of those held out whole.
        corpus_bytes: size of the documents.
        left_out_files: number of files not taken; left_out: the first 100 as [name, reason].
        sha256: of each file but corpus.json, by file name.
    """

    format_version: int
    fingerprint: str
    tokenizer: str
    vocab_size: int
    dtype: str
    split: str
    train_document_tokens: int
    held_out_document_tokens: int
    train_tokens: int
    held_out_tokens: int
    unigram_entropy: float
    unigrams: dict
    documents: int
    held_out_documents: int
    corpus_bytes: int
    left_out_files: int
    left_out: list
    sha256: dict

    @classmethod
    def load(cls, directory: Path) -> TextCorpus:
        """The description in `directory`.

        Raises:
            UserError: it is missing, cannot be read, or is not what this version writes.
        """
        path = directory / DESCRIPTION_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path} is missing: the corpus was never prepared to the end", REBUILD_HINT) from None
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}", REBUILD_HINT) from error
        hints = get_type_hints(cls)
        if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
            raise UserError(f"{path} has another format than version {FORMAT_VERSION}", REBUILD_HINT)
        wrong = [name for name in hints if not isinstance(content.get(name), hints[name])]
        wrong += [name for name in content if name not in hints]
        if wrong or content["dtype"] not in DTYPES:
            raise UserError(f"{path} is damaged: {', '.join(wrong) or 'dtype'}", REBUILD_HINT)
        return cls(**content)

    def save(self, directory: Path) -> None:
        """Write corpus.json into `directory`."""
        text = json.dumps(asdict(self), indent=1)
        (directory / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")

    def wrong_size(self, directory: Path) -> str | None:
        """Which token file is missing or not as long as described, or None; cheap."""
        for name, tokens in ((TRAIN_FILE, self.train_tokens), (HELD_OUT_FILE, self.held_out_tokens)):
            expected = tokens * np.dtype(self.dtype).itemsize
            try:
                found = (directory / name).stat().st_size
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
            if found != expected:
                return f"{name} has {found} bytes instead of {expected}"
        return None

    def wrong_hash(self, directory: Path) -> str | None:
        """Which file is missing or has another content than described, or None; reads them all."""
        for name in file_names(self.tokenizer):
            try:
                found = sha256_of(directory / name)
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
            if found != self.sha256.get(name):
                return f"the content of {name} has changed"
        return None


def file_names(tokenizer_kind: str) -> list[str]:
    """The files of a prepared corpus besides corpus.json."""
    return [TRAIN_FILE, HELD_OUT_FILE] + ([TOKENIZER_FILE] if tokenizer_kind == "bpe" else [])


def file_blocks(path: Path) -> Iterator[bytes]:
    """The file's bytes in blocks of 4 MiB."""
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    for block in file_blocks(path):
        digest.update(block)
    return digest.hexdigest()


def unigram_counts(path: Path, dtype: str, vocab_size: int) -> np.ndarray:
    """How often each token id occurs in a token file: int64 [vocab_size]."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for block in file_blocks(path):
        counts += np.bincount(np.frombuffer(block, dtype=dtype), minlength=vocab_size)
    return counts


def entropy_of_counts(counts: np.ndarray) -> float:
    """Entropy of the relative frequencies, -sum p ln p, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
