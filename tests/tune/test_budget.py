"""What --within, --size and --minimize may say."""

from __future__ import annotations

import pytest

from pythia_quant.core.errors import ArgumentError, PythiaQuantError
from pythia_quant.tune.budget import Budget, parse_budget


def test_limits_on_drift_are_those_of_gates() -> None:
    assert parse_budget("max_kl: 5 mnat, min_top1: 95 %", None, None) == Budget("size", {"max_kl": 5, "min_top1": 95})
    assert parse_budget("max_ppl_drift: 1 %", None, "size").drift == {"max_ppl_drift": 1}
    assert parse_budget("max_kl: 5", None, None, 10).margin == 0.1
    with pytest.raises(ArgumentError, match="goes with limits on drift"):
        parse_budget(None, "60MB", None, 10)


@pytest.mark.parametrize(("text", "size"), [("1.6MB", 1_600_000), ("60 mb", 60_000_000), ("2GiB", 2**31)])
def test_a_size_has_a_unit(text: str, size: int) -> None:
    assert parse_budget(None, text, None) == Budget("kl", {}, size)


@pytest.mark.parametrize(
    ("within", "size", "minimize", "message"),
    [
        (None, None, None, "exactly one of them is needed"),
        ("max_kl: 5", "60MB", None, "exactly one of them is needed"),
        ("max_k: 5", None, None, "did you mean 'max_kl'"),
        ("min_speedup: 2", None, None, "no limit on drift"),
        ("max_kl: much", None, None, "no limit"),
        ("five", None, None, "no limit"),
        ("max_kl: [", None, None, "not a plain value"),
        (None, "60", None, "no size"),
        (None, "-1MB", None, "no size"),
        (None, "60MB", "size", "does not go with --size"),
        ("max_kl: 5", None, "decode", "does not go with --within"),
        ("max_kl: 5", None, "kl", "does not go with --within"),
    ],
)
def test_what_cannot_be_used_is_refused(
    within: str | None, size: str | None, minimize: str | None, message: str
) -> None:
    with pytest.raises(PythiaQuantError, match=message) as caught:
        parse_budget(within, size, minimize)
    assert caught.value.where or isinstance(caught.value, ArgumentError)
