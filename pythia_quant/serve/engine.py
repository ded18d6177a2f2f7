"""One thread that generates for all requests, in the order in which they came. So many may wait, and no more."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace

from pythia_quant.artifacts.pieces import Piece, TokenScore, Wish
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.text import redacted
from pythia_quant.serve.metrics import Metrics
from pythia_quant.serve.model import RETRY_SECONDS, Model
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
        model: the model. Only the engine's thread uses it from now on.
        limit: how many requests may wait.
        metrics: what is counted.

    Attributes:
        trouble: why there is no model now; None if there is one.
    """

    def __init__(self, model: Model, limit: int, metrics: Metrics) -> None:
        self._model, self._limit, self._metrics = model, limit, metrics
        self.trouble: Refusal | None = None
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
            self._restore()
            with self._changed:
                patience = RETRY_SECONDS if self.trouble else None
                self._changed.wait_for(lambda: self._waiting or self._stopped, patience)
                if self._stopped:
                    return
                if not self._waiting:
                    continue
                job = self._running = self._waiting.popleft()
            self._answer(job)
            del job  # its client may be gone: nothing of it is kept

    def _restore(self) -> None:
        try:
            self._model.restore()
            self.trouble = None
        except Refusal as refusal:
            self.trouble = refusal
        except Exception as error:
            _LOG.exception("the model cannot be loaded")
            self.trouble = Refusal(503, f"the model cannot be loaded: {redacted(repr(error))[:200]}", code="model_lost")

    def _answer(self, job: Job) -> None:
        try:
            self._restore()  # it may have been lost since the request before
            if self.trouble:
                raise self.trouble
            if not job.cancelled:
                self._run(job)
        except Refusal as refusal:
            self.trouble = refusal
            job.emit(refusal)
        except PythiaQuantError as error:
            job.emit(Refusal(500, f"the model failed: {error.what}", code="generation_failed"))
        except Exception as error:
            _LOG.exception("a request failed")
            job.emit(Refusal(500, f"the server failed: {redacted(repr(error))[:200]}", code="internal_error"))
        finally:
            self._running = None
            self._metrics.whole.observe(time.monotonic() - job.arrived)

    def _run(self, job: Job) -> None:
        generated = reused = 0
        for number, ids in enumerate(job.prompts):
            self._metrics.prompt.inc(len(ids))
            scored = job.echo and job.wish.alternatives is not None
            scores = self._model.scores(ids, job.wish.alternatives or 0) if scored else None
            for each in range(job.choices):
                choice, wish = number * job.choices + each, _with_seed(job.wish, each)
                job.emit(Begun(choice, number, scores))
                made = 0
                with closing(self._model.stream(ids, wish)) as pieces:
                    for piece in pieces:
                        if job.cancelled:
                            return
                        if not generated and piece.generated:
                            self._metrics.first.observe(time.monotonic() - job.arrived)
                        self._metrics.generated.inc(piece.generated - made)
                        generated, made = generated + piece.generated - made, piece.generated
                        job.emit(Part(choice, piece))
                if wish.count:
                    reused += self._model.reused if each == 0 else 0
                    self._metrics.reused.inc(self._model.reused)
        job.emit(Done(generated, reused))


def _with_seed(wish: Wish, number: int) -> Wish:
    sampling = replace(wish.sampling, seed=(wish.sampling.seed + number) % 2**64)
    return replace(wish, sampling=sampling)
