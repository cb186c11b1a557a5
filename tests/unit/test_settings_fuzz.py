"""Whatever a person writes, there are settings or one UserError; and settings written down are read back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.settings import build_settings, dump_settings, load_settings

EASY = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
ENVIRONMENT = {"A": "1", "B": "x", "EMPTY": "", "LIST": "[1, 2]"}

KEYS = [(section, key) for section, field in Settings.model_fields.items() for key in field.annotation.model_fields]
CHOICES = ["gloo", "env://", "tcp://h:1", "adam", "cosine", "bfloat16", "auto", "text", "markov", "bpe", "yes", "null"]

words = st.text(max_size=12) | st.text(alphabet="${}:-=+?ABx1.[]#!&*'\"\\ \n", max_size=12)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.dates() | st.binary(max_size=4)
    | st.sampled_from(CHOICES) | st.integers(min_value=10**4300, max_value=10**4301)
)  # fmt: skip
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3), max_leaves=6)
names = st.sampled_from([key for _, key in KEYS]) | words | st.integers()
sections = st.dictionaries(names, values, max_size=4) | values
trees = st.dictionaries(st.sampled_from(list(Settings.model_fields)) | words | st.integers(), sections, max_size=4)


def settings_or_refusal(act) -> None:
    try:
        assert isinstance(act(), Settings)
    except UserError as error:
        assert error.message.strip()
        str(error).encode("utf-8", "backslashreplace")


def from_bytes(content: bytes, overrides=()) -> Settings:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(content)
        return load_settings(str(path), overrides, ENVIRONMENT)


@EASY
@given(trees)
def test_any_tree_gives_settings_or_a_user_error(tree):
    settings_or_refusal(lambda: build_settings(tree, "fuzz"))


@EASY
@given(trees)
def test_any_tree_in_a_file_gives_settings_or_a_user_error(tree):
    try:
        text = yaml.safe_dump(tree)
    except ValueError:  # an integer too long to be written in decimal
        return
    settings_or_refusal(lambda: from_bytes(text.encode()))


@EASY
@given(st.text(max_size=60) | st.text(alphabet="abtraining: {}[]!&*|>-#%?,'\"$\\\n\t1e~", max_size=60))
def test_any_text_in_a_file_gives_settings_or_a_user_error(text):
    settings_or_refusal(lambda: from_bytes(text.encode("utf-8", "surrogatepass")))


@EASY
@given(st.binary(max_size=40))
def test_any_bytes_in_a_file_give_settings_or_a_user_error(content):
    settings_or_refusal(lambda: from_bytes(content))


tags = st.sampled_from(["", "!!int ", "!!float ", "!!bool ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!x "])
plain = scalars.map(lambda value: hex(value) if isinstance(value, int) else repr(value))
texts = st.builds(str.__add__, tags, words) | words | plain
overrides = words | st.builds(lambda key, text: f"{'.'.join(key)}={text}", st.sampled_from(KEYS), texts)


@EASY
@given(st.lists(overrides, max_size=3))
def test_any_override_gives_settings_or_a_user_error(given_overrides):
    settings_or_refusal(lambda: load_settings("default", given_overrides, ENVIRONMENT))


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=300))
def test_any_name_of_a_profile_gives_settings_or_a_user_error(name):
    settings_or_refusal(lambda: load_settings(name, (), ENVIRONMENT))


# --- a valid random Settings -------------------------------------------------------------------------------

positive = st.integers(1, 2**70)
numbers = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
fractions = st.floats(min_value=0, max_value=1, exclude_max=True)
text = st.text(max_size=8) | st.text(alphabet="$\\{}[]:-#0e1.~x '\"\n\x85\u2028", max_size=8)


def some(**fields) -> st.SearchStrategy:
    return st.fixed_dictionaries({}, optional=fields)


valid = some(
    distributed=some(
        init_method=st.sampled_from(["auto", "env://", "tcp://[::1]:29500"]), master_addr=text | st.none(),
        master_port=st.integers(0, 65535), interface=text | st.none(), timeout_s=numbers, min_processes=positive,
    ),
    training=some(
        batch_size=positive, global_batch=positive | st.none(), learning_rate=numbers, weight_decay=numbers,
        min_learning_rate_ratio=st.floats(0, 1), beta1=fractions, clip_norm=numbers | st.integers(0, 9),
        seed=st.integers(0, 2**63 - 1), schedule=st.sampled_from(["cosine", "constant"]),
        max_steps=positive | st.none(),
    ),
    model=some(vocab_size=st.integers(256, 65536), num_layers=positive, dropout=fractions, tied_head=st.booleans()),
    hardware=some(
        dtype=st.sampled_from(["float32", "bfloat16", "float64"]), compile=st.booleans(),
        zero_stage=st.sampled_from([0, 1, 2]), max_seq_length=st.integers(128, 2**40) | st.none(),
    ),
    data=some(
        source=st.sampled_from(["text", "random", "markov"]), paths=st.lists(text, max_size=3).map(tuple) | text,
        pattern=text, held_out=st.floats(0, 0.5, exclude_min=True, exclude_max=True), branching=st.integers(2, 256),
    ),
)  # fmt: skip


@EASY
@given(valid)
def test_valid_settings_are_read_back_as_they_were_written(tree):
    try:
        made = Settings.model_validate(tree)
    except ValidationError as error:
        pytest.fail(f"the strategy made what is not valid: {error}")
    assert from_bytes(dump_settings(made).encode()) == made


@EASY
@given(st.sampled_from(["data.pattern", "distributed.interface", "training.seed", "model.dropout"]), text)
def test_what_an_override_made_is_read_back_as_it_was_written(key, value):
    try:
        made = load_settings("default", [f"{key}={value}"], ENVIRONMENT)
    except UserError:
        return
    assert from_bytes(dump_settings(made).encode()) == made
