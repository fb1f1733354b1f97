"""The names in files are a public format: a change here makes files of other versions unreadable."""

from dataclasses import dataclass

import pytest

from ztsnr.core.errors import ConfigError
from ztsnr.core.format_names import decode_timesteps, encode_timesteps, target_name
from ztsnr.core.schedule.timesteps import FlowTime, LogSigma, TableIndex, TimestepMap
from ztsnr.core.target import EDM, X0, Eps, Flow, V


@pytest.mark.parametrize(
    ("target", "name"), [(Eps(), "eps"), (X0(), "x0"), (V(), "v"), (EDM(sigma_data=0.5), "edm"), (Flow(), "flow")]
)
def test_target_names_in_files_are_those_of_the_first_format(target, name):
    assert target_name(target) == name


def test_timesteps_in_files_are_those_of_the_first_format_and_decode(sdxl):
    encoded = [
        (TableIndex(table=sdxl, quantize=True), {"name": "tableindex", "quantize": True}),
        (LogSigma(scale=0.25), {"name": "logsigma", "scale": 0.25}),
        (FlowTime(scale=1000.0), {"name": "flowtime", "scale": 1000.0}),
    ]
    for timesteps, expected in encoded:
        assert encode_timesteps(timesteps) == expected
        assert decode_timesteps(expected, sdxl) == timesteps


def test_plug_in_parts_are_encoded_as_custom_and_cannot_be_decoded(sdxl):
    @dataclass(frozen=True, kw_only=True)
    class MyTarget(V):
        pass

    @dataclass(frozen=True, kw_only=True)
    class MyTimesteps(TimestepMap):
        secret: int

    assert target_name(MyTarget()) == "custom"
    assert encode_timesteps(MyTimesteps(secret=1)) == {"name": "custom"}
    with pytest.raises(ConfigError, match=r"ztsnr\.timesteps must be one of tableindex, .*, got 'custom'"):
        decode_timesteps({"name": "custom"}, sdxl)


@pytest.mark.parametrize("parameters", [{}, {"scale": 1.0, "more": 2}, {"quantize": True}])
def test_timesteps_with_missing_or_unknown_parameters_are_refused(parameters, sdxl):
    with pytest.raises(ConfigError, match=r"ztsnr\.timesteps=logsigma must have exactly the parameter scale, got"):
        decode_timesteps({"name": "logsigma"} | parameters, sdxl)
