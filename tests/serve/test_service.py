"""What completions and chats answer is what the artifact generates, whole and in parts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from serving import Running, running
from shared import linked

from pythia_quant.artifacts.artifact import Artifact, open_artifact


@pytest.fixture(scope="module")
def folder(converted: Path) -> Path:
    return converted / "out/tiny/local/onnx-fp32"


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Artifact:
    return open_artifact(folder)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running(folder) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> OpenAI:
    return OpenAI(base_url=server.url, api_key="none", max_retries=0)


def test_openai_gets_what_generate_gives(client: OpenAI, artifact: Artifact) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    whole = client.completions.create(model="tiny", prompt="abc", max_tokens=20, temperature=0)
    assert whole.choices[0].text == artifact.generate("abc", 20)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (3, 20, 23)
    stream = client.completions.create(
        model="tiny", prompt="abc", max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert len(chunks) > 5
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 20
    with pytest.raises(BadRequestError, match="context is 32 tokens"):
        client.completions.create(model="tiny", prompt="abc", max_tokens=30)
    with pytest.raises(NotFoundError, match="no model 'other' here"):
        client.completions.create(model="other", prompt="abc")
    with pytest.raises(BadRequestError, match="no chat template"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}])


def test_sampling_has_its_seed_and_its_settings(server: Running, artifact: Artifact) -> None:
    settings: dict[str, Any] = {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "seed": 3}
    expected = [artifact.generate("abc", 9, **settings | {"seed": seed}) for seed in (3, 4)]
    answer = server.complete(["abc", "abc"], n=2, max_tokens=9, **settings).data
    assert [choice["text"] for choice in answer["choices"]] == expected * 2
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert expected[0] != expected[1]
    free = {server.complete("abc", temperature=1.5, max_tokens=9).data["choices"][0]["text"] for _ in range(4)}
    assert len(free) > 1, "without a seed, texts differ"


def test_a_stop_string_ends_a_text_in_a_stream_too(server: Running, artifact: Artifact) -> None:
    whole = artifact.generate("abc", 20)
    stop = whole[6:8]
    cut = whole[: whole.index(stop)]
    settings = {"max_tokens": 20, "stop": [stop, "never"], "logprobs": 0}
    (choice,) = server.complete("abc", **settings).data["choices"]
    assert (choice["text"], choice["finish_reason"]) == (cut, "stop")
    assert all(offset < len(cut) for offset in choice["logprobs"]["text_offset"])
    events = server.complete("abc", stream=True, **settings).events
    assert "".join(event["choices"][0]["text"] for event in events) == cut
    assert [event["choices"][0]["finish_reason"] for event in events][-2:] == [None, "stop"]
    counted = server.complete("abc", stream=True, max_tokens=5, stream_options={"continuous_usage_stats": True}).events
    assert [event["usage"]["completion_tokens"] for event in counted][-1] == 5


def test_echo_and_log_probabilities_are_those_of_the_logits(server: Running, artifact: Artifact) -> None:
    tokens = artifact.encode("an eval")[0].tolist()
    answer = server.complete([tokens], max_tokens=1, echo=True, logprobs=3).data["choices"][0]
    assert answer["text"].startswith("an eval")
    found = answer["logprobs"]
    expected = artifact.logits(artifact.encode("an eval"))[0].double().log_softmax(-1)
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    scores = [float(expected[at, token]) for at, token in enumerate(tokens[1:])]
    np.testing.assert_allclose(found["token_logprobs"][1:-1], scores, rtol=1e-6)
    assert "".join(found["tokens"][:7]) == "an eval"
    assert found["text_offset"][:7] == list(range(7))
    for at, likeliest in enumerate(found["top_logprobs"][1:]):
        assert max(likeliest.values()) == pytest.approx(float(expected[at].max()), rel=1e-6)
        assert len(likeliest) in (3, 4)
    only = server.complete("an eval", max_tokens=0, echo=True).data
    assert (only["choices"][0]["text"], only["usage"]["completion_tokens"]) == ("an eval", 0)
    streamed = server.complete("an eval", max_tokens=1, echo=True, logprobs=3, stream=True).events
    assert "".join(event["choices"][0]["text"] for event in streamed) == answer["text"]
    joined = [value for event in streamed for value in event["choices"][0]["logprobs"]["token_logprobs"]]
    assert joined == found["token_logprobs"]


def test_no_event_holds_half_a_character_and_bytes_have_names(server: Running) -> None:
    events = server.complete("é", max_tokens=12, logprobs=0, stream=True, temperature=3, seed=1).events
    text = "".join(event["choices"][0]["text"] for event in events)
    assert text == server.complete("é", max_tokens=12, temperature=3, seed=1).data["choices"][0]["text"]
    names = [name for event in events for name in event["choices"][0]["logprobs"]["tokens"]]
    assert any(name.startswith("bytes:\\x") for name in names)


def test_requests_at_once_are_not_mixed_up(server: Running, artifact: Artifact) -> None:
    prompts = ["abc", "abd", "an even eval", "x", "é", "abc abc"]
    expected = {prompt: artifact.generate(prompt, 12) for prompt in prompts}
    wrong: list[str] = []

    def ask(number: int) -> None:
        prompt = prompts[number % 6]
        answer = server.complete(prompt, max_tokens=12, stream=number % 2 == 0)
        choices = answer.events if number % 2 == 0 else [answer.data]
        text = "".join(part["choices"][0]["text"] for part in choices)
        wrong.extend([text] if text != expected[prompt] else [])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_a_prompt_that_is_known_is_not_computed_again(server: Running) -> None:
    details = [
        server.complete("what is known", max_tokens=2).data["usage"]["prompt_tokens_details"]["cached_tokens"]
        for _ in range(2)
    ]
    assert details == [0, 13]
    assert server.metric("prompt_tokens_reused_total") >= 13


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


def test_chats_are_answered_where_the_artifact_has_a_template(folder: Path, tmp_path: Path) -> None:
    linked(folder, tmp_path / "chat")
    (tmp_path / "chat/chat_template.jinja").write_text(TEMPLATE)
    expected = open_artifact(folder).generate("<user>hi<a>", 8)
    with running(tmp_path / "chat") as server:
        client = OpenAI(base_url=server.url, api_key="none", max_retries=0)
        messages: Any = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
        answer = client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2
        )
        assert answer.choices[0].message.content == expected
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].logprobs
        assert len(answer.choices[0].logprobs.content or []) == 8
        chunks = client.chat.completions.create(
            model="tiny", messages=messages, max_completion_tokens=8, temperature=0, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
        refused = server.ask("/v1/chat/completions", {"messages": [{"role": "user"}]})
        assert (refused.status, refused.data["error"]["param"]) == (400, "messages")
    shutil.rmtree(tmp_path / "chat")
