"""Settings: every profile loads, and what a person gets wrong is named with what is allowed."""

from __future__ import annotations

import os

import pytest
import yaml

from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.settings import build_settings, dump_settings, load_settings, profile_names

PROFILES = pytest.mark.parametrize("name", profile_names())


def loaded(tmp_path, text: str, *overrides: str, **environment: str) -> Settings:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(str(path), overrides, environment)


def refusal(*overrides: str, config: str = "default") -> UserError:
    with pytest.raises(UserError) as caught:
        load_settings(config, overrides, {})
    return caught.value


# --- profiles ------------------------------------------------------------------------------------------


@PROFILES
def test_a_profile_survives_dump_and_load(name, tmp_path):
    settings = load_settings(name, environment={})
    assert loaded(tmp_path, dump_settings(settings)) == settings


@PROFILES
def test_a_dump_names_every_setting(name):
    dumped = yaml.safe_load(dump_settings(load_settings(name, environment={})))
    for section, field in Settings.model_fields.items():
        assert list(dumped[section]) == list(field.annotation.model_fields)


def test_the_profiles_of_the_documents_are_there():
    assert {"default", "production_4process", "scaling_benchmark"} <= set(profile_names())


def test_an_empty_file_means_the_defaults(tmp_path):
    assert loaded(tmp_path, "") == Settings() == loaded(tmp_path, "model:\n")


# --- ${NAME:-default} ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"), [("7", 7), ("", 16), ("0x10", 16)], ids=["given", "given empty", "given in hexadecimal"]
)
def test_a_reference_takes_the_type_of_its_value(tmp_path, value, expected):
    assert loaded(tmp_path, "training: {batch_size: '${B:-16}'}", B=value).training.batch_size == expected


def test_a_reference_without_value_takes_its_default_typed(tmp_path):
    settings = loaded(
        tmp_path,
        "training: {learning_rate: '${LR:-1e-4}', batch_size: '${A:-${B:-3}}'}\nmodel: {tied_head: '${TIED:-false}'}\n"
        "distributed: {master_addr: '${ADDRESS:-}'}\ndata: {paths: '${BOOKS:-[a, b]}'}",
    )
    assert (settings.training.learning_rate, settings.training.batch_size) == (1e-4, 3)
    assert settings.model.tied_head is False
    assert settings.distributed.master_addr is None
    assert settings.data.paths == ("a", "b")


def test_a_reference_within_text_leaves_it_text(tmp_path):
    assert loaded(tmp_path, "data: {paths: '/data/${USER}/x', pattern: '[${A}]'}", USER="ann", A="xyz").data == (
        Settings.model_validate({"data": {"paths": ("/data/ann/x",), "pattern": "[xyz]"}}).data
    )


def test_a_reference_without_value_or_default_is_named(tmp_path):
    with pytest.raises(UserError, match=r"mine\.yaml: data: pattern.*NOWHERE") as caught:
        loaded(tmp_path, "data: {pattern: '${NOWHERE}'}")
    assert "${NAME:-default}" in caught.value.hint


def test_reading_settings_leaves_the_environment_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("RYZEN_TEST_ASSIGNED", raising=False)
    path = tmp_path / "mine.yaml"
    path.write_text("data: {pattern: '${RYZEN_TEST_ASSIGNED:=x}'}")
    assert load_settings(str(path)).data.pattern == "x"
    assert "RYZEN_TEST_ASSIGNED" not in os.environ


def test_text_with_a_dollar_survives_dump_and_load(tmp_path):
    odd = {"data": {"paths": ["/data/$HOME", r"C:\x\$y", "[$a]", "100$"], "pattern": "$$"}}
    settings = build_settings(odd, "test")
    assert loaded(tmp_path, dump_settings(settings), HOME="/root") == settings


# --- overrides -----------------------------------------------------------------------------------------


def test_overrides_win_over_the_file_and_the_last_wins():
    settings = load_settings("default", ["training.seed=1", "training.seed=2", "model.dropout=1e-1"], {})
    assert settings.training.seed == 2
    assert settings.model.dropout == 0.1


def test_an_override_may_hold_an_equals_sign_a_list_or_nothing():
    settings = load_settings("default", ["data.pattern=a=b", "data.paths=[x, y]", "training.max_steps="], {})
    assert settings.data.pattern == "a=b"
    assert settings.data.paths == ("x", "y")
    assert settings.training.max_steps is None


def test_an_override_is_not_expanded():
    assert load_settings("default", ["data.pattern=$HOME"], {}).data.pattern == "$HOME"


@pytest.mark.parametrize("override", ["", "=", "seed=1", "training.seed", ".seed=1", "training.=1", "training=1"])
def test_an_override_of_another_form_is_refused(override):
    error = refusal(override)
    assert repr(override) in error.message and "section.key=value" in error.message
    assert "sections: distributed, training" in error.hint


# --- refusals name key, value, what is allowed, and the nearest name --------------------------------------


def test_an_unknown_key_is_named_with_the_nearest():
    error = refusal("training.learning_rat=1")
    assert "unknown key training.learning_rat; did you mean learning_rate?" in error.message
    assert "batch_size" in error.hint


