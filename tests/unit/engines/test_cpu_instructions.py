from __future__ import annotations

from pathlib import Path

import pytest

from belvedere.engines.cpu_instructions import ISA_VARIABLE, instruction_limits

PROCESSOR = """processor\t: {number}
vendor_id\t: GenuineIntel
cpuid level\t: {level}
wp\t\t: yes
flags\t\t: fpu vme avx512f avx512_bf16 {more}
bugs\t\t: spectre_v1

"""


@pytest.fixture
def cpuinfo(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    level, more = request.param
    file = tmp_path / "cpuinfo"
    file.write_text("".join(PROCESSOR.format(number=n, level=level, more=more) for n in (0, 1)))
    return file


@pytest.mark.parametrize("cpuinfo", [(28, "amx_bf16 amx_tile amx_int8")], indirect=True)
def test_amx_whose_tiles_are_hidden_is_left_alone(cpuinfo: Path) -> None:
    assert instruction_limits({}, cpuinfo) == {ISA_VARIABLE: "AVX512_CORE_FP16"}


@pytest.mark.parametrize("cpuinfo", [(28, "amx_tile")], indirect=True)
def test_what_the_user_set_is_obeyed(cpuinfo: Path) -> None:
    assert instruction_limits({ISA_VARIABLE: "ALL"}, cpuinfo) == {}


@pytest.mark.parametrize("cpuinfo", [(32, "amx_tile"), (13, "avx2"), (28, "")], indirect=True)
def test_sound_machines_are_left_as_they_are(cpuinfo: Path) -> None:
    assert instruction_limits({}, cpuinfo) == {}


def test_a_system_without_cpuinfo_is_left_as_it_is(tmp_path: Path) -> None:
    assert instruction_limits({}, tmp_path / "cpuinfo") == {}
