"""The metrics: every value that is derived from a result file, by name, with its unit, direction and interval.

Tables, plots, gates and comparisons take their numbers from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Literal, NamedTuple

from pythia_quant.bench.statistics import (
    BATCHES,
    Estimate,
    differences,
    mean_of_samples,
    mean_of_windows,
    perplexity,
    spread,
)
from pythia_quant.records.results import CONFIDENCES, Drift, Lambada, Results, Row, Speed


class Value(NamedTuple):
    """A measured value with the ends of its interval.

    The interval is that of 95 % if there is a standard error, else from the 10th to the 90th percentile of the samples.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Metric:
    """One kind of value.

    Attributes:
        key: the metric's name in files.
        label: the metric's name for people.
        unit: the unit of the value; empty for a ratio.
        better: whether a lower or a higher value is better; empty if neither is.
        protocol: the protocol that measures it: ``windows``, ``latency``, ``lambada``, or ``size`` for what is counted.
        value_of: a function that returns the value of a row; None if it was not measured.
    """

    key: str
    label: str
    unit: str
    better: Literal["lower", "higher", ""]
    protocol: Literal["windows", "latency", "lambada", "size"]
    value_of: Callable[[Row, Results], Value | None]


def bits_per_byte(results: Results, nll: Sequence[float]) -> Value:
    """Return the mean of `nll`, nats a token, as bits a byte of the text."""
    return _scaled(mean_of_windows(nll), results.text.tokens / results.text.bytes / math.log(2))


def reference_perplexity(results: Results) -> Value:
    """Return the reference's perplexity."""
    return _value(perplexity(mean_of_windows(results.reference_nll)))


def ppl_drift_percent(drift: Drift, results: Results) -> Estimate:
    """Return the difference of a perplexity from the reference's in percent; infinite if a logit was not finite."""
    if drift.non_finite:
        return Estimate(math.inf, 0.0, BATCHES)
    log_ratio = mean_of_windows(differences(drift.nll, results.reference_nll))
    ratio = perplexity(log_ratio)
    if math.isinf(ratio.value):
        return ratio
    return Estimate(100 * math.expm1(log_ratio.value), 100 * ratio.error, ratio.count)


def plus_minus(value: Value) -> str:
    """Return a value and half its interval as text with two decimals; ``infinite`` if the value is not finite."""
    return f"{value.value:.2f} ± {value.high - value.value:.2f}" if math.isfinite(value.value) else "infinite"


def outdated(results: Results) -> str:
    """Return a warning about the windows and intervals of protocol version 1; empty for later versions."""
    if results.protocol.version > 1:
        return ""
    return (
        f"Drift was measured by protocol windows v1, on the text's first {results.protocol.windows} windows: the "
        "intervals are too narrow for the whole text, and no result of v2 is compared with it."
    )


def outdated_sizes(results: Results) -> str:
    """Return a warning about sizes that were counted by version 1; empty for later versions."""
    if results.size_version > 1:
        return ""
    return (
        "Sizes were counted by version 1: bits a weight are of tensors alone, and disk is an artifact's whole folder "
        "or the source's own files. No size of version 2 is compared with them."
    )


def fp16_floor(results: Results) -> Drift | None:
    """Return the drift of the source as run in fp16; None if it was not run, or had a logit that is not finite."""
    floor = next((row.as_run for row in results.rows if row.name == "torch-fp16"), None)
    return None if floor is None or floor.non_finite else floor


def fastest_unquantized(results: Results) -> Row | None:
    """Return the unquantized row of ours that decodes fastest; None if no speed was measured."""
    rows = [row for row in results.rows if not (row.quantized or row.foreign)]
    timed = [(decode, row) for row in rows if (decode := decode_ms(row, results))]
    return min(timed, key=lambda pair: pair[0].value)[1] if timed else None


def decode_ms(row: Row, results: Results) -> Value | None:
    """Return the milliseconds a decoded token takes at the protocol's usual context."""
    samples = _decode(row, results)
    return _spread([1e3 * seconds for seconds in samples]) if samples else None


def prefill_rate(row: Row, results: Results) -> Value | None:
    """Return the tokens a second of a prefill of the protocol's usual prompt."""
    if not row.speeds or results.latency is None:
        return None
    prompt = results.latency.prompt
    return _spread([prompt / seconds for seconds in row.speeds[0].prefill_seconds(prompt)])