def test_an_unknown_section_is_named_with_the_nearest():
    error = refusal("trainig.seed=1")
    assert "unknown key trainig; did you mean training?" in error.message
    assert error.hint == "allowed here: distributed, training, model, hardware, data, monitor"


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("training.batch_size=0", ">= 1"),
        ("training.batch_size=many", "integer >= 1"),
        ("training.batch_size=1.5", "integer"),
        ("training.batch_size=true", "integer"),
        ("training.learning_rate=.nan", "number > 0"),
        ("training.learning_rate=.inf", "number > 0"),
        ("model.dropout=1.0", ">= 0 and < 1"),
        ("model.tied_head=maybe", "boolean"),
        ("hardware.dtype=float16", "float32, bfloat16, float64, auto"),
        ("hardware.zero_stage=3", "0, 1, 2"),
        ("distributed.init_method=udp://x", "tcp://"),
        ("distributed.master_port=70000", "<= 65535"),
        ("training.optimizer=sgd", "adam, adamw"),
        ("distributed.compression=zip", "none, bfloat16, float16, powersgd, topk"),
        ("distributed.compression_rank=0", ">= 1"),
        ("distributed.compression_share=0", "> 0"),
        ("distributed.compression_share=1.5", "<= 1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(override, allowed):
    error = refusal(override)
    key, _, value = override.partition("=")
    assert f"{key}=" in error.message
    assert value.strip(".").lower() in error.message.lower()
    assert allowed in error.hint


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["distributed.compression=topk", "distributed.arena=false"], ["compression=topk", "arena=false"]),
        (["distributed.compression=topk", "distributed.backend=gloo"], ["compression=topk", "backend=gloo"]),
        (["model.num_heads=3"], ["num_heads=3", "embedding_dim=256", "1, 2, 4, 8"]),
        (["hardware.max_seq_length=128", "model.seq_length=256"], ["max_seq_length=128", "seq_length=256"]),
        (["data.tokenizer=bpe", "model.vocab_size=256"], ["vocab_size=256", "bpe", "257"]),
        (["model.vocab_size=65537"], ["vocab_size=65537", "65536"]),
        (["data.source=markov", "data.branching=300", "model.vocab_size=256"], ["branching=300", "vocab_size=256"]),
    ],
)
def test_an_impossible_combination_names_both_sides(overrides, words):
    message = refusal(*overrides).message
    assert all(word in message for word in words), message


def test_what_is_left_to_correct_is_counted():
    assert "2 more to correct" in refusal("training.seed=-1", "model.dropout=2", "nowhere.x=1").hint


def test_values_do_not_change_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        Settings().training.seed = 3


# --- files -----------------------------------------------------------------------------------------------


def test_an_unknown_profile_is_answered_with_the_nearest_and_all():
    error = refusal(config="scaling_benchmrk")
    assert "neither a profile nor a file" in error.message
    assert "did you mean scaling_benchmark?" in error.hint and "production_4process" in error.hint


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("x" * 5000, "name too long"),
        ("~nobody_of_that_name/x.yaml", "home directory"),
        ("a\0b", "neither"),
        ("/", "folder"),
        ("", "folder"),
    ],
)
def test_an_impossible_path_is_refused(config, words):
    assert words in str(refusal(config=config)).lower()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[1, 2]", "holds a list"),
        (b"a: [", "not valid YAML"),
        (b"a: !!int ''", "not valid YAML"),
        (b"a: !!bool x", "not valid YAML"),
        (b"a: !!timestamp x", "not valid YAML"),
        (b"a: 2001-99-99", "not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"training: &a {seed: *a}", "nested"),
        (b"training: {seed: 0x" + b"f" * 5000 + b"}", "training.seed=a int"),
        (b"training: {seed: " + b"9" * 5000 + b"}", "not valid YAML"),
        (b"[" * 5000, "not valid YAML"),
        (b"1: 2", "1"),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, content, words):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_settings(str(path))
    assert words in caught.value.message and "mine.yaml" in caught.value.message


# --- derived ---------------------------------------------------------------------------------------------


def test_the_global_batch_is_that_of_all_ranks_unless_fixed():
    assert load_settings("default", ["training.gradient_accumulation_steps=3"], {}).global_batch(4) == 16 * 3 * 4
    assert load_settings("default", ["training.global_batch=30"], {}).global_batch(4) == 30


def test_positions_default_to_the_sequence_length():
    assert load_settings("default", environment={}).max_positions == 128
    assert load_settings("default", ["hardware.max_seq_length=300"], {}).max_positions == 300


def test_a_section_inside_a_section_is_reached_by_its_name():
    assert load_settings("default", ["monitor.rules.spike=warn"]).monitor.rules.spike == "warn"


@pytest.mark.parametrize(
    ("word", "said", "hint"),
    [
        ("monitor.rules.spik=warn", "unknown key monitor.rules.spik; did you mean spike?", "allowed here: finite"),
        ("monitor.rules.spike=never", "monitor.rules.spike='never'", "allowed: act, warn, off"),
        ("monitor.rules=warn", "monitor.rules='warn'", "a section of its own: finite"),
        ("training.seed.more=3", "training.seed={'more': 3}", "allowed: integer"),
        ("training..seed=3", "not of the form section.key=value", "sections: distributed"),
    ],
)
def test_what_is_wrong_inside_a_section_is_named(word, said, hint):
    with pytest.raises(UserError) as refused:
        load_settings("default", [word])
    assert said in refused.value.message and hint in refused.value.hint
