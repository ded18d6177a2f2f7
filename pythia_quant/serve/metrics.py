"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The metrics of one server. Names begin with ``pythia_quant_``."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        prefix = "pythia_quant_"
        self.requests = Counter(f"{prefix}requests", "Requests by status.", ["path", "status"], registry=registry)
        self.waiting = Gauge(f"{prefix}requests_waiting", "Requests that wait for the model.", registry=registry)
        self.running = Gauge(f"{prefix}requests_running", "Requests that the model works on.", registry=registry)
        self.cancelled = Counter(f"{prefix}requests_cancelled", "Requests whose client went away.", registry=registry)
        self.prompt = Counter(f"{prefix}prompt_tokens", "Tokens of prompts.", registry=registry)
        self.reused = Counter(
            f"{prefix}prompt_tokens_reused", "Tokens of prompts that were not computed again.", registry=registry
        )
        self.generated = Counter(f"{prefix}generated_tokens", "Tokens that were generated.", registry=registry)
        self.first = Histogram(
            f"{prefix}time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.whole = Histogram(
            f"{prefix}request_seconds", "From a request's arrival to its end.", registry=registry, buckets=_SECONDS
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
