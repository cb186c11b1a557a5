"""Which files make the corpus."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from ryzen_mpi.data.corpus import NotText, default_corpus, find_documents, read_text, without_other_files
from ryzen_mpi.data.prepare import prepare_text
from ryzen_mpi.errors import UserError


def write(path, content="text\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def names(corpus):
    return [document.name for document in corpus.documents]


def test_folders_are_walked_in_sorted_order_and_hidden_files_passed_over(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/c/y.txt", ".hidden", ".git/x.txt", "a/.b/x.txt", "a.md"):
        write(tmp_path / name)
    assert names(find_documents([tmp_path])) == ["a.md", "b.txt", "a/z.txt", "a/c/y.txt"]
    assert names(find_documents([tmp_path], "*.txt")) == ["b.txt", "a/z.txt", "a/c/y.txt"]


def test_a_file_named_itself_is_taken_whatever_its_name_and_once(tmp_path):
    named = write(tmp_path / ".notes")
    write(tmp_path / "a.txt")
    corpus = find_documents([named, tmp_path / "a.txt", tmp_path], "*.txt")
    assert names(corpus) == [".notes", "a.txt"]


def test_links_that_leave_the_folder_are_left_out_and_counted(tmp_path):
    outside = write(tmp_path / "outside" / "secret.txt")
    folder = tmp_path / "folder"
    write(folder / "real.txt")
    (folder / "inside.txt").symlink_to(folder / "real.txt")
    (folder / "leaves.txt").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "away").symlink_to(outside.parent)
    corpus = find_documents([folder])
    assert len(corpus.documents) == 1  # inside.txt and real.txt are one file
    assert {entry.name: entry.reason for entry in corpus.left_out} == {
        "leaves.txt": "link that leaves the folder",
        "loop": "link to a folder",
        "away": "link to a folder",
    }


def test_a_folder_given_through_a_link_is_walked(tmp_path):
    write(tmp_path / "real" / "a.txt")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(find_documents([tmp_path / "link"])) == ["a.txt"]


def test_only_regular_files_are_read(tmp_path):
    write(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    assert names(find_documents([tmp_path])) == ["a.txt"]


def test_files_that_are_no_text_are_left_out_with_the_reason(tmp_path):
    write(tmp_path / "good.txt", "schön\n")
    write(tmp_path / "binary", b"abc\0def")
    write(tmp_path / "latin", "schön".encode("latin-1"))
    write(tmp_path / "cut", "schön".encode()[:4])
    write(tmp_path / "empty", "")
    late = write(tmp_path / "late", b"x" * 3 * 2**20 + b"\xff")
    corpus = without_other_files(find_documents([tmp_path]))
    assert names(corpus) == ["good.txt"]
    reasons = {entry.name: entry.reason for entry in corpus.left_out}
    assert reasons["binary"].startswith("binary")
    assert reasons["empty"] == "empty"
    assert {name for name, reason in reasons.items() if reason == "not UTF-8"} == {"latin", "cut", late.name}


def test_a_large_file_comes_in_pieces_that_end_at_lines_and_make_up_the_whole(tmp_path):
    lines = "".join(f"Zeile {i} – mit Umlaut ü\r\n" for i in range(200_000))
    whole = lines + "\n" + "ä" * 2_500_000 + "no end of line"
    [document] = find_documents([write(tmp_path / "large.txt", whole)]).documents
    pieces = list(read_text(document))
    assert "".join(pieces) == whole
    assert len(pieces) > 5
    assert max(len(piece.encode()) for piece in pieces) <= 2 * 2**20
    assert all(piece.endswith("\n") for piece in pieces[:4])


def test_a_name_that_is_no_utf8_is_a_document_like_any_other(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    assert len(find_documents([tmp_path]).documents) == 1


@pytest.mark.parametrize("content", [b"abc\0", b"\xff"])
def test_reading_what_is_no_text_says_so(tmp_path, content):
    [document] = find_documents([write(tmp_path / "a", content)]).documents
    with pytest.raises(NotText):
        list(read_text(document))


def test_user_errors_name_the_path_and_what_is_allowed(tmp_path):
    write(tmp_path / "only.bin", b"\0")
    write(tmp_path / "none" / ".hidden")
    os.mkfifo(tmp_path / "pipe")
    cases = [
        (lambda: find_documents([tmp_path / "missing"]), "missing is not there"),
        (lambda: find_documents([tmp_path / "pipe"]), "pipe is neither a file nor a folder"),
        (lambda: find_documents([tmp_path / "none"]), "none"),
        (lambda: find_documents([tmp_path], "*.txt"), r"pattern '\*.txt'"),
        (lambda: find_documents([]), "no path at all"),
        (lambda: without_other_files(find_documents([tmp_path / "only.bin"])), "only.bin: binary"),
    ]
    for act, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            act()
        assert "text files" in caught.value.hint


def test_a_file_that_vanishes_before_it_is_read_is_a_user_error(tmp_path):
    corpus = find_documents([write(tmp_path / "a.txt")])
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"cannot read .*a\.txt: No such file"):
        without_other_files(corpus)


@pytest.fixture
def open_folder():
    """A folder that anyone may enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextmanager
def unprivileged():
    """Not as root, which may read everything."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_what_may_not_be_read_is_a_user_error_that_names_it(open_folder):
    write(open_folder / "a.txt").chmod(0)
    write(open_folder / "shut" / "b.txt").parent.chmod(0)
    for given, named in (("a.txt", "a.txt"), ("shut", "shut"), ("shut/b.txt", "b.txt"), (".", "shut")):
        with unprivileged(), pytest.raises(UserError, match=f"cannot read .*{named}: Permission denied"):
            without_other_files(find_documents([open_folder / given]))


def test_a_directory_that_may_not_be_written_is_a_user_error(open_folder):
    write(open_folder / "a.txt", "text " * 100)
    with (
        unprivileged(),
        pytest.raises(UserError, match="cannot write .*prepared: Permission denied") as caught,
    ):
        prepare_text(open_folder / "prepared", [open_folder / "a.txt"], seq_length=8)
    assert "choose a run directory" in caught.value.hint


def test_the_default_corpus_is_megabytes_of_the_standard_library_without_its_tests():
    corpus = default_corpus()
    assert corpus.size_bytes > 5e6
    found = set(names(corpus))
    assert {"argparse.py", "json/decoder.py", "email/message.py"} <= found
    folders = {part for name in found for part in name.split("/")[:-1]}
    assert not folders & {"site-packages", "test", "tests", "__pycache__"}
    assert all(name.endswith(".py") for name in found)


def test_a_python_without_source_code_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(UserError, match="default corpus is not here") as caught:
        default_corpus()
    assert "text files" in caught.value.hint
