from pathlib import Path

from pythia_quant.model.published import evaluations, gptq_perplexities
from pythia_quant.model.suite import find


def test_published_numbers_are_of_members_of_the_suite() -> None:
    assert len(evaluations()) == 8 + 8
    assert len(gptq_perplexities()) == 7
    for name in (*evaluations(), *gptq_perplexities()):
        member = find(name)
        assert member is not None
        assert member.repo_id == name


def test_values_are_read_as_they_stand() -> None:
    found = evaluations()["EleutherAI/pythia-1b"]
    assert (found.lambada_perplexity, found.lambada_perplexity_error) == (7.916, 0.212)
    assert found.accuracy == {
        "lambada_openai": 0.562, "piqa": 0.7073, "winogrande": 0.5367, "arc_easy": 0.5694, "arc_challenge": 0.244,
        "sciq": 0.84, "logiqa": 0.2227, "wsc": 0.3654,
    }  # fmt: skip
    assert gptq_perplexities()["EleutherAI/pythia-70m"].unquantized is None
    assert gptq_perplexities()["EleutherAI/pythia-160m"].gptq == 33.4375
    assert all(0 < share < 1 for one in evaluations().values() for share in one.accuracy.values())


def test_the_page_on_studies_has_the_published_perplexities() -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    for name, published in gptq_perplexities().items():
        unquantized = "–" if published.unquantized is None else published.unquantized
        assert f"| {name.rpartition('/')[2]} | {unquantized} | {published.gptq} |" in page