def speedup(row: Row, other: Row | None, results: Results) -> Value | None:
    """Return how many times faster `row` decodes than `other`.

    With several rounds, this is the geometric mean of each round's ratio of medians, with its 95 % interval: what slows
    a round slows both rows. With one round, it is the ratio of the medians, and its ends come from both percentiles.
    """
    fast, slow = decode_ms(row, results), decode_ms(other, results) if other else None
    if fast is None or slow is None or other is None:
        return None
    rounds = list(zip(_medians(row, results), _medians(other, results), strict=False))
    if len(rounds) < 2:
        return Value(slow.value / fast.value, slow.low / fast.high, slow.high / fast.low)
    mean = mean_of_samples([math.log(of_other / of_row) for of_row, of_other in rounds])
    return Value(*(math.exp(mean.value + sign * mean.margin) for sign in (0, -1, 1)))


def limit_share(row: Row, results: Results) -> Value | None:
    """Return the decode speed in percent of its limit, which is to read every weight once a token from memory."""
    if not row.speeds or results.latency is None:
        return None
    speed, context = row.speeds[0], results.latency.context
    shares = [
        100 * speed.weight_bytes / process.read_bytes_per_second / seconds
        for process in speed.processes
        for part in process.decode
        for seconds in part.seconds
        if speed.weight_bytes and process.read_bytes_per_second and part.tokens == context
    ]
    return _spread(shares) if shares else None


def last_word_accuracy(measured: Lambada) -> Estimate:
    """Return the share, 0 to 1, of last words that greedy decoding gives; passages are independent."""
    return mean_of_samples([float(hit) for hit in measured.greedy])


def last_word_perplexity(measured: Lambada) -> Estimate:
    """Return exp of the mean negative log-likelihood of a last word, which may have several tokens."""
    return perplexity(mean_of_samples([-value for value in measured.log_likelihood]))


def lambada_accuracy(row: Row, results: Results) -> Value | None:  # noqa: ARG001
    """Return the percentage of last words that greedy decoding gives."""
    return _scaled(last_word_accuracy(row.lambada), 100) if row.lambada else None


def lambada_perplexity(row: Row, results: Results) -> Value | None:  # noqa: ARG001
    """Return exp of the mean negative log-likelihood of a last word."""
    return _value(last_word_perplexity(row.lambada)) if row.lambada else None


def _decode(row: Row, results: Results) -> list[float]:
    return row.speeds[0].decode_seconds(results.latency.context) if row.speeds and results.latency else []


def _medians(row: Row, results: Results) -> list[float]:
    """Return the median seconds a token of each process, round by round."""
    context = results.latency.context if results.latency else 0
    return [
        median(part.seconds) for process in row.speeds[0].processes for part in process.decode if part.tokens == context
    ]


def _value(mean: Estimate) -> Value:
    return Value(mean.value, mean.value - mean.margin, mean.value + mean.margin)


def _scaled(mean: Estimate, factor: float) -> Value:
    return _value(Estimate(mean.value * factor, mean.error * factor, mean.count))


def _spread(samples: Sequence[float]) -> Value:
    low, middle, high = spread(samples)
    return Value(middle, low, high)


def _mean(values: Sequence[float], scale: float) -> Value | None:
    return _scaled(mean_of_windows(values), scale) if values else None


def _kl(drift: Drift | None) -> Value | None:
    return _mean(drift.kl, 1e3) if drift else None


def _top1(drift: Drift | None) -> Value | None:
    return _mean(drift.top1, 100) if drift else None


def _top5(drift: Drift | None) -> Value | None:
    return _mean(drift.top5, 100) if drift else None


def _ppl_drift(drift: Drift | None, results: Results) -> Value | None:
    return _value(ppl_drift_percent(drift, results)) if drift else None


def _kl_quantile(drift: Drift | None, share: float) -> Value | None:
    for quantile in drift.kl_quantiles if drift else ():
        if quantile.share == share:
            return Value(1e3 * quantile.value, 1e3 * quantile.low, 1e3 * quantile.high)
    return None


def _kl_of_confidence(low: float, row: Row, results: Results) -> Value | None:
    """Return the KL divergence of the tokens whose confidence is in the bin of `CONFIDENCES` that begins at `low`."""
    for part in row.as_run.by_confidence if row.as_run else ():
        if part.low == low:
            return _value(Estimate(1e3 * part.kl, 1e3 * part.kl_error, min(BATCHES, results.protocol.windows)))
    return None


def _perplexity(row: Row, _: Results) -> Value | None:
    return _value(perplexity(mean_of_windows(row.as_run.nll))) if row.as_run and row.as_run.nll else None


def _bits_per_byte(row: Row, results: Results) -> Value | None:
    return bits_per_byte(results, row.as_run.nll) if row.as_run and row.as_run.nll else None


def _load_seconds(speed: Speed) -> list[float]:
    return [process.load_seconds for process in speed.processes]


