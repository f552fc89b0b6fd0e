"""The program of a step, read off its text, and the targets that are not there."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import compile as compiling
from benchmarks.hlo import Hlo
from benchmarks.off_the_shelf import flax_resnet20
from tests.marks import long

TEXT = """HloModule step, is_scheduled=true

%fused (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %double = f32[4,8]{1,0} add(%p, %p)
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %moved = f32[4,8]{1,0} fusion(%x), kind=kLoop, calls=%fused
  %sum = f32[4,8]{1,0} all-reduce(%moved), to_apply=%add
  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%i, %sum)
}

%condition (state: (s32[], f32[4,8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %a = f32[2,8,8,4]{0} convolution(%x, %k), window={size=3x3}, dim_labels=b01f_01io->b01f
  %b = f32[2,8,8,4]{0} convolution(%a, %k), window={size=3x3}, dim_labels=b01f_01io->b01f
  %c = f32[2,8,8,4]{0} convolution(%b, %k), window={size=1x1}, dim_labels=b01f_01io->b01f
  %gathered = bf16[16,8]{1,0} all-gather(%x), dimensions={0}
  %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_loops_convolutions_and_collectives_are_counted():
    program = Hlo(TEXT)
    assert program.count("while") == 1
    assert program.convolutions() == (3, 2)
    assert program.collectives() == {
        "collectives": 2,
        "collective_bytes": 16 * 8 * 2 + 4 * 8 * 4,
        "collectives_in_loops": 1,
        "overlapped": 0,
    }
    # The fusion and the sum of the body, the comparison of the condition.
    assert program.bytes_of_largest_loop() == 2 * 4 * 8 * 4 + 1


@long
def test_a_step_is_compiled_for_the_cpu_and_a_target_without_its_wheels_is_skipped(
    monkeypatch, capsys
):
    monkeypatch.setattr("benchmarks.engine.BATCH", 8)
    found = compiling.measure("cpu", "cnn1", 0.9, "float32", "auto")
    assert found["loops"] > 0
    assert found["multiply_adds"] > 0
    assert found["hlo_bytes"] > 10_000
    no_wheels = compiling.Target("cuda", "1x1x1", 1e9, 1e12, 1e12, 1e12)
    monkeypatch.setitem(compiling.TARGETS, "nothing", no_wheels)
    monkeypatch.setattr(
        compiling.topologies, "get_topology_desc", lambda **_: (_ for _ in ()).throw(OSError("no"))
    )
    assert not list(compiling.cells(targets=("nothing",)))
    assert capsys.readouterr().out == "compile/nothing: skipped, no\n"
    with pytest.raises(KeyError, match="h10"):  # misspelt is not skipped
        list(compiling.cells(targets=("h10",)))


@long
def test_a_network_that_knows_nothing_of_this_package_is_compiled_too():
    loss, params, args = flax_resnet20(4)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 272_474
    assert jnp.isfinite(loss(params, *args)[0])
