"""One thread that generates for all requests, in the order in which they came. So many may wait, and no more."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pythia_quant.artifacts.generator import Generator, Piece, TokenScore, Wish
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.text import redacted
from pythia_quant.serve.metrics import Metrics
from pythia_quant.serve.refusals import Refusal, stopping

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """A choice of a prompt begins. `scores` are those of its prompt, if they were asked for."""

    choice: int
    prompt: int
    scores: list[TokenScore] | None = None


@dataclass(frozen=True)
class Part:
    """A piece of a choice."""

    choice: int
    piece: Piece


@dataclass(frozen=True)
class Done:
    """All choices are complete; `generated` tokens were made, and `reused` of the prompts' were not computed again."""

    generated: int
    reused: int


Event = Begun | Part | Done | Refusal


@dataclass(eq=False)
class Job:
    """A request for the engine.

    Attributes:
        prompts: the tokens of each prompt.
        wish: what is wanted of each choice.
        choices: the choices of each prompt; each has the next seed.
        echo: whether the prompts' own tokens are scored, if log-probabilities are wanted.
        emit: takes the events, in the engine's thread. The last one is :class:`Done` or a refusal.
        cancelled: set by whoever does not want the rest.
    """

    prompts: list[list[int]]
    wish: Wish
    choices: int
    echo: bool
    emit: Callable[[Event], None]
    cancelled: bool = False
    arrived: float = field(default_factory=time.monotonic)


class Engine:
    """The queue and the thread.

    Args:
        generator: the model. Only the engine's thread uses it from now on, its tokenizer excepted.
        limit: how many requests may wait.
        metrics: what is counted.
    """

    def __init__(self, generator: Generator, limit: int, metrics: Metrics) -> None:
        self._generator, self._limit, self._metrics = generator, limit, metrics
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._stopped = False
        metrics.waiting.set_function(lambda: len(self._waiting))
        metrics.running.set_function(lambda: int(self._running is not None))
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._stopped

    def submit(self, job: Job) -> None:
        """Put a request into the queue.

        Raises:
            Refusal: the queue is full, or the server is stopping.
        """
        with self._changed:
            if not self.alive:
                raise stopping()
            self._waiting = deque(one for one in self._waiting if not one.cancelled)
            if len(self._waiting) >= self._limit:
                what = f"{self._limit} requests are waiting already; try again later"
                raise Refusal(429, what, code="queue_full", headers={"Retry-After": "1"})
            self._waiting.append(job)
            self._changed.notify()

    def stop(self) -> None:
        """End all requests now, with an error each, and take no more."""
        with self._changed:
            self._stopped = True
            left = [*self._waiting, *([self._running] if self._running else [])]
            self._waiting.clear()
            self._changed.notify()
        for job in left:
            if not job.cancelled:
                job.cancelled = True
                job.emit(stopping())

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended after :meth:`stop`, so long at most."""
        self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if self._stopped:
                    return
                job = self._running = self._waiting.popleft()
            try:
                if not job.cancelled:
                    self._run(job)
            except PythiaQuantError as error:
                job.emit(Refusal(500, f"the model failed: {error.what}", code="generation_failed"))
            except Exception as error:
                _LOG.exception("a request failed")
                job.emit(Refusal(500, f"the server failed: {redacted(repr(error))[:200]}", code="internal_error"))
            finally:
                self._running = None
                self._metrics.whole.observe(time.monotonic() - job.arrived)
                del job  # its client may be gone: nothing of it is kept

    def _run(self, job: Job) -> None:
        generated = reused = 0
        for number, ids in enumerate(job.prompts):
            self._metrics.prompt.inc(len(ids))
            scored = job.echo and job.wish.alternatives is not None
            scores = self._generator.scores(ids, job.wish.alternatives or 0) if scored else None
            for each in range(job.choices):
                choice, wish = number * job.choices + each, _with_seed(job.wish, each)
                job.emit(Begun(choice, number, scores))
                made = 0
                for piece in self._generator.stream(ids, wish):
                    if job.cancelled:
                        return
                    if not generated and piece.generated:
                        self._metrics.first.observe(time.monotonic() - job.arrived)
                    self._metrics.generated.inc(piece.generated - made)
                    generated, made = generated + piece.generated - made, piece.generated
                    job.emit(Part(choice, piece))
                if wish.count:
                    reused += self._generator.sequence.reused if each == 0 else 0
                    self._metrics.reused.inc(self._generator.sequence.reused)
        job.emit(Done(generated, reused))


def _with_seed(wish: Wish, number: int) -> Wish:
    sampling = replace(wish.sampling, seed=(wish.sampling.seed + number) % 2**64)
    return replace(wish, sampling=sampling)