def _first_token_milliseconds(speed: Speed) -> list[float]:
    return [1e3 * p.first_token_seconds for p in speed.processes if p.first_token_seconds is not None]


def _peak_megabytes(speed: Speed) -> list[float]:
    return [(process.peak_rss_bytes - process.start_rss_bytes) / 1e6 for process in speed.processes]


def _device_peak_megabytes(speed: Speed) -> list[float]:
    return [process.peak_device_bytes / 1e6 for process in speed.processes if process.peak_device_bytes is not None]


PER_PROCESS = {
    "load": _load_seconds, "first_token": _first_token_milliseconds, "memory": _peak_megabytes,
    "device_memory": _device_peak_megabytes,
}  # fmt: skip
"""By the key of each metric that has one sample a process: the function that returns the samples, in its unit."""


def _per_process(key: str, row: Row, _: Results) -> Value | None:
    samples = PER_PROCESS[key](row.speeds[0]) if row.speeds else []
    return _spread(samples) if samples else None


def _exactly(counted: float) -> Value:
    return Value(counted, counted, counted)


METRICS = {
    metric.key: metric
    for metric in (
        Metric(
            "ppl_drift", "perplexity drift as run", "%", "lower", "windows",
            lambda row, results: _ppl_drift(row.as_run, results),
        ),
        Metric(
            "ppl_drift_weights", "perplexity drift of the weights", "%", "lower", "windows",
            lambda row, results: _ppl_drift(row.weights, results),
        ),
        Metric("kl", "KL divergence as run", "mnat", "lower", "windows", lambda row, _: _kl(row.as_run)),
        Metric(
            "kl_weights", "KL divergence of the weights", "mnat", "lower", "windows", lambda row, _: _kl(row.weights),
        ),
        Metric(
            "kl_median", "median KL divergence", "mnat", "lower", "windows",
            lambda row, _: _kl_quantile(row.as_run, 0.5),
        ),
        Metric(
            "kl_p90", "90th percentile of KL divergence", "mnat", "lower", "windows",
            lambda row, _: _kl_quantile(row.as_run, 0.9),
        ),
        Metric(
            "kl_p99", "99th percentile of KL divergence", "mnat", "lower", "windows",
            lambda row, _: _kl_quantile(row.as_run, 0.99),
        ),
        *(
            Metric(
                f"kl_confidence_{low:g}_{high:g}", f"KL divergence, reference sure to {low:g}–{high:g}",
                "mnat", "lower", "windows", partial(_kl_of_confidence, low),
            )
            for low, high in pairwise(CONFIDENCES)
        ),
        Metric("top1", "top-1 agreement", "%", "higher", "windows", lambda row, _: _top1(row.as_run)),
        Metric("top5", "top-5 agreement", "%", "higher", "windows", lambda row, _: _top5(row.as_run)),
        Metric("perplexity", "perplexity", "", "lower", "windows", _perplexity),
        Metric("bits_per_byte", "bits a byte", "bit", "lower", "windows", _bits_per_byte),
        Metric("lambada_accuracy", "LAMBADA accuracy", "%", "higher", "lambada", lambada_accuracy),
        Metric("lambada_perplexity", "LAMBADA perplexity", "", "lower", "lambada", lambada_perplexity),
        Metric(
            "bits_per_weight", "bits a weight", "bit", "lower", "size",
            lambda row, _: _exactly(row.bits_per_weight),
        ),
        Metric("disk", "weights on disk", "MB", "lower", "size", lambda row, _: _exactly(row.disk_bytes / 1e6)),
        Metric("prefill", "prefill", "tokens/s", "higher", "latency", prefill_rate),
        Metric("decode", "decode", "ms/token", "lower", "latency", decode_ms),
        Metric(
            "speedup_baseline", "decode speed-up over the baseline", "", "higher", "latency",
            lambda row, results: speedup(row, results.row(results.baseline), results),
        ),
        Metric(
            "speedup", "decode speed-up over the fastest unquantized row", "", "higher", "latency",
            lambda row, results: speedup(row, fastest_unquantized(results), results),
        ),
        Metric("limit_share", "decode speed, of the memory's limit", "%", "higher", "latency", limit_share),
        Metric("load", "load time", "s", "lower", "latency", partial(_per_process, "load")),
        Metric("first_token", "time to first token", "ms", "lower", "latency", partial(_per_process, "first_token")),
        Metric("memory", "peak memory above the libraries'", "MB", "lower", "latency", partial(_per_process, "memory")),
        Metric(
            "device_memory", "peak memory of the GPU", "MB", "lower", "latency", partial(_per_process, "device_memory"),
        ),
    )
}  # fmt: skip
"""Every metric by its key, in the order of a table's columns."""
