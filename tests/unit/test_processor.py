"""Which precision a processor is quick in."""

import pytest

from ryzen_mpi import settings
from ryzen_mpi.processor import has_bfloat16, quickest_dtype


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", True),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("Features\t: fp asimd bf16", True),
        ("model name\t: avx512_bf16 in name only", False),
    ],
)
def test_bfloat16_is_what_the_flags_say(tmp_path, line, has):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\n")
    assert has_bfloat16(cpuinfo) is has
    assert quickest_dtype(cpuinfo) == ("bfloat16" if has else "float32")


def test_where_nothing_is_told_it_is_float32(tmp_path):
    assert quickest_dtype(tmp_path / "none") == "float32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_auto_is_resolved_when_settings_are_loaded_and_what_is_said_stays(monkeypatch, dtype):
    monkeypatch.setattr(settings, "quickest_dtype", lambda: dtype)
    assert settings.load_settings().hardware.dtype == dtype
    assert settings.load_settings("default", ["hardware.dtype=float64"]).hardware.dtype == "float64"
